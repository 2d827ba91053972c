//! Clients that create, update and delete objects of random contents, and write down every answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use coracle_integration::client::{Connection, Endpoint};
use coracle_integration::{NetNs, Random};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::check::{contents, is_ours};
use crate::ledger::{Answer, Found, Ledger, Operation, State};
use crate::recording::Log;

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// Objects that each client works on.
const OBJECTS: u64 = 6;
/// The longest contents.
const CONTENTS_MAX_BYTES: u64 = 64 << 10;
/// Longest time that an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The things that all clients share.
pub struct Load<'a> {
    pub kubeconfig: PathBuf,
    pub log: &'a Log,
    pub ledger: &'a Ledger,
    pub netns: &'a NetNs,
}

impl Load<'_> {
    /// Lets `clients` do `operations` each; ends early when the node is gone.
    pub fn run(&self, clients: u64, operations: u64, seed: u64) {
        self.block_on(|endpoint| async move {
            let client = |number| {
                let endpoint = endpoint.clone();
                async move { self.client(&endpoint, number, operations, seed).await }
            };
            futures::future::join_all((0..clients).map(client)).await;
        });
    }

    /// Returns every object of the node, and the revision of the list; `None` if the node has ended.
    pub fn look(&self) -> Option<(BTreeMap<String, Found>, u64)> {
        self.block_on(|endpoint| async move {
            let mut connection = endpoint.try_connect().await?;
            let (_, body) = connection.try_raw(Method::GET, COLLECTION, Bytes::new()).await?;
            let list: Value = serde_json::from_slice(&body).ok()?;
            let items = list["items"].as_array().cloned().unwrap_or_default();
            let found = items.iter().map(|item| {
                let name = item["metadata"]["name"].as_str().unwrap_or_default().to_owned();
                let revision = revision(item).unwrap_or(0);
                (name, Found { contents: contents(item), revision })
            });
            Some((found.filter(|(name, _)| is_ours(name)).collect(), revision(&list)?))
        })
    }

    fn block_on<T: Send, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Endpoint) -> F + Send,
    ) -> T {
        self.netns.within(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let endpoint = Endpoint::read(&self.kubeconfig).expect("the node has a kubeconfig");
            runtime.unwrap().block_on(work(endpoint))
        })
    }

    async fn client(&self, endpoint: &Endpoint, number: u64, operations: u64, seed: u64) {
        let mut random = Random::new(seed ^ (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        // The first numbers of neighbouring seeds are alike.
        (0..20).for_each(|_| _ = random.below(2));
        let Some(mut connection) = endpoint.try_connect().await else { return };
        for _ in 0..operations {
            let name = format!("load-{number}-{}", random.below(OBJECTS));
            let present = self.ledger.state(&name).is_some();
            let state = (!present || random.below(10) < 7).then(|| text(&mut random).into());
            if !self.operate(&mut connection, &name, present, state).await {
                match endpoint.try_connect().await {
                    Some(again) => connection = again,
                    None => return,
                }
            }
        }
    }

    /// Makes one write; returns whether the connection can be used again.
    async fn operate(
        &self,
        connection: &mut Connection,
        name: &str,
        present: bool,
        state: State,
    ) -> bool {
        let object = format!("{COLLECTION}/{name}");
        let (method, path) = match (&state, present) {
            (None, _) => (Method::DELETE, object.as_str()),
            (Some(_), true) => (Method::PUT, object.as_str()),
            (Some(_), false) => (Method::POST, COLLECTION),
        };
        let body = state.as_ref().map(|contents| {
            json!({"metadata": {"name": name}, "data": {"value": &**contents}}).to_string()
        });
        let sent = self.log.position();
        let request = connection.try_raw(method.clone(), path, body.unwrap_or_default().into());
        let answer = tokio::time::timeout(PATIENCE, request).await.ok().flatten();
        let answered = self.log.position();
        let Some((status, body)) = answer else {
            let note = format!("{method} without answer");
            let answer = Answer::Unknown;
            let revision = None;
            self.ledger.add(name, Operation { state, sent, answered, answer, revision, note });
            return false;
        };
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let mut operation = Operation {
            answer: answer_of(status, &body),
            revision: revision(&body).filter(|_| status.is_success() && state.is_some()),
            note: format!("{method} {}", status.as_u16()),
            state,
            sent,
            answered,
        };
        let echoed = body["data"].is_object().then(|| contents(&body));
        if let (true, Some(sent), Some(echoed)) = (status.is_success(), &operation.state, echoed)
            && *sent != echoed
        {
            // The answer has the stored contents, which a restart must show.
            operation.note.push_str(", ALTERED ON ARRIVAL");
            operation.state = Some(echoed);
        }
        self.ledger.add(name, operation);
        true
    }
}

fn answer_of(status: StatusCode, body: &Value) -> Answer {
    match status.as_u16() {
        200..300 => Answer::Acknowledged,
        // An outcome that is open: upstream's word for it, and the store's own.
        504 => Answer::Unknown,
        _ if body["reason"] == "Timeout" => Answer::Unknown,
        _ if body["message"].as_str().is_some_and(|text| text.contains("unknown")) => {
            Answer::Unknown
        }
        _ => Answer::Refused,
    }
}

fn revision(object: &Value) -> Option<u64> {
    object["metadata"]["resourceVersion"].as_str()?.parse().ok()
}

/// A text whose length is spread evenly over the orders of magnitude.
fn text(random: &mut Random) -> String {
    let magnitude = random.below(14);
    let limit = (10_u64 << magnitude).min(CONTENTS_MAX_BYTES);
    let length = 10 + random.below(limit);
    (0..length).map(|_| char::from(b'!' + random.below(90) as u8)).collect()
}

/// The operations that were answered with contents other than those sent.
pub fn altered_on_arrival(ledger: &Ledger) -> Vec<String> {
    let entries = ledger.entries();
    let all = entries.iter().flat_map(|(name, list)| list.iter().map(move |op| (name, op)));
    let altered = all.filter(|(_, op)| op.note.contains("ALTERED"));
    altered.map(|(name, op)| format!("{name}: {}", op.note)).collect()
}
