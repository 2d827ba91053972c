//! The harness of the end-to-end tests: nodes in network namespaces of their own, real kubectl
//! binaries, terminals, and a census of what the machine carries before and after.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

pub mod api;
pub mod census;
pub mod client;
pub mod confinement;
pub mod kubectl;
pub mod manifest;
pub mod neighbour;
pub mod netns;
pub mod node;
pub mod random;
mod reboot;
pub mod registry;
pub mod skip;
pub mod terminal;
pub mod wait;

pub use api::Api;
pub use census::Census;
pub use confinement::Confinement;
pub use kubectl::{Kubectl, Output};
pub use neighbour::Neighbour;
pub use netns::NetNs;
pub use node::{Node, NodeOptions};
pub use random::Random;
pub use registry::Registry;
pub use terminal::Terminal;
pub use wait::{eventually, within};

use std::path::PathBuf;

/// The top of the checkout.
pub fn workspace() -> PathBuf {
    // At run time first: a build cache may have compiled this for another checkout.
    let crate_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    crate_dir.parent().unwrap().to_owned()
}

/// A file of the story that the demo replays too.
pub fn story(name: &str) -> String {
    workspace().join("integration/demo/story").join(name).display().to_string()
}

/// Runs `steps` with every kubectl that is on the machine, each in a fresh namespace of one node.
pub fn with_every_kubectl(steps: impl Fn(&Node, &Kubectl)) {
    with_kubectls(&kubectl::VERSIONS, steps);
}

/// The same with the oldest client and a new one, which is enough where clients hardly matter.
pub fn with_old_and_new_kubectl(steps: impl Fn(&Node, &Kubectl)) {
    with_kubectls(&kubectl::OLD_AND_NEW, steps);
}

fn with_kubectls(versions: &[&str], steps: impl Fn(&Node, &Kubectl)) {
    if !privileged() {
        return;
    }
    let node = Node::start();
    let mut ran = false;
    for version in versions {
        let Some(kubectl) = node.kubectl_in_own_namespace(version) else { continue };
        eprintln!("--- kubectl {version}");
        steps(&node, &kubectl);
        kubectl.delete_namespace();
        ran = true;
    }
    assert!(ran, "none of kubectl {} is in build/kubectl (make kubectl)", versions.join(", "));
}

/// Returns the file of a program in a directory of `PATH`.
pub fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.exists())
}

/// Returns whether this process may run pods; the test is skipped otherwise.
pub fn privileged() -> bool {
    skip::is_root("a node")
}
