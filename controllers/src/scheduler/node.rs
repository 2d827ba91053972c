//! A node as the scheduler sees it: what it has and who uses how much of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use api::placement::port::host_ports;
use api::placement::resources::requests;
use api::placement::{HostPort, Resources};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::ResourceExt;

use crate::pod;
use crate::scheduler::volumes::Claims;

/// What one pod uses.
#[derive(Clone, Debug)]
pub struct Use {
    /// The pod.
    pub pod: Arc<Pod>,
    /// Its requests.
    pub requests: Resources,
    /// Its host ports.
    pub ports: Vec<HostPort>,
    /// Its volumes; of no interest once it has a node.
    pub claims: Claims,
}

impl Use {
    /// What `pod` uses.
    pub fn of(pod: Arc<Pod>) -> Self {
        Self { requests: requests(&pod), ports: host_ports(&pod), claims: Claims::default(), pod }
    }

    /// Its priority.
    pub fn priority(&self) -> i32 {
        priority(&self.pod)
    }
}

/// The priority of a pod.
pub fn priority(pod: &Pod) -> i32 {
    pod.spec.as_ref().and_then(|spec| spec.priority).unwrap_or(0)
}

/// Everything on one node.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// The sum of all requests.
    pub requested: Resources,
    /// The pods by uid, those included that were bound a moment ago.
    pub pods: HashMap<String, Use>,
}

impl Usage {
    /// Adds a pod, or replaces what was known of it.
    pub fn insert(&mut self, uid: String, usage: Use) {
        self.remove(&uid);
        self.requested.add(&usage.requests);
        self.pods.insert(uid, usage);
    }

    /// Removes a pod; true if it was there.
    pub fn remove(&mut self, uid: &str) -> bool {
        let Some(known) = self.pods.remove(uid) else { return false };
        self.requested.subtract(&known.requests);
        true
    }

    /// Whether one of `ports` is taken.
    pub fn conflicts(&self, ports: &[HostPort]) -> bool {
        let mut taken = self.pods.values().flat_map(|usage| &usage.ports);
        taken.any(|taken| ports.iter().any(|wanted| wanted.conflicts(taken)))
    }
}

/// The nodes of the cluster with their pods.
#[derive(Clone, Debug, Default)]
pub struct Nodes {
    /// The nodes by name.
    pub nodes: BTreeMap<String, Arc<Node>>,
    /// The usage by node name, also of nodes that are not known (yet).
    pub usage: BTreeMap<String, Usage>,
}

impl Nodes {
    /// What is used on a node.
    pub fn usage(&self, name: &str) -> Option<&Usage> {
        self.usage.get(name)
    }

    /// The value of a label of a node; the name stands for the host name if that is missing.
    pub fn topology(&self, node: &str, key: &str) -> Option<&str> {
        let object = self.nodes.get(node)?;
        object.labels().get(key).map(String::as_str)
    }

    /// Every pod with the name of its node.
    pub fn pods(&self) -> impl Iterator<Item = (&str, &Use)> {
        self.usage
            .iter()
            .flat_map(|(node, usage)| usage.pods.values().map(move |used| (node.as_str(), used)))
    }
}

/// Whether the pod occupies its node.
pub fn occupies(pod: &Pod) -> bool {
    pod::node_name(pod).is_some() && !pod::is_terminal(pod)
}
