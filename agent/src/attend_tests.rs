//! Pods of an earlier process of the agent, over fakes.
#![allow(clippy::unwrap_used)]

use std::path::PathBuf;

use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::*;
use crate::agent::{Agent, Pods};
use crate::worker::fake_api::FakeApi;
use crate::worker::fake_node;
use crate::worker::fakes::{FakeMachine, Left};

struct Stand {
    node: Arc<Node>,
    machine: FakeMachine,
    pod: Arc<Pod>,
    events: Box<dyn FnMut() -> Vec<String>>,
    directory: PathBuf,
    stop: CancellationToken,
    _stopped: DropGuard,
}

impl Drop for Stand {
    fn drop(&mut self) {
        let _ = crate::volume::mount::remove_tree(&self.directory);
    }
}

impl Stand {
    fn new(name: &str, left: &[(&str, Left)]) -> Self {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "d", "uid": "u", "resourceVersion": "1"},
            "spec": {"containers": [{"name": "c", "image": "i"}]},
        }))
        .unwrap();
        let directory =
            std::env::temp_dir().join(format!("coracle-attend-{}-{name}", std::process::id()));
        let api = FakeApi::new(&pod);
        let machine = FakeMachine::new();
        for (uid, left) in left {
            machine.left.lock().unwrap().insert((*uid).to_owned(), *left);
        }
        let stop = CancellationToken::new();
        let (node, events) = fake_node::node(&directory, &api, &machine, &stop);
        Self {
            node: Arc::new(node),
            machine,
            pod: Arc::new(pod),
            events: Box::new(events),
            directory,
            _stopped: stop.clone().drop_guard(),
            stop,
        }
    }

    fn attend(&self, former: Former) -> JoinHandle<()> {
        let news = News { pod: self.pod.clone(), vanished: false };
        let (sender, receiver) = watch::channel(news);
        let node = self.node.clone();
        tokio::spawn(async move {
            attend(node, receiver, former, None).await;
            drop(sender);
        })
    }

    async fn take_over(&self) -> Option<Arc<dyn PodSandbox>> {
        let (_sender, news) = watch::channel(News { pod: self.pod.clone(), vanished: false });
        take_over(&self.node, &news, "u", Duration::ZERO).await
    }

    async fn until(&self, line: &str) {
        for _ in 0..6000 {
            if self.machine.journal.count(line) > 0 {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("never {line}: {:?}", self.machine.journal.all());
    }
}

#[tokio::test]
async fn one_failed_adoption_leaves_the_others() {
    let left = [("a", Left::Running), ("e", Left::Ended), ("u", Left::Unreachable(9))];
    let stand = Stand::new("others", &left);
    let agent = Agent::over(stand.node.clone(), stand.stop.clone());
    let mut pods = Pods::default();
    agent.adopt(&mut pods).await;
    assert!(matches!(pods.former("a"), Former::Sandbox(_)));
    assert!(matches!(pods.former("e"), Former::Ended(_)));
    assert!(matches!(pods.former("u"), Former::Unknown));
    assert!(matches!(pods.former("new"), Former::Nothing));
}

#[tokio::test]
async fn passing_failure_ends_no_pod() {
    let stand = Stand::new("passing", &[("u", Left::Unreachable(2))]);
    assert!(stand.take_over().await.is_some());
    let journal = &stand.machine.journal;
    assert_eq!(journal.count("adopt u"), 3);
    assert_eq!(journal.count("end u"), 0);
}

#[tokio::test]
async fn unreachable_sandbox_is_ended_and_reported() {
    let mut stand = Stand::new("unreachable", &[("u", Left::Unreachable(1000))]);
    assert!(stand.take_over().await.is_none());
    assert_eq!(stand.machine.journal.count("end u"), 1);
    let told = "FailedPodSandBoxStatus Failed to get pod sandbox status: no descriptor";
    assert_eq!((stand.events)(), [told]);
}

#[tokio::test]
async fn ended_sandbox_is_reported_and_made_anew() {
    let mut stand = Stand::new("ended", &[]);
    let task = stand.attend(Former::Ended("record is lost".into()));
    stand.until("make sandbox").await;
    task.abort();
    let told = "FailedPodSandBoxStatus Failed to get pod sandbox status: record is lost";
    assert!((stand.events)().iter().any(|event| event == told));
}
