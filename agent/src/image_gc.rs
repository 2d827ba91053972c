//! Removes images that no container uses when their disk fills up, those unused longest first.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use runtime::image::ImageSummary;
use tokio::time::Instant;

use crate::config::AgentConfig;
use crate::events::{Level, Recorder};
use crate::node::Node;
use crate::pressure::signal::Observation;

/// When images were last wanted by a container.
#[derive(Default)]
pub struct ImageUses(Mutex<HashMap<String, Instant>>);

impl ImageUses {
    /// Somebody wants this image now.
    pub fn touch(&self, id: &str) {
        self.lock().insert(id.to_owned(), Instant::now());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The images that may go, unused longest first; last of all those that were put here by hand,
    /// for which no registry has a digest, since they cannot be fetched again. An image seen for the first time counts as
    /// used now.
    fn candidates(
        &self,
        images: &[ImageSummary],
        used: &HashSet<String>,
        min_age: Duration,
        now: Instant,
    ) -> Vec<ImageSummary> {
        let mut uses = self.lock();
        let ids: HashSet<&String> = images.iter().map(|image| &image.id).collect();
        uses.retain(|id, _| ids.contains(id));
        let mut found = Vec::new();
        for image in images {
            let last = *uses.entry(image.id.clone()).or_insert(now);
            let names = image.tags.iter().chain(&image.digests).chain([&image.id]);
            if names.into_iter().any(|name| used.contains(name)) {
                uses.insert(image.id.clone(), now);
            } else if now.saturating_duration_since(last) >= min_age {
                found.push((image.digests.is_empty(), last, image.clone()));
            }
        }
        found.sort_by_key(|(by_hand, last, _)| (*by_hand, *last));
        found.into_iter().map(|(_, _, image)| image).collect()
    }
}

/// Notices which images there are, so that their age is known when space is needed.
pub async fn notice(node: &Node) {
    let images = node.machine.images.list().await;
    let min_age = node.config.image_gc_min_age;
    node.image_uses.candidates(&images, &node.directory.images(), min_age, Instant::now());
}

/// Whether the disk of images is so full that some have to go.
pub fn is_due(config: &AgentConfig, seen: &Observation) -> bool {
    percent_used(seen) > u64::from(config.image_gc_high_percent)
        && seen.imagefs.available < config.image_gc_enough_bytes
}

/// Removes images until the disk is no fuller than it should be; returns how many went.
pub async fn collect(node: &Node, recorder: &Recorder) -> usize {
    let low = u64::from(node.config.image_gc_low_percent);
    let enough = node.config.image_gc_enough_bytes;
    remove(node, recorder, |seen| percent_used(seen) <= low || seen.imagefs.available >= enough)
        .await
}

/// Removes every image that is not used.
pub async fn remove_unused(node: &Node, recorder: &Recorder) -> usize {
    remove(node, recorder, |_| false).await
}

async fn remove(node: &Node, recorder: &Recorder, enough: impl Fn(&Observation) -> bool) -> usize {
    let images = node.machine.images.list().await;
    let used = node.directory.images();
    let mut removed = 0;
    let min_age = node.config.image_gc_min_age;
    for image in node.image_uses.candidates(&images, &used, min_age, Instant::now()) {
        if enough(&observe(&node.config.data_dir)) {
            break;
        }
        match node.machine.images.remove(&image.id).await {
            Ok(()) => {
                removed += 1;
                let name = image.tags.first().unwrap_or(&image.id);
                tracing::info!(image = %name, bytes = image.size_bytes, "removed an unused image");
            }
            Err(error) => {
                let message = format!("Failed to remove image {}: {error}", image.id);
                let object = crate::registration::reference(node);
                recorder.record(object, Level::Warning, "ImageGCFailed", message);
            }
        }
    }
    removed
}

/// Looks at the disk of images.
pub fn observe(data_dir: &Path) -> Observation {
    Observation::take(data_dir, &data_dir.join("images"))
}

/// How full the disk of images is.
pub fn percent_used(seen: &Observation) -> u64 {
    let level = seen.imagefs;
    if level.capacity == 0 {
        return 0;
    }
    100 - u64::try_from(u128::from(level.available) * 100 / u128::from(level.capacity))
        .unwrap_or(100)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, tag: &str) -> ImageSummary {
        ImageSummary { id: id.into(), tags: vec![tag.into()], digests: Vec::new(), size_bytes: 1 }
    }

    #[test]
    fn unused_longest_goes_first_and_the_new_stay() {
        let uses = ImageUses::default();
        const MIN_AGE: Duration = Duration::from_secs(120);
        let start = Instant::now();
        let images = [image("a", "a:1"), image("b", "b:1"), image("c", "c:1")];
        let ids = |found: Vec<ImageSummary>| found.into_iter().map(|i| i.id).collect::<Vec<_>>();
        let none = HashSet::new();
        assert!(uses.candidates(&images, &none, MIN_AGE, start).is_empty());
        // One is used for a while longer.
        let later = start + MIN_AGE / 2;
        assert!(
            uses.candidates(&images, &HashSet::from(["a:1".to_owned()]), MIN_AGE, later).is_empty()
        );
        let much_later = start + MIN_AGE * 2;
        let in_use = HashSet::from(["b".to_owned()]);
        assert_eq!(ids(uses.candidates(&images, &in_use, MIN_AGE, much_later)), ["c", "a"]);
        assert_eq!(ids(uses.candidates(&images, &none, MIN_AGE, much_later)), ["c", "a"]);
    }
}
