//! The audit log and the warnings, as kubectl and the administrator see them.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::os::unix::fs::PermissionsExt;

use coracle_integration::{Node, NodeOptions, eventually, privileged};
use serde_json::{Value, json};

const POLICY: &str = r#"
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: None, userGroups: ["system:serviceaccounts", "system:nodes"]}
- {level: None, users: ["system:kube-controller-manager", "system:kube-scheduler", "system:kube-proxy"]}
- level: Metadata
  resources: [{group: "", resources: [secrets]}]
- level: RequestResponse
  namespaces: [default]
  resources: [{group: "", resources: [configmaps, pods/exec, pods]}]
"#;

const POLICY_OBJECT: &str = r#"
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny}
spec: {podSelector: {}, policyTypes: [Ingress]}
"#;

#[test]
fn requests_of_kubectl_are_recorded() {
    if !privileged() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (policy, log) =
        (directory.path().join("policy.yaml"), directory.path().join("log/audit.log"));
    std::fs::write(&policy, POLICY).unwrap();
    let arguments = vec![
        format!("--audit-policy-file={}", policy.display()),
        format!("--audit-log-path={}", log.display()),
    ];
    let node = Node::start_with(NodeOptions { arguments, ..NodeOptions::default() });
    let kubectl = node.any_kubectl();

    let warned = kubectl.run_with_input(&["apply", "-f", "-"], POLICY_OBJECT);
    assert_eq!(warned.code, 0, "{}", warned.stderr);
    let text = "Warning: networking.k8s.io/v1 NetworkPolicy: not enforced by coracle: traffic flows as if this policy \
                did not exist";
    assert!(warned.stderr.contains(text), "{}", warned.stderr);

    kubectl.ok(&["create", "configmap", "c", "--from-literal=a=b"]);
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=password=hunter2"]);
    kubectl.ok(&["get", "secret", "s", "-o", "yaml"]);
    kubectl.fails(&["get", "configmap", "none"]);
    kubectl.fails(&["get", "configmaps", "--as=jane"]);
    kubectl.ok(&[
        "run",
        "p",
        "--image=busybox",
        "--image-pull-policy=IfNotPresent",
        "--",
        "sleep",
        "1000",
    ]);
    kubectl.ready("p");
    assert_eq!(kubectl.ok(&["exec", "p", "--", "echo", "hello"]), "hello\n");

    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);
    let events = || -> Vec<Value> {
        let text = std::fs::read_to_string(&log).unwrap();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    };
    let find = |verb: &str, resource: &str, name: &str, subresource: Option<&str>| {
        eventually(30, &format!("{verb} {resource} {name} is recorded"), || {
            let subresource = subresource.map_or(Value::Null, |name| json!(name));
            events().into_iter().find(|event| {
                let about = &event["objectRef"];
                event["verb"] == verb
                    && about["resource"] == resource
                    && about["name"].as_str().unwrap_or_default() == name
                    && about["subresource"] == subresource
            })
        })
    };
    let made = find("create", "configmaps", "c", None);
    assert_eq!(made["stage"], "ResponseComplete");
    assert_eq!(made["requestObject"]["data"], json!({"a": "b"}));
    assert_eq!(made["responseObject"]["data"], json!({"a": "b"}));
    assert_eq!(made["responseStatus"], json!({"metadata": {}, "code": 201}));
    assert_eq!(made["user"]["username"], "kubernetes-admin");
    assert_eq!(made["sourceIPs"], json!(["127.0.0.1"]));
    assert!(made["userAgent"].as_str().unwrap().starts_with("kubectl"), "{made}");
    assert_eq!(made["annotations"]["authorization.k8s.io/decision"], "allow");
    assert_eq!(find("get", "configmaps", "none", None)["responseStatus"]["reason"], "NotFound");
    let refused = find("list", "configmaps", "", None);
    assert_eq!(refused["impersonatedUser"]["username"], "jane");
    assert_eq!(refused["annotations"]["authorization.k8s.io/decision"], "forbid");
    let secret = find("get", "secrets", "s", None);
    assert_eq!((&secret["level"], &secret["responseObject"]), (&json!("Metadata"), &Value::Null));
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        !text.contains("hunter2") && !text.contains("aHVudGVyMg"),
        "a Secret's contents are recorded"
    );
    let exec = eventually(30, "exec is recorded", || {
        events().into_iter().find(|event| event["objectRef"]["subresource"] == "exec")
    });
    assert_eq!(exec["stage"], "ResponseStarted");
    assert_eq!(exec["responseStatus"]["code"], 101);
    assert!(exec["requestURI"].as_str().unwrap().contains("command=echo&command=hello"), "{exec}");
}
