//! Requests to the API, with errors that name what was tried.

use std::fmt::Debug;

use k8s_openapi::{ClusterResourceScope, NamespaceResourceScope};
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::cache::{Cache, Cached, ObjectKey};
use crate::error::Error;

/// Where objects live: in namespaces, or outside them.
pub trait Scope: Sized {
    /// The requests about such a kind, in the namespace of `key` if it has one.
    fn api<K>(client: &Client, key: &ObjectKey) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = Self>;
}

impl Scope for NamespaceResourceScope {
    fn api<K>(client: &Client, key: &ObjectKey) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = Self>,
    {
        Api::namespaced(client.clone(), &key.namespace)
    }
}

impl Scope for ClusterResourceScope {
    fn api<K>(client: &Client, _: &ObjectKey) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = Self>,
    {
        Api::all(client.clone())
    }
}

/// A kind known at compile time.
pub trait Kind:
    Resource<DynamicType = (), Scope: Scope> + Clone + Debug + Serialize + DeserializeOwned
{
}
impl<K> Kind for K where
    K: Resource<DynamicType = (), Scope: Scope> + Clone + Debug + Serialize + DeserializeOwned
{
}

/// Names the failed request.
pub fn failed<K: Resource<DynamicType = ()>>(
    operation: &'static str,
    key: &ObjectKey,
) -> impl FnOnce(kube::Error) -> Error {
    let key = key.to_string();
    move |source| Error::Request {
        operation,
        kind: K::kind(&()).into_owned(),
        key,
        source: Box::new(source),
    }
}

fn api<K: Kind>(client: &Client, key: &ObjectKey) -> Api<K> {
    K::Scope::api(client, key)
}

/// Creates `object`.
pub async fn create<K: Kind>(client: &Client, object: &K) -> Result<K, Error> {
    let mut key = ObjectKey::of(object);
    if key.name.is_empty() {
        key.name = object.meta().generate_name.clone().unwrap_or_default();
    }
    api::<K>(client, &key)
        .create(&PostParams::default(), object)
        .await
        .map_err(failed::<K>("create", &key))
}

/// Reads one object, `None` if it does not exist.
pub async fn get<K: Kind>(client: &Client, key: &ObjectKey) -> Result<Option<K>, Error> {
    api::<K>(client, key).get_opt(&key.name).await.map_err(failed::<K>("get", key))
}

/// Writes `object` over the version it was read at.
pub async fn replace<K: Kind>(client: &Client, object: &K) -> Result<K, Error> {
    let key = ObjectKey::of(object);
    api::<K>(client, &key)
        .replace(&key.name, &PostParams::default(), object)
        .await
        .map_err(failed::<K>("update", &key))
}

/// Writes the status of `object` over the version it was read at.
pub async fn replace_status<K: Kind>(client: &Client, object: &K) -> Result<K, Error> {
    let key = ObjectKey::of(object);
    api::<K>(client, &key)
        .replace_subresource("status", &key.name, &PostParams::default(), object)
        .await
        .map_err(failed::<K>("update status of", &key))
}

/// Writes the status of an object and lets the cache see it; an object that is gone has none.
pub async fn write_status<K: Kind + Cached>(
    client: &Client,
    cache: &Cache<K>,
    updated: &K,
) -> Result<(), Error> {
    match replace_status(client, updated).await {
        Ok(written) => cache.observe(written),
        Err(error) if error.is_not_found() => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Merges `patch` into an object.
pub async fn merge<K: Kind>(client: &Client, key: &ObjectKey, patch: &Value) -> Result<K, Error> {
    api::<K>(client, key)
        .patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(failed::<K>("patch", key))
}

/// Merges `patch` into an object strategically (lists by their keys).
pub async fn merge_strategically<K: Kind>(
    client: &Client,
    key: &ObjectKey,
    patch: &Value,
) -> Result<K, Error> {
    api::<K>(client, key)
        .patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(failed::<K>("patch", key))
}

/// Merges `patch` into the status of an object strategically (lists by their keys).
pub async fn merge_status_strategically<K: Kind>(
    client: &Client,
    key: &ObjectKey,
    patch: &Value,
) -> Result<K, Error> {
    api::<K>(client, key)
        .patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch))
        .await
        .map_err(failed::<K>("patch status of", key))
}

/// Deletes the object if it still has that uid; an object that is gone is no error.
pub async fn delete<K: Kind>(
    client: &Client,
    key: &ObjectKey,
    uid: Option<&str>,
) -> Result<(), Error> {
    let parameters = DeleteParams {
        preconditions: uid
            .map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::background()
    };
    match api::<K>(client, key).delete(&key.name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed::<K>("delete", key)(error)),
    }
}
