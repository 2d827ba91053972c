//! STORY step 16: the dashboard, driven in a real browser with real pods.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::process::{Child, Command, Stdio};

use coracle_integration::skip::skip;
use coracle_integration::{Kubectl, Node, on_path, within, workspace};

/// The oldest Node that the browser's driver runs on.
const NODE_MAJOR: u32 = 20;

/// What the pages show: a crash loop, a missing Secret, a talker, a Service.
const FIXTURES: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - {name: c, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, "echo one; echo two; exit 3"]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "i=0; while true; do i=$((i+1)); echo line $i '<img src=x onerror=window.hit=1>'; sleep 1; done"]
---
apiVersion: v1
kind: Pod
metadata: {name: test-secrets}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: s, secret: {secretName: my-secret}}]
  containers:
  - name: c
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sleep, "3600"]
    volumeMounts: [{name: s, mountPath: /secrets, readOnly: true}]
---
apiVersion: v1
kind: Secret
metadata: {name: my-secrets}
stringData: {secret1.txt: This is a secret, secret2.txt: another value}
---
apiVersion: v1
kind: Service
metadata: {name: shop-lb}
spec: {type: LoadBalancer, selector: {app: shop}, ports: [{port: 8088, targetPort: 80}]}
"#;

/// Ends with the test.
struct Background(Child);

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What is missing to drive a browser, if anything.
fn obstacle() -> Option<String> {
    let Some(node) = on_path("node") else { return Some("node is not installed".into()) };
    let version = Command::new(node).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next()?.parse::<u32>().unwrap_or(0);
    if major < NODE_MAJOR {
        return Some(format!("node {version} is older than {NODE_MAJOR}"));
    }
    if on_path("chromium").is_none() {
        return Some("chromium is not installed".into());
    }
    let modules = workspace().join("integration/browser/node_modules");
    ["playwright-core", "axe-core"]
        .into_iter()
        .find(|module| !modules.join(module).exists())
        .map(|module| format!("{module} is not installed (make browser)"))
}

/// `kubectl proxy` with these arguments, once it answers.
fn proxy(node: &Node, kubectl: &Kubectl, arguments: &[&str], url: &str) -> Background {
    let mut proxy = kubectl.command(&[&["proxy"], arguments].concat());
    let proxy = Background(proxy.stdout(Stdio::null()).spawn().unwrap());
    within(60, "kubectl proxy answers", || {
        let version = ["--silent", "--fail", &format!("{url}/version")];
        node.ns.command("curl").args(version).output().is_ok_and(|o| o.status.success())
    });
    proxy
}

#[test]
fn step_16_dashboard_in_a_browser() {
    if let Some(obstacle) = obstacle() {
        skip(&format!("the dashboard is not driven in a browser: {obstacle}"), "browser");
        return;
    }
    let node = Node::start();
    let kubectl = node.any_kubectl();
    kubectl.apply(FIXTURES);
    let plain = "http://localhost:8001";
    let prefixed = "http://localhost:8002/some/prefix";
    let _plain = proxy(&node, &kubectl, &["--port=8001"], plain);
    let _prefixed =
        proxy(&node, &kubectl, &["--port=8002", "--api-prefix=/some/prefix/"], prefixed);
    let link = node.coracle(&["dashboard"]).output().unwrap();
    let link = String::from_utf8_lossy(&link.stdout).trim().to_owned();
    assert!(link.starts_with("https://") && link.contains("/ui/#/login/"), "{link:?}");

    let shots = workspace().join("build/screenshots");
    let _ = std::fs::remove_dir_all(&shots);
    let walk = workspace().join("integration/browser/walk.mjs");
    let output = node
        .ns
        .command(on_path("node").unwrap().to_str().unwrap())
        .arg(walk)
        .env("PROXY", plain)
        .env("PREFIXED", prefixed)
        .env("SERVING", node.data().join("pki/serving.pem"))
        .env("ADMIN", node.data().join("pki/admin.pem"))
        .env("LINK", &link)
        .env("CHROMIUM", on_path("chromium").unwrap())
        .env("SHOTS", &shots)
        .env("HOME", node.dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    eprintln!("{said}");
    assert!(output.status.success(), "the walk failed:\n{said}{errors}");
    assert!(shots.join("overview-light.png").exists() && shots.join("overview-dark.png").exists());
}
