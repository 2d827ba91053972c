//! Who controls what: controller references, adoption of orphans and release of strangers.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta, OwnerReference};
use kube::{Client, Resource};
use serde_json::{Value, json};

use crate::cache::{Cache, Cached, ObjectKey};
use crate::error::Error;
use crate::request::{self, Kind};
use crate::selector;

/// The reference of the controller of an object.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.iter().flatten().find(|owner| owner.controller == Some(true))
}

/// Whether the object with `uid` controls the object of `meta`.
pub fn is_controlled_by(meta: &ObjectMeta, uid: &str) -> bool {
    controller_of(meta).is_some_and(|owner| owner.uid == uid)
}

/// A reference that makes `owner` the controller of another object.
pub fn controller_reference<K: Resource<DynamicType = ()>>(owner: &K) -> OwnerReference {
    OwnerReference {
        api_version: K::api_version(&()).into_owned(),
        kind: K::kind(&()).into_owned(),
        name: owner.meta().name.clone().unwrap_or_default(),
        uid: owner.meta().uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The key of the controller of an object, if the controller is of `kind` in `group`.
pub fn controller_key(meta: &ObjectMeta, group: &str, kind: &str) -> Option<ObjectKey> {
    let owner = controller_of(meta)?;
    let owner_group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
    (owner.kind == kind && owner_group == group)
        .then(|| ObjectKey::new(meta.namespace.clone().unwrap_or_default(), &owner.name))
}

/// What an owner and its possible dependents ask for.
#[derive(Debug)]
pub struct Claim<K> {
    /// Controlled by the owner and matching.
    pub owned: Vec<Arc<K>>,
    /// Matching without a controller: to be adopted.
    pub adopt: Vec<Arc<K>>,
    /// Controlled by the owner though no longer matching: to be released.
    pub release: Vec<Arc<K>>,
}

/// Sorts `candidates` by what `owner` has to do about them (upstream `ControllerRefManager`).
pub fn claim<K: Resource>(
    owner: &ObjectMeta,
    labels: &LabelSelector,
    candidates: Vec<Arc<K>>,
    may_adopt: impl Fn(&K) -> bool,
) -> Claim<K> {
    let uid = owner.uid.as_deref().unwrap_or_default();
    let deleting = owner.deletion_timestamp.is_some();
    let mut claim = Claim { owned: Vec::new(), adopt: Vec::new(), release: Vec::new() };
    for candidate in candidates {
        let meta = candidate.meta();
        let matching = selector::matches(labels, meta.labels.as_ref());
        match controller_of(meta) {
            Some(controller) if controller.uid != uid => {}
            Some(_) if matching => claim.owned.push(candidate),
            Some(_) if deleting => {}
            Some(_) => claim.release.push(candidate),
            None => {
                let adoptable = matching
                    && !deleting
                    && meta.deletion_timestamp.is_none()
                    && may_adopt(&candidate);
                if adoptable {
                    claim.adopt.push(candidate);
                }
            }
        }
    }
    claim
}

/// Carries a claim out and returns everything that `owner` controls afterwards.
///
/// Before adopting, the owner is read again from the server: a cached owner that was deleted
/// meanwhile must not take objects with it.
pub async fn settle<O: Kind, K: Kind + Cached>(
    client: &Client,
    cache: &Cache<K>,
    owner: &O,
    claim: Claim<K>,
) -> Result<Vec<Arc<K>>, Error> {
    let mut owned = claim.owned;
    if !claim.adopt.is_empty() {
        let live = request::get::<O>(client, &ObjectKey::of(owner)).await?;
        let same = live.is_some_and(|live| {
            live.meta().uid == owner.meta().uid && live.meta().deletion_timestamp.is_none()
        });
        if same {
            for orphan in claim.adopt {
                let mut owners = orphan.meta().owner_references.clone().unwrap_or_default();
                owners.push(controller_reference(owner));
                if let Some(adopted) = write_owners(client, cache, &*orphan, &owners).await? {
                    owned.push(adopted);
                }
            }
        }
    }
    let uid = owner.meta().uid.as_deref().unwrap_or_default();
    for stranger in claim.release {
        let mut owners = stranger.meta().owner_references.clone().unwrap_or_default();
        owners.retain(|reference| reference.uid != uid);
        write_owners(client, cache, &*stranger, &owners).await?;
    }
    Ok(owned)
}

async fn write_owners<K: Kind + Cached>(
    client: &Client,
    cache: &Cache<K>,
    object: &K,
    owners: &[OwnerReference],
) -> Result<Option<Arc<K>>, Error> {
    let key = ObjectKey::of(object);
    match request::merge::<K>(client, &key, &owners_patch(object.meta(), owners)).await {
        Ok(written) => {
            cache.observe(written.clone());
            Ok(Some(Arc::new(written)))
        }
        // Gone, or replaced by a namesake: nothing to own.
        Err(error) if error.is_not_found() || error.is_invalid() => Ok(None),
        Err(error) => Err(error),
    }
}

/// A merge patch that sets the owner references, refused if the object is not this one any more.
pub fn owners_patch(meta: &ObjectMeta, owners: &[OwnerReference]) -> Value {
    let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
    json!({"metadata": {
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        "ownerReferences": owners,
    }})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSet;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;
    use crate::fixture;

    #[test]
    fn matching_orphans_are_adopted_and_strangers_released() {
        let mut owner = ReplicaSet::default();
        owner.metadata.uid = Some("mine".to_owned());
        let labels: LabelSelector =
            serde_json::from_value(json!({"matchLabels": {"app": "a"}})).unwrap();
        let pod = |name: &str, app: &str, controller: Option<&str>, deleting: bool| {
            let controller = controller.map(|uid| {
                let mut reference = controller_reference(&owner);
                uid.clone_into(&mut reference.uid);
                vec![reference]
            });
            let deleted = deleting.then_some("2024-01-02T00:00:00Z");
            let metadata = json!({"labels": {"app": app}, "ownerReferences": controller,
                "deletionTimestamp": deleted});
            fixture::pod(name, json!({"metadata": metadata}))
        };
        let claim = claim(
            &owner.metadata,
            &labels,
            vec![
                pod("owned", "a", Some("mine"), false),
                pod("orphan", "a", None, false),
                pod("dying orphan", "a", None, true),
                pod("relabelled", "b", Some("mine"), false),
                pod("foreign", "a", Some("theirs"), false),
                pod("unrelated", "b", None, false),
            ],
            |_| true,
        );
        let names = |pods: &[Arc<Pod>]| -> Vec<String> {
            pods.iter().map(|pod| pod.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names(&claim.owned), ["owned"]);
        assert_eq!(names(&claim.adopt), ["orphan"]);
        assert_eq!(names(&claim.release), ["relabelled"]);
    }
}
