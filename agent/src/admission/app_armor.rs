//! Refuses pods that want an AppArmor profile which they would not get.
//!
//! No profile is ever loaded or applied here. A pod that names one (`Localhost`) must not run as if
//! it were confined by it. `RuntimeDefault` is what pods get that say nothing: here no profile, so
//! it is refused only where upstream refuses it, on a machine without AppArmor. What counts as
//! asking, reason and words are those of upstream's `pkg/security/apparmor`.

use k8s_openapi::api::core::v1::{AppArmorProfile, Pod};

use crate::worker::state::{Failure, containers};

/// Followed by the name of a container.
const ANNOTATION: &str = "container.apparmor.security.beta.kubernetes.io/";

/// Says `Y` where the kernel enforces profiles; is not there where it cannot.
const ENABLED: &str = "/sys/module/apparmor/parameters/enabled";

/// Whether this machine has AppArmor.
pub fn is_enabled() -> bool {
    std::fs::read_to_string(ENABLED).is_ok_and(|text| text.starts_with('Y'))
}

/// Why a pod is refused that wants a profile, on a machine where AppArmor is `enabled` or not.
pub fn refusal(pod: &Pod, enabled: impl FnOnce() -> bool) -> Option<Failure> {
    let wanted = wanted(pod);
    let why = match wanted.is_empty() || enabled() {
        false => "AppArmor is not enabled on the host",
        true if wanted.contains(&Wanted::Named) => {
            "profiles are not supported by the container runtime"
        }
        true => return None,
    };
    Some(Failure { reason: "AppArmor".into(), message: format!("Cannot enforce AppArmor: {why}") })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wanted {
    /// The runtime's own profile.
    Default,
    /// One that somebody has loaded.
    Named,
}

/// Every profile that is asked for, even one that every container has its own word against.
fn wanted(pod: &Pod) -> Vec<Wanted> {
    let by_field = |profile: &AppArmorProfile| match profile.type_.as_str() {
        "Unconfined" => None,
        "RuntimeDefault" => Some(Wanted::Default),
        _ => Some(Wanted::Named),
    };
    let by_annotation = |text: &str| match text {
        "unconfined" => None,
        "runtime/default" => Some(Wanted::Default),
        _ => Some(Wanted::Named),
    };
    let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let of_pod = of_pod.and_then(|context| context.app_armor_profile.as_ref());
    let containers = containers(pod);
    let of_containers = containers.iter().filter_map(|(_, container)| {
        container.security_context.as_ref()?.app_armor_profile.as_ref()
    });
    let annotations = pod.metadata.annotations.iter().flatten();
    let annotated = annotations.filter(|(key, _)| key.starts_with(ANNOTATION));
    let fields = of_pod.into_iter().chain(of_containers).filter_map(by_field);
    fields.chain(annotated.filter_map(|(_, text)| by_annotation(text))).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::{Value, json};

    fn refused(pod: &Value, enabled: bool) -> Option<String> {
        let failure = refusal(&serde_json::from_value(pod.clone()).unwrap(), || enabled)?;
        assert_eq!(failure.reason, "AppArmor");
        Some(failure.message)
    }

    fn profile(of: &str) -> Value {
        json!({"appArmorProfile": {"type": of, "localhostProfile": "p"}})
    }

    #[test]
    fn who_would_not_get_a_profile_is_refused() {
        let annotated = |value: &str| {
            json!({"metadata": {"annotations": {format!("{ANNOTATION}c"): value}},
                "spec": {"containers": [{"name": "c"}]}})
        };
        let of_pod = |of: &str| json!({"spec": {"containers": [], "securityContext": profile(of)}});
        let of_container = |kind: &str, of: &str| {
            let mut pod = json!({"spec": {"containers": []}});
            pod["spec"][kind] = json!([{"name": "c", "securityContext": profile(of)}]);
            pod
        };
        let [nothing, default, named] = [(false, false), (true, false), (true, true)];
        for (pod, (asked, by_name)) in [
            (json!({"spec": {"containers": [{"name": "c", "securityContext": {}}]}}), nothing),
            (of_pod("Unconfined"), nothing),
            (of_pod("RuntimeDefault"), default),
            (of_pod("Localhost"), named),
            (of_container("containers", "Unconfined"), nothing),
            (of_container("containers", "RuntimeDefault"), default),
            (of_container("initContainers", "Localhost"), named),
            (of_container("ephemeralContainers", "Localhost"), named),
            (annotated("unconfined"), nothing),
            (annotated("runtime/default"), default),
            (annotated("localhost/p"), named),
        ] {
            let none = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
            assert_eq!(refused(&pod, false).as_deref(), asked.then_some(none), "{pod}");
            let some =
                "Cannot enforce AppArmor: profiles are not supported by the container runtime";
            assert_eq!(refused(&pod, true).as_deref(), by_name.then_some(some), "{pod}");
        }
    }
}
