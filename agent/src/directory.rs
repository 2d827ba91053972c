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

/// The pods of one name, in the order in which they came.
type Namesakes = Vec<Where>;

/// All pods by namespace and name. Where a pod is replaced under its name, the old one is known
/// until its end, beside the new one.
#[derive(Clone, Default)]
pub struct Directory {
    pods: Arc<Mutex<HashMap<(String, String), Namesakes>>>,
}

impl Directory {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), Namesakes>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes where a pod is.
    pub fn put(&self, namespace: &str, name: &str, place: Where) {
        let mut pods = self.lock();
        let pods = pods.entry((namespace.to_owned(), name.to_owned())).or_default();
        match pods.iter_mut().find(|known| known.uid == place.uid) {
            Some(known) => *known = place,
            None => pods.push(place),
        }
    }

    /// Forgets a pod, but no other one that has its name.
    pub fn remove(&self, namespace: &str, name: &str, uid: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        let mut pods = self.lock();
        if let Some(namesakes) = pods.get_mut(&key) {
            namesakes.retain(|place| place.uid != uid);
            if namesakes.is_empty() {
                pods.remove(&key);
            }
        }
    }

    /// Where the pod is that has the name now.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Where> {
        let key = (namespace.to_owned(), name.to_owned());
        current(self.lock().get(&key)?).cloned()
    }

    /// Where that very pod is, whoever has its name now.
    pub fn find(&self, namespace: &str, name: &str, uid: &str) -> Option<Where> {
        let key = (namespace.to_owned(), name.to_owned());
        self.lock().get(&key)?.iter().find(|place| place.uid == uid).cloned()
    }

    /// The names and identifiers of all images in use.
    pub fn images(&self) -> HashSet<String> {
        self.lock().values().flatten().flat_map(|place| place.images.iter().cloned()).collect()
    }

    /// The pod that has the name now, for every namespace and name.
    pub fn all(&self) -> Vec<((String, String), Where)> {
        let pods = self.lock();
        let current = pods.iter().filter_map(|(key, pods)| Some((key, current(pods)?)));
        current.map(|(key, place)| (key.clone(), place.clone())).collect()
    }
}

/// The latest that stays; where all of them end, the latest.
fn current(namesakes: &Namesakes) -> Option<&Where> {
    namesakes.iter().rev().find(|place| !place.ending).or(namesakes.last())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn pod(uid: &str, ending: bool) -> Where {
        Where {
            uid: uid.into(),
            logs: PathBuf::new(),
            sandbox: None,
            netns: None,
            containers: Vec::new(),
            pod: Arc::default(),
            images: vec![format!("image of {uid}")],
            ending,
            note: mpsc::unbounded_channel().0,
        }
    }

    #[test]
    fn a_pod_that_ends_leaves_its_namesake_alone() {
        let directory = Directory::default();
        let current = || directory.get("default", "ss-1").map(|place| place.uid);
        let put = |uid, ending| directory.put("default", "ss-1", pod(uid, ending));
        put("old", false);
        put("old", true);
        assert_eq!(current().as_deref(), Some("old"), "who ends is found until the end");
        put("new", false);
        // The worker of the old one goes on telling where it is.
        put("old", true);
        assert_eq!(current().as_deref(), Some("new"));
        assert_eq!(directory.find("default", "ss-1", "old").unwrap().uid, "old");
        assert_eq!(directory.images().len(), 2, "the images of both are in use");
        let all: Vec<String> = directory.all().into_iter().map(|(_, place)| place.uid).collect();
        assert_eq!(all, ["new"]);
        directory.remove("default", "ss-1", "old");
        assert_eq!(current().as_deref(), Some("new"));
        assert_eq!(directory.images(), HashSet::from(["image of new".to_owned()]));
        directory.remove("default", "ss-1", "new");
        assert!(current().is_none() && directory.all().is_empty());
    }

    #[test]
    fn who_comes_late_and_ends_is_not_the_current_one() {
        let directory = Directory::default();
        let current = || directory.get("d", "p").map(|place| place.uid);
        directory.put("d", "p", pod("new", false));
        directory.put("d", "p", pod("old", true));
        assert_eq!(current().as_deref(), Some("new"));
    }
}
