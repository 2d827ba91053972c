//! Clients that were not written for coracle.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::skip::skip;
use coracle_integration::{Node, privileged, workspace};

#[test]
fn the_python_client() {
    let python = workspace().join("build/python/bin/python3");
    if !python.exists() {
        skip("the Python client is not in build/python (make clients)", "python-kubernetes");
        return;
    }
    if !privileged() {
        return;
    }
    let node = Node::start();
    let output = node
        .ns
        .command(python.to_str().unwrap())
        .arg(workspace().join("integration/clients/python_client.py"))
        .env("KUBECONFIG", node.kubeconfig())
        .output()
        .unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && stdout.ends_with("done\n"),
        "{stdout}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
