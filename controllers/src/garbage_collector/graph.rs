//! Who owns whom, and what follows from it.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

/// The finalizer of an object whose dependents go first.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to stay.
pub const ORPHAN: &str = "orphan";

/// What the graph keeps of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Object {
    /// The index of its kind.
    pub kind: usize,
    /// Its namespace, empty for cluster scope.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub resource_version: Option<String>,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Its finalizers.
    pub finalizers: Vec<String>,
    /// Whether it is being deleted.
    pub deleting: bool,
}

impl Object {
    /// What matters of `meta`.
    pub fn new(kind: usize, meta: &ObjectMeta) -> Self {
        Self {
            kind,
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
            resource_version: meta.resource_version.clone(),
            owners: meta.owner_references.clone().unwrap_or_default(),
            finalizers: meta.finalizers.clone().unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
        }
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|known| known == finalizer)
    }

    /// Whether its dependents go before it.
    pub fn is_foreground(&self) -> bool {
        self.deleting && self.has(FOREGROUND)
    }

    /// Whether its dependents are to be set free.
    pub fn is_orphaning(&self) -> bool {
        self.deleting && self.has(ORPHAN)
    }
}

/// Every object by uid, with the reverse of ownership.
#[derive(Default)]
pub struct Graph {
    objects: HashMap<String, Object>,
    /// Pairs of an owner and its dependent. No set for each owner: nearly every owner has one.
    dependents: BTreeSet<(Box<str>, Box<str>)>,
}

/// Room in the graph that is not worth giving back.
const SPARE_OBJECTS: usize = 1024;

/// What to do about one object.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Nothing now.
    Keep,
    /// Delete it with this propagation policy.
    Delete(Propagation),
    /// It has other owners: only these references remain.
    Disown(Vec<OwnerReference>),
    /// It is part of a circle of objects that wait for each other: it has these references, none of
    /// which blocks.
    Unblock(Vec<OwnerReference>),
    /// Its dependents are dealt with: take the finalizer away.
    Finish(&'static str),
    /// Set these dependents free, then take the finalizer away.
    Orphan(Vec<String>),
}

/// How a deletion treats dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They go later.
    Background,
    /// They go first.
    Foreground,
    /// They stay.
    Orphan,
}

/// What is known of an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Solid,
    /// It waits for its dependents to go.
    Waiting,
    Unknown,
}

impl Graph {
    /// The object with that uid.
    pub fn get(&self, uid: &str) -> Option<&Object> {
        self.objects.get(uid)
    }

    /// Takes in an object; returns the uids that deserve a look.
    pub fn apply(&mut self, uid: &str, object: Object) -> Vec<String> {
        let known = self.objects.get(uid);
        let owners_changed = known.is_none_or(|known| known.owners != object.owners);
        let turned = known.is_none_or(|known| {
            known.deleting != object.deleting || known.finalizers != object.finalizers
        });
        let mut look = Vec::new();
        if owners_changed {
            for owner in known.map(|known| known.owners.clone()).unwrap_or_default() {
                self.detach(&owner.uid, uid);
                // Its foreground deletion may have waited for this one alone.
                look.extend(self.foreground_owner(&owner.uid));
            }
            for owner in &object.owners {
                self.dependents.insert((owner.uid.as_str().into(), uid.into()));
            }
            if !object.owners.is_empty() {
                look.push(uid.to_owned());
            }
        }
        if turned && (object.is_foreground() || object.is_orphaning()) {
            look.push(uid.to_owned());
            if object.is_foreground() {
                look.extend(self.dependents_of(uid));
            }
        }
        self.objects.insert(uid.to_owned(), object);
        look
    }

    /// Forgets an object; returns the uids that deserve a look.
    pub fn remove(&mut self, uid: &str) -> Vec<String> {
        let Some(object) = self.objects.remove(uid) else { return Vec::new() };
        let mut look: Vec<String> = self.dependents_of(uid);
        for owner in &object.owners {
            self.detach(&owner.uid, uid);
            look.extend(self.foreground_owner(&owner.uid));
        }
        // Maps keep the room of the most that they ever held.
        if self.objects.capacity() > SPARE_OBJECTS + 4 * self.objects.len() {
            self.objects.shrink_to_fit();
        }
        look
    }

    /// The owners of an object that the graph cannot vouch for, so that the API must be asked.
    pub fn unknown_owners(&self, uid: &str) -> Vec<OwnerReference> {
        let Some(object) = self.objects.get(uid) else { return Vec::new() };
        let unknown = |owner: &&OwnerReference| self.owner(object, owner) == Owner::Unknown;
        object.owners.iter().filter(unknown).cloned().collect()
    }

    /// Decides about one object; `absent` holds the uids of owners that do not exist.
    pub fn decide(&self, uid: &str, absent: &HashSet<String>) -> Decision {
        let Some(object) = self.objects.get(uid) else { return Decision::Keep };
        if object.is_orphaning() {
            return Decision::Orphan(self.dependents_of(uid));
        }
        if object.is_foreground() {
            let blocked =
                self.dependents_of(uid).iter().any(|dependent| self.blocks(dependent, uid));
            return if blocked { Decision::Keep } else { Decision::Finish(FOREGROUND) };
        }
        if object.deleting || object.owners.is_empty() {
            return Decision::Keep;
        }
        let state = |owner: &OwnerReference| match self.owner(object, owner) {
            // What neither the graph nor the API denies is taken to exist.
            Owner::Unknown if !absent.contains(&owner.uid) => Owner::Solid,
            state => state,
        };
        let solid: Vec<OwnerReference> =
            object.owners.iter().filter(|owner| state(owner) == Owner::Solid).cloned().collect();
        if solid.len() == object.owners.len() {
            return Decision::Keep;
        }
        if !solid.is_empty() {
            return Decision::Disown(solid);
        }
        let waited_for = object.owners.iter().any(|owner| state(owner) == Owner::Waiting);
        let has_dependents = self.pairs_of(uid).next().is_some();
        if waited_for && self.waits_in_a_circle(uid) {
            let free = |owner: &OwnerReference| OwnerReference {
                block_owner_deletion: None,
                ..owner.clone()
            };
            return Decision::Unblock(object.owners.iter().map(free).collect());
        }
        Decision::Delete(if object.has(ORPHAN) {
            Propagation::Orphan
        } else if object.has(FOREGROUND) || (waited_for && has_dependents) {
            Propagation::Foreground
        } else {
            Propagation::Background
        })
    }

    /// The uids of the dependents of an object.
    pub fn dependents_of(&self, uid: &str) -> Vec<String> {
        self.pairs_of(uid).map(|(_, dependent)| dependent.to_string()).collect()
    }

    fn pairs_of(&self, uid: &str) -> impl Iterator<Item = &(Box<str>, Box<str>)> {
        let from: (Box<str>, Box<str>) = (uid.into(), "".into());
        self.dependents.range(from..).take_while(move |(owner, _)| **owner == *uid)
    }

    fn owner(&self, object: &Object, reference: &OwnerReference) -> Owner {
        let Some(owner) = self.objects.get(&reference.uid) else { return Owner::Unknown };
        // An owner lives in the same namespace or in none.
        let reachable = owner.namespace.is_empty() || owner.namespace == object.namespace;
        if !reachable || owner.name != reference.name {
            return Owner::Unknown;
        }
        if owner.is_foreground() { Owner::Waiting } else { Owner::Solid }
    }

    /// Returns whether an object that is about to be deleted blocks an owner, and one of its own
    /// dependents waits already: upstream's test for a circle, which may be wrong but does no harm.
    fn waits_in_a_circle(&self, uid: &str) -> bool {
        let waits = |dependent: &String| self.foreground_owner(dependent).is_some();
        let blocks = |owner: &OwnerReference| owner.block_owner_deletion == Some(true);
        self.objects.get(uid).is_some_and(|object| object.owners.iter().any(blocks))
            && self.dependents_of(uid).iter().any(waits)
    }

    /// Returns whether `owner` waits for `dependent`. An object of another namespace cannot hold it
    /// up.
    fn blocks(&self, dependent: &str, owner: &str) -> bool {
        self.objects.get(dependent).is_some_and(|object| {
            object.owners.iter().any(|reference| {
                reference.uid == owner
                    && reference.block_owner_deletion == Some(true)
                    && self.owner(object, reference) != Owner::Unknown
            })
        })
    }

    fn foreground_owner(&self, uid: &str) -> Option<String> {
        self.objects.get(uid).is_some_and(Object::is_foreground).then(|| uid.to_owned())
    }

    fn detach(&mut self, owner: &str, dependent: &str) {
        self.dependents.remove(&(owner.into(), dependent.into()));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn object(name: &str, owners: &[(&str, bool)]) -> Object {
        Object {
            namespace: "default".to_owned(),
            name: name.to_owned(),
            owners: owners
                .iter()
                .map(|(uid, block)| OwnerReference {
                    uid: (*uid).to_owned(),
                    name: (*uid).to_owned(),
                    block_owner_deletion: Some(*block),
                    ..OwnerReference::default()
                })
                .collect(),
            ..Object::default()
        }
    }

    fn deleting(mut object: Object, finalizer: &str) -> Object {
        object.deleting = true;
        object.finalizers = vec![finalizer.to_owned()];
        object
    }

    fn absent(uids: &[&str]) -> HashSet<String> {
        uids.iter().map(|uid| (*uid).to_owned()).collect()
    }

    #[test]
    fn dependents_of_a_removed_owner_are_deleted() {
        let mut graph = Graph::default();
        graph.apply("set", object("set", &[]));
        graph.apply("pod", object("pod", &[("set", true)]));
        assert_eq!(graph.decide("pod", &absent(&[])), Decision::Keep);
        assert_eq!(graph.remove("set"), ["pod"]);
        assert_eq!(graph.unknown_owners("pod").len(), 1);
        // The API has not confirmed that the owner is gone.
        assert_eq!(graph.decide("pod", &absent(&[])), Decision::Keep);
        assert_eq!(
            graph.decide("pod", &absent(&["set"])),
            Decision::Delete(Propagation::Background)
        );
    }

    #[test]
    fn one_remaining_owner_keeps_an_object() {
        let mut graph = Graph::default();
        graph.apply("a", object("a", &[]));
        graph.apply("pod", object("pod", &[("a", true), ("b", true)]));
        match graph.decide("pod", &absent(&["b"])) {
            Decision::Disown(owners) => assert_eq!(owners[0].uid, "a"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn foreground_deletion_goes_from_the_leaves_up() {
        let mut graph = Graph::default();
        graph.apply("deployment", object("deployment", &[]));
        graph.apply("set", object("set", &[("deployment", true)]));
        graph.apply("pod", object("pod", &[("set", true)]));
        let look = graph.apply("deployment", deleting(object("deployment", &[]), FOREGROUND));
        assert_eq!(look, ["deployment", "set"]);
        let none = absent(&[]);
        assert_eq!(graph.decide("deployment", &none), Decision::Keep);
        assert_eq!(graph.decide("set", &none), Decision::Delete(Propagation::Foreground));
        graph.apply("set", deleting(object("set", &[("deployment", true)]), FOREGROUND));
        assert_eq!(graph.decide("set", &none), Decision::Keep);
        assert_eq!(graph.decide("pod", &none), Decision::Delete(Propagation::Background));
        assert_eq!(graph.remove("pod"), ["set"]);
        assert_eq!(graph.decide("set", &none), Decision::Finish(FOREGROUND));
        assert_eq!(graph.remove("set"), ["deployment"]);
        assert_eq!(graph.decide("deployment", &none), Decision::Finish(FOREGROUND));
    }

    #[test]
    fn dependents_that_do_not_block_are_not_waited_for() {
        let mut graph = Graph::default();
        graph.apply("set", deleting(object("set", &[]), FOREGROUND));
        graph.apply("pod", object("pod", &[("set", false)]));
        assert_eq!(graph.decide("set", &absent(&[])), Decision::Finish(FOREGROUND));
        assert_eq!(graph.decide("pod", &absent(&[])), Decision::Delete(Propagation::Background));
    }

    #[test]
    fn circle_of_owners_is_deleted() {
        let mut graph = Graph::default();
        for (name, owner) in [("a", "c"), ("b", "a"), ("c", "b")] {
            graph.apply(name, object(name, &[(owner, true)]));
        }
        let none = absent(&[]);
        let waits = |name, owner, block| deleting(object(name, &[(owner, block)]), FOREGROUND);
        graph.apply("a", waits("a", "c", true));
        assert_eq!(graph.decide("b", &none), Decision::Delete(Propagation::Foreground));
        graph.apply("b", waits("b", "a", true));
        let Decision::Unblock(owners) = graph.decide("c", &none) else { panic!("c blocks b") };
        let mut free = object("c", &[]);
        free.owners = owners;
        assert!(graph.apply("c", free).contains(&"c".to_owned()));
        assert_eq!(graph.decide("c", &none), Decision::Delete(Propagation::Foreground));
        graph.apply("c", waits("c", "b", false));
        for name in ["b", "a", "c"] {
            assert_eq!(graph.decide(name, &none), Decision::Finish(FOREGROUND), "{name}");
            graph.remove(name);
        }
    }

    #[test]
    fn dependent_of_another_namespace_holds_nothing_up() {
        let mut graph = Graph::default();
        let mut foreign = object("pod", &[("set", true)]);
        foreign.namespace = "other".to_owned();
        graph.apply("pod", foreign);
        graph.apply("set", deleting(object("set", &[]), FOREGROUND));
        assert_eq!(graph.decide("set", &absent(&[])), Decision::Finish(FOREGROUND));
    }

    #[test]
    fn orphans_are_set_free() {
        let mut graph = Graph::default();
        graph.apply("pod", object("pod", &[("set", true)]));
        let look = graph.apply("set", deleting(object("set", &[]), ORPHAN));
        assert_eq!(look, ["set"]);
        let none = absent(&[]);
        assert_eq!(graph.decide("set", &none), Decision::Orphan(vec!["pod".to_owned()]));
        assert_eq!(graph.decide("pod", &none), Decision::Keep);
        graph.apply("pod", object("pod", &[]));
        assert_eq!(graph.decide("set", &none), Decision::Orphan(Vec::new()));
    }

    #[test]
    fn an_owner_in_another_namespace_is_no_owner() {
        let mut graph = Graph::default();
        let mut foreign = object("set", &[]);
        foreign.namespace = "other".to_owned();
        graph.apply("set", foreign);
        graph.apply("pod", object("pod", &[("set", true)]));
        assert_eq!(graph.unknown_owners("pod").len(), 1);
        let mut cluster = object("set", &[]);
        cluster.namespace = String::new();
        graph.apply("set", cluster);
        assert!(graph.unknown_owners("pod").is_empty());
    }
}
