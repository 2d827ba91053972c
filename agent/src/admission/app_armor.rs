//! Refuses pods that want an AppArmor profile: none is ever applied here, and who asks to be
//! confined must not run as if it were.
//!
//! That goes for `RuntimeDefault` too, on machines with AppArmor as on others: there is no profile
//! that the runtime would have as its default, and nothing at all is not what the pod asks for. Who
//! can do without writes `Unconfined`, or nothing. What counts as asking, reason and words are
//! those of upstream's `pkg/security/apparmor`.

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
    is_wanted(pod).then(|| {
        let why = match enabled() {
            true => "profiles are not supported by the container runtime",
            false => "AppArmor is not enabled on the host",
        };
        Failure { reason: "AppArmor".into(), message: format!("Cannot enforce AppArmor: {why}") }
    })
}

/// Whether a profile is named anywhere, even one that every container has its own word against.
fn is_wanted(pod: &Pod) -> bool {
    let confines = |profile: &Option<AppArmorProfile>| {
        profile.as_ref().is_some_and(|p| p.type_ != "Unconfined")
    };
    let context = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
    let annotations = pod.metadata.annotations.iter().flatten();
    context.is_some_and(|context| confines(&context.app_armor_profile))
        || containers(pod).iter().any(|(_, container)| {
            let context = container.security_context.as_ref();
            context.is_some_and(|context| confines(&context.app_armor_profile))
        })
        || annotations
            .filter(|(key, _)| key.starts_with(ANNOTATION))
            .any(|(_, profile)| profile != "unconfined")
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
    fn who_wants_a_profile_is_refused() {
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
        for (pod, wanted) in [
            (json!({"spec": {"containers": [{"name": "c", "securityContext": {}}]}}), false),
            (of_pod("Unconfined"), false),
            (of_pod("RuntimeDefault"), true),
            (of_pod("Localhost"), true),
            (of_container("containers", "Unconfined"), false),
            (of_container("containers", "RuntimeDefault"), true),
            (of_container("initContainers", "Localhost"), true),
            (of_container("ephemeralContainers", "Localhost"), true),
            (annotated("unconfined"), false),
            (annotated("runtime/default"), true),
            (annotated("localhost/p"), true),
        ] {
            let none = "Cannot enforce AppArmor: AppArmor is not enabled on the host";
            assert_eq!(refused(&pod, false).as_deref(), wanted.then_some(none), "{pod}");
            let some =
                "Cannot enforce AppArmor: profiles are not supported by the container runtime";
            assert_eq!(refused(&pod, true).as_deref(), wanted.then_some(some), "{pod}");
        }
    }
}
