//! The form of the objects in a cache: decoded, or packed where there are many that are seldom
//! read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ::watch::Packed;
use kube::Resource;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::ObjectKey;

/// Groups for which a cache keeps room when most of them are gone.
const SPARE_GROUPS: usize = 64;

type Pack<K> = fn(&K) -> Option<Packed<K>>;

/// The form in which a cache holds its objects.
pub(crate) struct Form<K> {
    /// Takes away what no controller reads.
    pub trim: fn(&mut K),
    /// Packs an object; without it, objects are held decoded.
    pub pack: Option<Pack<K>>,
    /// By what objects of a namespace are looked up besides their names.
    pub group: Option<fn(&K) -> Option<String>>,
}

impl<K> Form<K> {
    /// Objects are held as they come.
    pub fn whole() -> Self {
        Self { trim: |_| {}, pack: None, group: None }
    }
}

impl<K: Serialize + DeserializeOwned> Form<K> {
    /// Objects are held packed.
    pub fn packed() -> Self {
        Self { pack: Some(Packed::new), ..Self::whole() }
    }
}

enum Held<K> {
    Decoded(Arc<K>),
    Packed(Packed<K>),
}

impl<K: DeserializeOwned> Held<K> {
    fn open(&self) -> Option<Arc<K>> {
        match self {
            Self::Decoded(object) => Some(object.clone()),
            Self::Packed(packed) => packed.unpack().map(Arc::new),
        }
    }
}

/// The objects of a cache.
pub(crate) struct Objects<K> {
    form: Form<K>,
    held: BTreeMap<ObjectKey, Held<K>>,
    /// Names in their order by namespace and group. No set: nearly every group has one.
    groups: HashMap<(String, String), Vec<Box<str>>>,
}

impl<K: Resource + DeserializeOwned> Objects<K> {
    /// None yet.
    pub fn new(form: Form<K>) -> Self {
        Self { form, held: BTreeMap::new(), groups: HashMap::new() }
    }

    /// Takes the fields away that are not kept.
    pub fn trim(&self, object: &mut K) {
        object.meta_mut().managed_fields = None;
        (self.form.trim)(object);
    }

    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.held.get(key)?.open()
    }

    /// The objects of one namespace, in the order of their names.
    pub fn namespaced(&self, namespace: &str) -> Vec<Arc<K>> {
        self.held
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .filter_map(|(_, held)| held.open())
            .collect()
    }

    /// The objects of one namespace that belong to a group.
    pub fn grouped(&self, namespace: &str, group: &str) -> Vec<Arc<K>> {
        let names = self.groups.get(&(namespace.to_owned(), group.to_owned()));
        let keys = names.into_iter().flatten().map(|name| ObjectKey::new(namespace, &**name));
        keys.filter_map(|key| self.get(&key)).collect()
    }

    /// The objects of all namespaces that belong to a group.
    pub fn group(&self, group: &str) -> Vec<Arc<K>> {
        let mut members: Vec<&(String, String)> =
            self.groups.keys().filter(|(_, known)| known == group).collect();
        members.sort();
        members.into_iter().flat_map(|(namespace, group)| self.grouped(namespace, group)).collect()
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.held.values().filter_map(Held::open).collect()
    }

    /// Every key.
    pub fn keys(&self) -> BTreeSet<ObjectKey> {
        self.held.keys().cloned().collect()
    }

    /// Holds an object in place of `old`.
    pub fn insert(&mut self, key: ObjectKey, new: &Arc<K>, old: Option<&Arc<K>>) {
        self.ungroup(&key, old);
        if let Some(group) = self.form.group.and_then(|group| group(new)) {
            let names = self.groups.entry((key.namespace.clone(), group)).or_default();
            if let Err(at) = position(names, &key.name) {
                if names.is_empty() {
                    names.reserve_exact(1);
                }
                names.insert(at, key.name.as_str().into());
            }
        }
        let packed = self.form.pack.and_then(|pack| pack(new));
        self.held.insert(key, packed.map_or_else(|| Held::Decoded(new.clone()), Held::Packed));
    }

    /// Removes an object; returns its last state.
    pub fn remove(&mut self, key: &ObjectKey) -> Option<Arc<K>> {
        let removed = self.held.remove(key)?.open();
        self.ungroup(key, removed.as_ref());
        removed
    }

    fn ungroup(&mut self, key: &ObjectKey, object: Option<&Arc<K>>) {
        let group = self.form.group.zip(object).and_then(|(group, object)| group(object));
        let Some(group) = group.map(|group| (key.namespace.clone(), group)) else { return };
        if let Some(names) = self.groups.get_mut(&group) {
            if let Ok(at) = position(names, &key.name) {
                names.remove(at);
            }
            if names.is_empty() {
                self.groups.remove(&group);
            }
        }
        if self.groups.capacity() > SPARE_GROUPS + 4 * self.groups.len() {
            self.groups.shrink_to_fit();
        }
    }
}

/// Returns the place of a name, or the place where it belongs.
fn position(names: &[Box<str>], name: &str) -> Result<usize, usize> {
    names.binary_search_by(|known| (**known).cmp(name))
}
