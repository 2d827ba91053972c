//! A node with a tenant who owns one namespace, and a pod of another namespace.

use std::path::PathBuf;

use coracle_integration::manifest::sleeper;
use coracle_integration::skip::skip;
use coracle_integration::{
    Confinement, Kubectl, Neighbour, Node, NodeOptions, eventually, on_path, privileged,
};
use serde_json::{Value, json};

/// The tenant's namespace.
pub const TENANT: &str = "tenant";
/// The bystander's file that no other pod may change.
const MARK: &str = "/tmp/mark";

/// A confined node, its administrator, and a tenant.
pub struct Ground {
    /// Ends before the node does.
    _neighbour: Option<Neighbour>,
    pub node: Node,
    pub admin: Kubectl,
    /// `cluster-admin` by a RoleBinding in the namespace [`TENANT`]: its owner, and nothing else.
    pub tenant: Kubectl,
    pid: u32,
    bystander: Value,
}

impl Ground {
    /// Starts the node of a test whose clients are Python scripts; returns `None` if the test is
    /// skipped.
    pub fn for_scripts(reason_to_skip: &str) -> Option<Self> {
        if !privileged() {
            return None;
        }
        if on_path("python3").is_none() {
            skip(reason_to_skip, "python3");
            return None;
        }
        Some(Self::new())
    }

    pub fn new() -> Self {
        let confinement = Confinement { memory_bytes: 512 << 20, open_files: 1024 };
        let options = NodeOptions { confinement: Some(confinement), ..NodeOptions::default() };
        let node = Node::start_with(options);
        let admin = node.any_kubectl();
        admin.ok(&["create", "namespace", TENANT]);
        admin.ok(&["--namespace", TENANT, "create", "serviceaccount", "owner"]);
        let subject = format!("--serviceaccount={TENANT}:owner");
        let role = "--clusterrole=cluster-admin";
        admin.ok(&["--namespace", TENANT, "create", "rolebinding", "owner", role, &subject]);
        admin.apply(&sleeper("bystander", json!({})).to_string());
        admin.ready("bystander");
        let write = format!("echo intact > {MARK}");
        admin.ok(&["exec", "bystander", "--", "sh", "-c", &write]);
        let tenant = tenant(&node, &admin);
        let bystander = Value::Null;
        let _neighbour = Neighbour::of(&node);
        let mut ground = Self { _neighbour, pid: node.pid(), node, admin, tenant, bystander };
        ground.bystander = ground.look();
        ground
    }

    /// Creates a pod in the tenant's namespace that runs a shell script, with `spec` laid over it.
    pub fn pod(&self, name: &str, script: &str, spec: Value) {
        let mut pod = sleeper(name, spec);
        pod["spec"]["containers"][0]["command"] = json!(["sh", "-c", script]);
        self.create(&pod);
    }

    /// Creates an object as the tenant.
    pub fn create(&self, object: &Value) {
        let output = self.tenant.run_with_input(&["create", "-f", "-"], &object.to_string());
        assert!(output.code == 0, "{}", output.stderr);
    }

    /// Deletes a pod of the tenant and waits for its end.
    pub fn delete(&self, pod: &str) {
        self.tenant.ok(&["delete", "pod", pod, "--timeout=120s"]);
    }

    /// Waits until the tenant's only container in this pod waits with that reason; returns its message.
    pub fn waits(&self, pod: &str, reason: &str) -> String {
        eventually(60, &format!("{pod} waits: {reason}"), || {
            let pod = self.tenant.json(&["pod", pod]);
            let waiting = &pod["status"]["containerStatuses"][0]["state"]["waiting"];
            (waiting["reason"] == reason).then(|| waiting["message"].as_str().map(str::to_owned))
        })
        .unwrap_or_default()
    }

    /// Asserts that the node is the same process and answers, and that the bystander is untouched.
    pub fn is_sound(&self, after: &str) {
        let alive = std::fs::read_to_string(format!("/proc/{}/stat", self.pid));
        let alive = alive.is_ok_and(|stat| !stat.contains(") Z "));
        assert!(alive, "the node ended after: {after}\n{}", self.node.log());
        let answer = self.admin.run(&["get", "--raw", "/readyz", "--request-timeout=10s"]);
        assert_eq!(answer.stdout, "ok", "after {after}: {}", answer.stderr);
        assert_eq!(self.look(), self.bystander, "after {after}");
        let mark = self.admin.run(&["exec", "bystander", "--", "cat", MARK]);
        assert_eq!(mark.stdout, "intact\n", "after {after}: {}", mark.stderr);
    }

    /// Returns the resident memory of the node's process.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.node.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// Asserts that less than this of the node's memory is resident.
    pub fn assert_resident_below(&self, bytes: u64, after: &str) {
        let resident = self.resident_bytes();
        assert!(resident < bytes, "after {after}: {resident} bytes are resident");
    }

    /// The bystander's containers: ids, starts, restarts.
    fn look(&self) -> Value {
        let pod = self.admin.json(&["pod", "bystander"]);
        json!([pod["status"]["phase"], pod["status"]["containerStatuses"], pod["status"]["podIP"]])
    }

    /// A file for the scenarios' own use.
    pub fn path(&self, name: &str) -> PathBuf {
        self.node.path(name)
    }
}

/// A kubectl with the token of the tenant's ServiceAccount and nothing else.
fn tenant(node: &Node, admin: &Kubectl) -> Kubectl {
    let token = admin.ok(&["--namespace", TENANT, "create", "token", "owner"]);
    let config: Value =
        serde_json::from_str(&admin.ok(&["config", "view", "--raw", "-o=json"])).unwrap();
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "tenant",
        "clusters": [{"name": "node", "cluster": config["clusters"][0]["cluster"]}],
        "users": [{"name": "owner", "user": {"token": token.trim()}}],
        "contexts": [{
            "name": "tenant",
            "context": {"cluster": "node", "user": "owner", "namespace": TENANT},
        }],
    });
    let path = node.path("tenant-kubeconfig");
    std::fs::write(&path, config.to_string()).unwrap();
    let binary = Kubectl::binary(&admin.version).unwrap();
    Kubectl::new(&admin.version, binary, &path, &node.path("tenant-home"), &node.ns.path())
        .in_namespace(TENANT)
}
