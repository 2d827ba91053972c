//! Images of containers: found here or pulled, by policy, and the events that tell of it.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::image::Image;
use tokio::time::Instant;

use crate::credential::Credential;
use crate::events::{Level, Recorder};
use crate::machine::{ImageError, Images};
use crate::worker::state::ImageFacts;

/// How long a registry has to accept a connection when the image is here already.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why a container has no image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoImage {
    /// Reason of the waiting state.
    pub reason: &'static str,
    /// Message of the waiting state.
    pub message: String,
    /// Whether another attempt makes sense after a while.
    pub retry: bool,
}

/// Finds or pulls the image of a container.
pub async fn ensure(
    images: &Arc<dyn Images>,
    recorder: &Recorder,
    pod: &Pod,
    container: &Container,
    credentials: &[Credential],
) -> Result<Image, NoImage> {
    let name = &container.name;
    let image = container.image.clone().unwrap_or_default();
    let event = |level, reason: &str, message: String| {
        recorder.container(pod, name, level, reason, message);
    };
    let full = match images.normalize(&image) {
        Ok(full) => full,
        Err(error) => {
            let message = format!("Failed to apply default image tag \"{image}\": {error}");
            event(Level::Warning, "InspectFailed", message.clone());
            event(Level::Warning, "Failed", "Error: InvalidImageName".into());
            return Err(NoImage { reason: "InvalidImageName", message, retry: false });
        }
    };
    let present = images.find(&full).await;
    let policy = policy(container, &full);
    let present = match (policy, present) {
        ("Never" | "IfNotPresent", Some(found)) => {
            let message = format!("Container image \"{image}\" already present on machine");
            event(Level::Normal, "Pulled", message);
            return Ok(found);
        }
        ("Never", None) => {
            let message =
                format!("Container image \"{image}\" is not present with pull policy of Never");
            event(Level::Warning, "ErrImageNeverPull", message.clone());
            event(Level::Warning, "Failed", "Error: ErrImageNeverPull".into());
            return Err(NoImage { reason: "ErrImageNeverPull", message, retry: false });
        }
        (_, present) => present,
    };
    event(Level::Normal, "Pulling", format!("Pulling image \"{image}\""));
    let begun = Instant::now();
    let patience = present.is_some().then_some(PATIENCE);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    match images.pull(namespace, &full, credentials, patience).await {
        Ok(pulled) => {
            let (took, waited) = (go_seconds(pulled.took), go_seconds(begun.elapsed()));
            let message = format!(
                "Successfully pulled image \"{image}\" in {took} ({waited} including waiting). \
                 Image size: {} bytes.",
                pulled.image.size_bytes
            );
            event(Level::Normal, "Pulled", message);
            Ok(pulled.image)
        }
        Err(ImageError::Unreachable(why)) if present.is_some() => {
            let message = format!(
                "No registry could be reached for image \"{image}\"; starting the copy that is \
                 present on this machine ({why})"
            );
            event(Level::Warning, "RegistryUnreachable", message);
            present.ok_or_else(|| NoImage {
                reason: "ErrImagePull",
                message: String::new(),
                retry: true,
            })
        }
        Err(error) => {
            let message = error.to_string();
            event(Level::Warning, "Failed", format!("Failed to pull image \"{image}\": {message}"));
            event(Level::Warning, "Failed", "Error: ErrImagePull".into());
            Err(NoImage { reason: "ErrImagePull", message, retry: true })
        }
    }
}

/// The policy of the container, defaulted from the tag.
fn policy<'a>(container: &'a Container, full: &str) -> &'a str {
    match container.image_pull_policy.as_deref().filter(|policy| !policy.is_empty()) {
        Some(policy) => policy,
        None if full.ends_with(":latest") => "Always",
        None => "IfNotPresent",
    }
}

/// What status shows of an image that a container was given under a name.
pub fn facts(image: &Image, asked: &str) -> ImageFacts {
    let name = image.tags.first().or(image.digests.first()).cloned();
    let matching = image.tags.iter().chain(&image.digests).find(|name| name.ends_with(asked));
    ImageFacts {
        name: matching.cloned().or(name).unwrap_or_else(|| asked.to_owned()),
        id: image.digests.first().cloned().unwrap_or_else(|| image.id.clone()),
    }
}

/// As Go prints durations of seconds and milliseconds: `1.234s`, `15ms`.
fn go_seconds(duration: Duration) -> String {
    let milliseconds = duration.as_millis();
    if milliseconds < 1000 {
        return format!("{milliseconds}ms");
    }
    let text = format!("{}.{:03}", milliseconds / 1000, milliseconds % 1000);
    format!("{}s", text.trim_end_matches('0').trim_end_matches('.'))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(go_seconds(Duration::from_millis(1234)), "1.234s");
        assert_eq!(go_seconds(Duration::from_millis(1500)), "1.5s");
        assert_eq!(go_seconds(Duration::from_millis(15)), "15ms");
    }
}
