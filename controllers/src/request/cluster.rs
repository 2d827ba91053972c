//! The same requests for objects that live outside namespaces.

use k8s_openapi::ClusterResourceScope;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::fmt::Debug;

use crate::cache::ObjectKey;
use crate::error::Error;
use crate::request::failed;

/// A kind of cluster scope known at compile time.
pub trait ClusterKind:
    Resource<DynamicType = (), Scope = ClusterResourceScope>
    + Clone
    + Debug
    + Serialize
    + DeserializeOwned
{
}
impl<K> ClusterKind for K where
    K: Resource<DynamicType = (), Scope = ClusterResourceScope>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
{
}

/// Creates `object`.
pub async fn create<K: ClusterKind>(client: &Client, object: &K) -> Result<K, Error> {
    Api::<K>::all(client.clone())
        .create(&PostParams::default(), object)
        .await
        .map_err(failed::<K>("create", &ObjectKey::of(object)))
}

/// Writes `object` over the version it was read at.
pub async fn replace<K: ClusterKind>(client: &Client, object: &K) -> Result<K, Error> {
    let key = ObjectKey::of(object);
    Api::<K>::all(client.clone())
        .replace(&key.name, &PostParams::default(), object)
        .await
        .map_err(failed::<K>("update", &key))
}

/// Writes the status of `object` over the version it was read at.
pub async fn replace_status<K: ClusterKind>(client: &Client, object: &K) -> Result<K, Error> {
    let key = ObjectKey::of(object);
    Api::<K>::all(client.clone())
        .replace_subresource("status", &key.name, &PostParams::default(), object)
        .await
        .map_err(failed::<K>("update status of", &key))
}

/// Merges `patch` into an object.
pub async fn merge<K: ClusterKind>(client: &Client, name: &str, patch: &Value) -> Result<K, Error> {
    Api::<K>::all(client.clone())
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map_err(failed::<K>("patch", &ObjectKey::new("", name)))
}

/// Deletes the object if it still has that uid; an object that is gone is no error.
pub async fn delete<K: ClusterKind>(
    client: &Client,
    name: &str,
    uid: Option<&str>,
) -> Result<(), Error> {
    let parameters = DeleteParams {
        preconditions: uid
            .map(|uid| Preconditions { uid: Some(uid.to_owned()), resource_version: None }),
        ..DeleteParams::background()
    };
    match Api::<K>::all(client.clone()).delete(name, &parameters).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
        Err(error) => Err(failed::<K>("delete", &ObjectKey::new("", name))(error)),
    }
}
