//! kube-rs as an ordinary client: over TLS, with the node's kubeconfig, from inside its network.
#![allow(clippy::unwrap_used, clippy::panic)]
// Those of kube's `await_condition` are large.
#![allow(clippy::large_futures)]

mod objects;
mod pods;
mod watches;

use std::fmt::Debug;
use std::time::Duration;

use coracle_integration::Node;
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Status;
use kube::runtime::conditions::is_pod_running;
use kube::runtime::wait::await_condition;
use kube::{Api, Client, Config};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::runtime::Runtime;

/// The namespace of the tests.
const NAMESPACE: &str = "rust";

/// How long a single thing that is waited for may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A node, and a runtime that only ever turns inside the node's network namespace.
struct Session {
    node: Node,
    runtime: Runtime,
}

impl Session {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { node: Node::start(), runtime }
    }

    /// Runs `work` to its end inside.
    fn run<T: Send>(&self, work: impl Future<Output = T> + Send) -> T {
        self.node.ns.within(|| self.runtime.block_on(work))
    }

    /// What the kubeconfig says, without the client's retries: a refusal is shown as it comes.
    async fn config(&self) -> Config {
        let kubeconfig = Kubeconfig::read_from(self.node.kubeconfig()).unwrap();
        let options = KubeConfigOptions::default();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
        config.default_retry = false;
        config
    }

    /// The administrator's client, and a namespace whose default account is there.
    async fn client(&self) -> Client {
        let client = Client::try_from(self.config().await).unwrap();
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = object(serde_json::json!({"metadata": {"name": NAMESPACE}}));
        namespaces.create(&PostParams::default(), &namespace).await.unwrap();
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
        let there = |account: Option<&ServiceAccount>| account.is_some();
        patient("the default account", await_condition(accounts, "default", there)).await.unwrap();
        client
    }
}

/// A typed object from what its manifest says.
fn object<K: DeserializeOwned>(manifest: Value) -> K {
    serde_json::from_value(manifest).unwrap()
}

/// Waits, with a bound.
async fn patient<T>(what: &str, work: impl Future<Output = T>) -> T {
    let Ok(done) = tokio::time::timeout(PATIENCE, work).await else {
        panic!("{what}: not within {PATIENCE:?}");
    };
    done
}

/// The Status that a refused request carries.
fn refusal<T: Debug>(result: kube::Result<T>) -> Status {
    match result {
        Err(kube::Error::Api(status)) => *status,
        other => panic!("not refused: {other:?}"),
    }
}

/// Creates a pod and waits until it runs.
async fn running(pods: &Api<Pod>, manifest: Value) -> Pod {
    let pod: Pod = object(manifest);
    let name = pod.metadata.name.clone().unwrap();
    pods.create(&PostParams::default(), &pod).await.unwrap();
    let condition = await_condition(pods.clone(), &name, is_pod_running());
    patient(&name, condition).await.unwrap().unwrap()
}

/// Takes the namespace away with all that is in it, and waits until it is gone.
async fn delete_namespace(client: &Client) {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let deleted = namespaces.delete(NAMESPACE, &DeleteParams::default()).await.unwrap();
    let namespace = deleted.left().expect("a namespace is deleted when its content is gone");
    assert_eq!(namespace.status.unwrap().phase.as_deref(), Some("Terminating"));
    let gone = |namespace: Option<&Namespace>| namespace.is_none();
    patient("the namespace goes", await_condition(namespaces, NAMESPACE, gone)).await.unwrap();
}
