//! Events are forgotten when their time is over.
#![allow(clippy::unwrap_used, clippy::panic)]

use coracle_integration::kubectl::OLD_AND_NEW;
use coracle_integration::{Node, NodeOptions, privileged, within};

#[test]
fn events_outlive_what_they_tell_by_their_time_to_live() {
    if !privileged() {
        return;
    }
    let node = Node::start_with(NodeOptions {
        arguments: vec!["--event-ttl=8".into()],
        ..NodeOptions::default()
    });
    for version in OLD_AND_NEW {
        let Some(kubectl) = node.kubectl(version) else { continue };
        let name = format!("teller-{}", version.replace('.', "-"));
        let run = ["run", &name, "--image=busybox", "--image-pull-policy=IfNotPresent"];
        kubectl.ok(&[&run[..], &["--", "sleep", "10000"]].concat());
        let selector = format!("involvedObject.name={name}");
        let told = || kubectl.ok(&["get", "events", "--field-selector", &selector]);
        within(60, "the start of the pod is told", || told().contains("Started container"));
        within(120, "its events are forgotten", || !told().contains(&name));
        assert_eq!(kubectl.jsonpath(&["pod", &name], "{.status.phase}"), "Running");
        kubectl.ok(&["delete", "pod", &name, "--grace-period=0", "--force"]);
    }
}
