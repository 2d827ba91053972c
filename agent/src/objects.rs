//! Secrets and config maps, watched one by one and only while a pod of this node refers to them.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ::watch::{OwnText, keep_running};
use futures::StreamExt;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::blocking::{self, Deadline};

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// `v1 Secret`.
    Secret,
    /// `v1 ConfigMap`.
    ConfigMap,
}

impl Kind {
    /// As it appears in messages: lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Secret => "secret",
            Self::ConfigMap => "configmap",
        }
    }

    /// As the API names it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
        }
    }
}

/// Names one object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// The contents of an object.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Payload {
    /// Keys and values, text or not.
    pub data: BTreeMap<String, Vec<u8>>,
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Values may be secret.
        f.debug_struct("Payload").field("keys", &self.data.keys()).finish()
    }
}

/// What is known of an object.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The API server has not answered yet.
    Pending,
    /// It does not exist.
    Absent,
    /// It exists.
    Present(Arc<Payload>),
}

/// All watches of this node.
#[derive(Clone)]
pub struct Objects {
    client: Client,
    watched: Arc<Mutex<HashMap<Key, Weak<Watched>>>>,
}

struct Watched {
    state: watch::Receiver<Lookup>,
    listeners: Arc<Mutex<Vec<Weak<Notify>>>>,
    task: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Keeps one object watched for as long as it lives.
#[derive(Clone)]
pub struct Subscription {
    watched: Arc<Watched>,
}

impl Subscription {
    /// The object once the API server has answered; `None` when it does not exist.
    pub async fn get(&self) -> Option<Arc<Payload>> {
        let mut state = self.watched.state.clone();
        let known = state.wait_for(|lookup| !matches!(lookup, Lookup::Pending)).await;
        match known.as_deref() {
            Ok(Lookup::Present(payload)) => Some(payload.clone()),
            _ => None,
        }
    }
}

impl Objects {
    /// No watches yet.
    pub fn new(client: Client) -> Self {
        Self { client, watched: Arc::default() }
    }

    /// Watches an object; `listener` is notified of every change.
    pub fn subscribe(&self, key: &Key, listener: &Arc<Notify>) -> Subscription {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let known = watched.get(key).and_then(Weak::upgrade);
        let entry = known.unwrap_or_else(|| {
            watched.retain(|_, entry| entry.strong_count() > 0);
            let entry = Arc::new(self.watch(key.clone()));
            watched.insert(key.clone(), Arc::downgrade(&entry));
            entry
        });
        let mut listeners = entry.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        listeners.retain(|listener| listener.strong_count() > 0);
        if !listeners.iter().any(|known| known.as_ptr() == Arc::as_ptr(listener)) {
            listeners.push(Arc::downgrade(listener));
        }
        drop(listeners);
        Subscription { watched: entry }
    }

    fn watch(&self, key: Key) -> Watched {
        let (sender, state) = watch::channel(Lookup::Pending);
        let listeners: Arc<Mutex<Vec<Weak<Notify>>>> = Arc::default();
        let client = self.client.clone();
        let told = listeners.clone();
        let task = tokio::spawn(async move {
            let follow = || follow_kind(&client, &key, &sender, &told);
            keep_running("watch of a Secret or ConfigMap", follow).await;
        });
        Watched { state, listeners, task }
    }

    /// Names in a namespace that look like a name that does not exist, the most similar first.
    pub async fn similar(&self, key: &Key) -> Option<String> {
        let params = kube::api::ListParams::default();
        let names: Vec<String> = match key.kind {
            Kind::Secret => {
                let api = Api::<Secret>::namespaced(self.client.clone(), &key.namespace);
                let list = api.list_metadata(&params).await.ok()?;
                list.items.into_iter().filter_map(|item| item.metadata.name).collect()
            }
            Kind::ConfigMap => {
                let api = Api::<ConfigMap>::namespaced(self.client.clone(), &key.namespace);
                let list = api.list_metadata(&params).await.ok()?;
                list.items.into_iter().filter_map(|item| item.metadata.name).collect()
            }
        };
        // Thousands of long names take a while.
        let wanted = key.name.clone();
        let compare = move || most_similar(&wanted, &names).map(ToOwned::to_owned);
        let what = "Comparing names";
        blocking::run(&key.namespace, what, Deadline::Short, compare).await.ok().flatten()
    }
}

async fn follow_kind(
    client: &Client,
    key: &Key,
    sender: &watch::Sender<Lookup>,
    told: &Mutex<Vec<Weak<Notify>>>,
) {
    match key.kind {
        Kind::Secret => {
            let api = Api::namespaced(client.clone(), &key.namespace);
            follow(api, &key.name, sender, told, |secret: Secret| Payload {
                data: secret
                    .data
                    .into_iter()
                    .flatten()
                    .map(|(key, value)| (key, value.0))
                    .collect(),
            })
            .await;
        }
        Kind::ConfigMap => {
            let api = Api::namespaced(client.clone(), &key.namespace);
            follow(api, &key.name, sender, told, |map: ConfigMap| {
                let text = map.data.into_iter().flatten();
                let binary = map.binary_data.into_iter().flatten();
                Payload {
                    data: text
                        .map(|(key, value)| (key, value.into_bytes()))
                        .chain(binary.map(|(key, value)| (key, value.0)))
                        .collect(),
                }
            })
            .await;
        }
    }
}

async fn follow<K>(
    api: Api<OwnText<K>>,
    name: &str,
    state: &watch::Sender<Lookup>,
    listeners: &Mutex<Vec<Weak<Notify>>>,
    payload: impl Fn(K) -> Payload,
) where
    K: kube::Resource + Clone + serde::de::DeserializeOwned + fmt::Debug + Send + 'static,
{
    let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let stream = ::watch::follow(api, config);
    let mut stream = std::pin::pin!(stream);
    let mut fresh = None;
    while let Some(event) = stream.next().await {
        let lookup = match event {
            Ok(watcher::Event::Init) => {
                fresh = None;
                continue;
            }
            Ok(watcher::Event::InitApply(object)) => {
                fresh = Some(object);
                continue;
            }
            Ok(watcher::Event::InitDone) => match fresh.take() {
                Some(object) => Lookup::Present(Arc::new(payload(object))),
                None => Lookup::Absent,
            },
            Ok(watcher::Event::Apply(object)) => Lookup::Present(Arc::new(payload(object))),
            Ok(watcher::Event::Delete(_)) => Lookup::Absent,
            Err(error) => {
                tracing::debug!(%error, name, "watch of an object");
                continue;
            }
        };
        // Who subscribes waits for the first answer: only what comes after it is a change.
        let first = matches!(*state.borrow(), Lookup::Pending);
        let changed = state.send_if_modified(|known| {
            let same = match (&*known, &lookup) {
                (Lookup::Present(old), Lookup::Present(new)) => old == new,
                (Lookup::Absent, Lookup::Absent) => true,
                _ => false,
            };
            if !same {
                *known = lookup;
            }
            !same
        });
        if changed && !first {
            let listeners = listeners.lock().unwrap_or_else(PoisonError::into_inner);
            for listener in listeners.iter().filter_map(Weak::upgrade) {
                listener.notify_one();
            }
        }
    }
}

/// The name with the smallest edit distance, if it is small enough to be a slip.
fn most_similar<'a>(wanted: &str, names: &'a [String]) -> Option<&'a str> {
    let allowed = (wanted.chars().count() / 3).clamp(1, 5);
    names
        .iter()
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, name)| {
            *distance <= allowed || name.starts_with(wanted) || wanted.starts_with(name.as_str())
        })
        .min()
        .map(|(_, name)| name.as_str())
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitute = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = substitute.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        let names: Vec<String> =
            ["my-secrets", "default-token-abcde", "other"].map(String::from).to_vec();
        assert_eq!(most_similar("my-secret", &names), Some("my-secrets"));
        assert_eq!(most_similar("my-sercets", &names), Some("my-secrets"));
        assert_eq!(most_similar("database", &names), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
