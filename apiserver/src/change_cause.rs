//! A documented deviation from upstream: `kubectl set image` without `--record`, on a Deployment
//! that records its change-causes, gets its own change-cause instead of leaving the stale one.

use serde_json::Value;

use crate::call::Call;

const CHANGE_CAUSE: &str = "kubernetes.io/change-cause";
/// kubectl names its subcommand in this header.
const COMMAND_HEADER: &str = "kubectl-command";

/// Rewrites the change-cause of a patched Deployment if the patch is a bare `kubectl set image`.
pub(crate) fn reconstruct(call: &Call<'_>, patch: &Value, old: &Value, patched: &mut Value) {
    let command = call.headers.get(COMMAND_HEADER).and_then(|h| h.to_str().ok());
    let applies = call.server.config.reconstruct_change_cause
        && call.stored_as().kind == "Deployment"
        && command == Some("kubectl set image")
        && old["metadata"]["annotations"][CHANGE_CAUSE].is_string();
    if !applies {
        return;
    }
    if let Some(cause) = cause(patch, &call.info.name) {
        patched["metadata"]["annotations"][CHANGE_CAUSE] = cause.into();
    }
}

/// The command line that makes this patch, if it changes images and records no cause itself.
fn cause(patch: &Value, name: &str) -> Option<String> {
    if !patch["metadata"]["annotations"][CHANGE_CAUSE].is_null() {
        return None;
    }
    let spec = &patch["spec"]["template"]["spec"];
    let lists = [&spec["initContainers"], &spec["containers"]];
    let images: Vec<String> = lists
        .iter()
        .filter_map(|list| list.as_array())
        .flatten()
        .filter_map(|c| Some(format!(" {}={}", c["name"].as_str()?, c["image"].as_str()?)))
        .collect();
    (!images.is_empty()).then(|| format!("kubectl set image deployment/{name}{}", images.concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_command_is_read_off_the_patch() {
        let patch = json!({"spec": {"template": {"spec": {
            "$setElementOrder/containers": [{"name": "nginx"}],
            "containers": [{"name": "nginx", "image": "nginx:1.9.1"}],
        }}}});
        assert_eq!(
            cause(&patch, "nginx-deployment").as_deref(),
            Some("kubectl set image deployment/nginx-deployment nginx=nginx:1.9.1")
        );
        let mut recorded = patch.clone();
        recorded["metadata"]["annotations"][CHANGE_CAUSE] = "mine".into();
        assert_eq!(cause(&recorded, "d"), None);
        assert_eq!(cause(&json!({"spec": {"replicas": 2}}), "d"), None);
    }
}
