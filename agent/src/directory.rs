//! Where the containers of running pods are, for those who come through the kubelet API.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;

use crate::machine::PodSandbox;
use crate::worker::Note;

/// A container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: String,
    /// Identifier while it runs.
    pub id: Option<String>,
    /// Number of its latest attempt, once there was one.
    pub attempt: Option<u32>,
}

/// A pod.
#[derive(Clone)]
pub struct Where {
    /// Its unique identifier.
    pub uid: String,
    /// Its logs.
    pub logs: PathBuf,
    /// Its sandbox, while there is one.
    pub sandbox: Option<Arc<dyn PodSandbox>>,
    /// Its network namespace, when it has one of its own.
    pub netns: Option<PathBuf>,
    /// Its containers.
    pub containers: Vec<Place>,
    /// The latest object.
    pub pod: Arc<Pod>,
    /// The names and identifiers of the images that its containers use.
    pub images: Vec<String>,
    /// It is about to end.
    pub ending: bool,
    /// Reaches its worker.
    pub note: mpsc::UnboundedSender<Note>,
}

/// All pods by namespace and name.
#[derive(Clone, Default)]
pub struct Directory {
    pods: Arc<Mutex<HashMap<(String, String), Where>>>,
}

impl Directory {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Where>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a pod is.
    pub fn put(&self, namespace: &str, name: &str, place: Where) {
        self.lock().insert((namespace.to_owned(), name.to_owned()), place);
    }

    /// Forgets a pod, unless another one has taken its name.
    pub fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut pods = self.lock();
        if pods.get(&key).is_some_and(|place| place.uid == uid) {
            pods.remove(&key);
        }
    }

    /// Where a pod is.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Where> {
        self.lock().get(&(namespace.to_owned(), name.to_owned())).cloned()
    }

    /// The names and identifiers of all images in use.
    pub fn images(&self) -> HashSet<String> {
        self.lock().values().flat_map(|place| place.images.iter().cloned()).collect()
    }

    /// Every pod with its namespace and name.
    pub fn all(&self) -> Vec<((String, String), Where)> {
        self.lock().iter().map(|(key, place)| (key.clone(), place.clone())).collect()
    }
}
