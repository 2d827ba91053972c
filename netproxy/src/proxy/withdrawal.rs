//! Tells whoever ends a pod when the kernel leads no new connection to it any more.

use tokio::sync::{mpsc, oneshot};

use super::keys::ServiceKey;
use super::sync::Proxy;

struct Question {
    services: Vec<ServiceKey>,
    pod_uid: String,
    answer: oneshot::Sender<()>,
}

/// Asks the proxy of this node. Cheap to clone.
#[derive(Clone)]
pub struct Withdrawals {
    questions: mpsc::UnboundedSender<Question>,
}

/// The questions that [`super::run()`] answers.
pub struct Questions {
    incoming: mpsc::UnboundedReceiver<Question>,
    open: Vec<Question>,
}

/// Both ends.
pub fn withdrawals() -> (Withdrawals, Questions) {
    let (questions, incoming) = mpsc::unbounded_channel();
    (Withdrawals { questions }, Questions { incoming, open: Vec::new() })
}

impl Withdrawals {
    /// Waits until the rules in the kernel reflect that the pod is no ready endpoint of these
    /// Services, all of which select it. It is the caller who bounds the wait. Without a proxy
    /// there is nothing to wait for.
    pub async fn withdrawn(&self, services: Vec<ServiceKey>, pod_uid: &str) {
        let (answer, answered) = oneshot::channel();
        let question = Question { services, pod_uid: pod_uid.to_owned(), answer };
        if self.questions.send(question).is_ok() {
            // Without an answer the proxy has ended.
            let _ = answered.await;
        }
    }
}

impl Questions {
    /// Takes the next question in; `None` once nobody can ask any more.
    pub(super) async fn take(&mut self) -> Option<()> {
        let question = self.incoming.recv().await?;
        self.open.push(question);
        Some(())
    }

    /// Answers what can be answered now that the kernel has all that `proxy` knows.
    pub(super) fn settle(&mut self, proxy: &Proxy) {
        let open = std::mem::take(&mut self.open);
        for question in open {
            let Question { services, pod_uid, answer } = &question;
            if answer.is_closed() {
                continue;
            }
            if services.iter().all(|service| proxy.has_withdrawn(service, pod_uid)) {
                // Whoever asked may have lost patience.
                let _ = question.answer.send(());
            } else {
                self.open.push(question);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use futures::FutureExt;
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;
    use serde_json::json;

    use super::*;
    use crate::proxy::fake::proxy;

    fn service() -> Service {
        serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "web"},
            "spec": {"clusterIP": "10.47.240.9", "ports": [{"port": 80}]}}))
        .unwrap()
    }

    fn slice(pod_uid: &str, conditions: &serde_json::Value) -> EndpointSlice {
        serde_json::from_value(json!({"metadata": {"namespace": "d", "name": "web-1",
            "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "", "port": 80}],
            "endpoints": [{"addresses": ["10.44.0.2"], "conditions": conditions,
                "targetRef": {"kind": "Pod", "uid": pod_uid}}]}))
        .unwrap()
    }

    #[test]
    fn a_pod_is_withdrawn_once_a_written_slice_says_so() {
        let key = ServiceKey { namespace: "d".into(), name: "web".into() };
        let mut proxy = proxy();
        assert!(!proxy.has_withdrawn(&key, "u"), "nothing was written yet");
        proxy.flush().unwrap();
        assert!(proxy.has_withdrawn(&key, "u"), "there is no such Service");
        proxy.set_service(service());
        proxy.flush().unwrap();
        assert!(!proxy.has_withdrawn(&key, "u"), "the slice that names the pod is still to come");
        proxy.set_slice(slice("u", &json!({"ready": true})));
        proxy.flush().unwrap();
        assert!(!proxy.has_withdrawn(&key, "u"));
        proxy.set_slice(slice("u", &json!({"ready": false, "serving": true, "terminating": true})));
        assert!(!proxy.has_withdrawn(&key, "u"), "not written yet");
        proxy.flush().unwrap();
        assert!(proxy.has_withdrawn(&key, "u"));
        proxy.remove_service(&key);
        proxy.flush().unwrap();
        assert!(proxy.has_withdrawn(&key, "other"));
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_when_it_is_so() {
        let key = ServiceKey { namespace: "d".into(), name: "web".into() };
        let mut proxy = proxy();
        proxy.set_service(service());
        proxy.set_slice(slice("u", &json!({})));
        proxy.flush().unwrap();
        let (withdrawals, mut questions) = withdrawals();
        let mut waiting = std::pin::pin!(withdrawals.withdrawn(vec![key], "u"));
        assert!(waiting.as_mut().now_or_never().is_none());
        questions.take().await.unwrap();
        questions.settle(&proxy);
        assert!(waiting.as_mut().now_or_never().is_none());
        proxy.set_slice(slice("u", &json!({"ready": false})));
        proxy.flush().unwrap();
        questions.settle(&proxy);
        assert!(waiting.as_mut().now_or_never().is_some());
        drop(questions);
        withdrawals.withdrawn(Vec::new(), "u").await;
    }
}
