//! What a kubelet says about usage (`/stats/summary`).

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::time::Instant;

use crate::stream_proxy::NodeDialer;

/// How long a node may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest summary that is read.
const SUMMARY_BYTES_MAX: usize = 16 << 20;

/// Usage at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    /// CPU time since some beginning, in nanoseconds.
    pub(super) cpu_ns: u64,
    /// Memory that cannot be dropped at once, in bytes.
    pub(super) memory_bytes: u64,
}

/// Usage of a node and all its containers at one moment.
#[derive(Clone, Debug)]
pub(super) struct Summary {
    /// When it was taken.
    pub(super) taken: Instant,
    /// The node as a whole.
    pub(super) node: Usage,
    /// Containers by the uid of their pod and their name.
    pub(super) pods: HashMap<String, HashMap<String, Usage>>,
}

/// Asks the kubelet of a node; the error is a sentence for the log.
pub(super) async fn fetch(dialer: &dyn NodeDialer, node: &str) -> Result<Summary, String> {
    let dialed = dialer.dial(node);
    let answer = async {
        let stream = dialed.await.map_err(|error| error.to_string())?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake::<_, Empty<Bytes>>(TokioIo::new(stream))
                .await
                .map_err(|error| error.to_string())?;
        let request = Request::get("/stats/summary")
            .header(http::header::HOST, node)
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            // The usage of a container is what it was when the answer began.
            let taken = Instant::now();
            let body = Limited::new(response.into_body(), SUMMARY_BYTES_MAX).collect().await;
            let bytes = body.map_err(|error| error.to_string())?.to_bytes();
            Ok::<_, String>((taken, bytes))
        };
        let mut connection = std::pin::pin!(connection);
        let mut exchange = std::pin::pin!(exchange);
        let (taken, bytes) = tokio::select! {
            outcome = &mut exchange => outcome?,
            ended = &mut connection => {
                ended.map_err(|error| error.to_string())?;
                exchange.await?
            }
        };
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
        Ok(parse(&value, taken))
    };
    tokio::time::timeout(ANSWER_TIMEOUT, answer)
        .await
        .unwrap_or_else(|_| Err("the kubelet does not answer".to_owned()))
}

fn parse(summary: &Value, taken: Instant) -> Summary {
    let usage = |value: &Value| Usage {
        cpu_ns: value["cpu"]["usageCoreNanoSeconds"].as_u64().unwrap_or(0),
        memory_bytes: value["memory"]["workingSetBytes"].as_u64().unwrap_or(0),
    };
    let mut pods = HashMap::new();
    for pod in summary["pods"].as_array().into_iter().flatten() {
        let containers = pod["containers"].as_array().into_iter().flatten();
        let containers = containers
            .filter_map(|container| {
                Some((container["name"].as_str()?.to_owned(), usage(container)))
            })
            .collect();
        let uid = pod["podRef"]["uid"].as_str().unwrap_or_default().to_owned();
        pods.insert(uid, containers);
    }
    Summary { taken, node: usage(&summary["node"]), pods }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn containers_are_found_by_the_uid_of_their_pod() {
        let summary = parse(
            &json!({
                "node": {"cpu": {"usageCoreNanoSeconds": 7}, "memory": {"workingSetBytes": 8}},
                "pods": [{"podRef": {"uid": "u"}, "containers": [
                    {"name": "c", "cpu": {"usageCoreNanoSeconds": 1}, "memory": {"workingSetBytes": 2}}]}]
            }),
            Instant::now(),
        );
        assert_eq!(summary.node, Usage { cpu_ns: 7, memory_bytes: 8 });
        assert_eq!(summary.pods["u"]["c"], Usage { cpu_ns: 1, memory_bytes: 2 });
    }
}
