//! Carrying the decisions of the garbage collector out.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::api::{
    Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions, PropagationPolicy,
};
use serde_json::{Value, json};

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::garbage_collector::graph::{Decision, Graph, ORPHAN, Object, Propagation};
use crate::inventory::Inventory;
use crate::queue::{Queue, Requeue};

/// How many objects are dealt with at once.
const WORKERS: usize = 20;

struct Collector {
    context: Arc<Context>,
    inventory: Arc<Inventory>,
    recorder: Recorder,
    graph: Mutex<Graph>,
    queue: Arc<Queue<String>>,
}

/// Subscribes to what matters and returns the workers, to be run when everything has been seen.
pub fn workers(
    context: &Arc<Context>,
    inventory: &Arc<Inventory>,
) -> impl Future<Output = ()> + Send + use<> {
    let collector = Arc::new(Collector {
        context: context.clone(),
        inventory: inventory.clone(),
        recorder: context.recorder.speaking_for("garbage-collector-controller"),
        graph: Mutex::default(),
        queue: Queue::new(),
    });
    let watcher = collector.clone();
    inventory.on_sighting(move |sighting| {
        let Some(uid) = &sighting.meta.uid else { return };
        let look = if sighting.gone {
            watcher.lock().remove(uid)
        } else {
            watcher.lock().apply(uid, Object::new(sighting.kind, sighting.meta))
        };
        look.into_iter().for_each(|uid| watcher.queue.add(uid));
    });
    async move {
        let token = &collector.context.token;
        tokio::select! {
            () = token.cancelled() => return,
            () = collector.inventory.synced() => {}
        }
        let queue = &collector.queue;
        queue.serve("garbage-collector", WORKERS, token, &collector, Collector::look).await;
    }
}

impl Collector {
    async fn look(self: Arc<Self>, uid: String) -> Result<Requeue, Error> {
        let (object, unknown) = {
            let graph = self.lock();
            let Some(object) = graph.get(&uid).cloned() else { return Ok(Requeue::Never) };
            (object, graph.unknown_owners(&uid))
        };
        let mut absent = HashSet::new();
        if !object.deleting {
            for owner in unknown {
                if !self.exists(&uid, &object, &owner).await? {
                    absent.insert(owner.uid);
                }
            }
        }
        let decision = self.lock().decide(&uid, &absent);
        let done = match decision {
            Decision::Keep => Ok(()),
            Decision::Delete(propagation) => self.delete(&uid, &object, propagation).await,
            Decision::Disown(owners) | Decision::Unblock(owners) => {
                self.patch(&uid, &object, json!({"ownerReferences": owners})).await
            }
            Decision::Finish(finalizer) => self.finish(&uid, &object, finalizer).await,
            Decision::Orphan(dependents) => self.orphan(&uid, &object, dependents).await,
        };
        match done {
            Err(error) if error.is_not_found() => Ok(Requeue::Never),
            done => done.map(|()| Requeue::Never),
        }
    }

    /// Asks the API whether an owner exists that the graph does not know.
    async fn exists(
        &self,
        uid: &str,
        object: &Object,
        owner: &OwnerReference,
    ) -> Result<bool, Error> {
        // What kind that is, nobody can say; so nobody can say that it is gone.
        let Some(kind) = self.inventory.find(&owner.api_version, &owner.kind) else {
            return Ok(true);
        };
        let namespaced = self.inventory.kinds[kind].namespaced;
        if namespaced && object.namespace.is_empty() {
            self.warn(uid, object, owner, "is namespaced, but its dependent is not");
            return Ok(true);
        }
        let namespace = if namespaced { object.namespace.as_str() } else { "" };
        let api = self.api(kind, namespace);
        let key = ObjectKey::new(namespace, &owner.name);
        let found =
            api.get_metadata_opt(&owner.name).await.map_err(self.failed("get", kind, &key))?;
        let exists = found.is_some_and(|found| found.metadata.uid.as_ref() == Some(&owner.uid));
        let elsewhere = self.lock().get(&owner.uid).is_some();
        if !exists && elsewhere {
            let text = format!("does not exist in namespace \"{namespace}\"");
            self.warn(uid, object, owner, &text);
        }
        Ok(exists)
    }

    fn warn(&self, uid: &str, object: &Object, owner: &OwnerReference, text: &str) {
        let resource = &self.inventory.kinds[object.kind].resource;
        let reference = ObjectReference {
            api_version: Some(resource.api_version.clone()),
            kind: Some(resource.kind.clone()),
            namespace: (!object.namespace.is_empty()).then(|| object.namespace.clone()),
            name: Some(object.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let message = format!(
            "ownerRef [{}/{}, namespace: {}, name: {}, uid: {}] {text}",
            owner.api_version, owner.kind, object.namespace, owner.name, owner.uid
        );
        self.recorder.record_about(reference, Notice::warning("OwnerRefInvalidNamespace", message));
    }

    async fn delete(
        &self,
        uid: &str,
        object: &Object,
        propagation: Propagation,
    ) -> Result<(), Error> {
        let policy = match propagation {
            Propagation::Background => PropagationPolicy::Background,
            Propagation::Foreground => PropagationPolicy::Foreground,
            Propagation::Orphan => PropagationPolicy::Orphan,
        };
        let parameters = DeleteParams {
            propagation_policy: Some(policy),
            preconditions: Some(Preconditions {
                uid: Some(uid.to_owned()),
                resource_version: None,
            }),
            ..DeleteParams::default()
        };
        let key = ObjectKey::new(&object.namespace, &object.name);
        self.api(object.kind, &object.namespace)
            .delete(&object.name, &parameters)
            .await
            .map_err(self.failed("delete", object.kind, &key))?;
        Ok(())
    }

    async fn finish(&self, uid: &str, object: &Object, finalizer: &str) -> Result<(), Error> {
        let remaining: Vec<&String> =
            object.finalizers.iter().filter(|known| *known != finalizer).collect();
        let value = if remaining.is_empty() { Value::Null } else { json!(remaining) };
        self.patch(uid, object, json!({"finalizers": value})).await
    }

    async fn orphan(
        &self,
        uid: &str,
        object: &Object,
        dependents: Vec<String>,
    ) -> Result<(), Error> {
        for dependent_uid in dependents {
            let Some(dependent) = self.lock().get(&dependent_uid).cloned() else { continue };
            let owners: Vec<&OwnerReference> =
                dependent.owners.iter().filter(|owner| owner.uid != uid).collect();
            let value = if owners.is_empty() { Value::Null } else { json!(owners) };
            match self.patch(&dependent_uid, &dependent, json!({"ownerReferences": value})).await {
                Err(error) if !error.is_not_found() => return Err(error),
                _ => {}
            }
        }
        self.finish(uid, object, ORPHAN).await
    }

    /// Merges into the metadata of exactly this version of exactly this object.
    async fn patch(&self, uid: &str, object: &Object, mut metadata: Value) -> Result<(), Error> {
        metadata["uid"] = json!(uid);
        metadata["resourceVersion"] = json!(object.resource_version);
        let key = ObjectKey::new(&object.namespace, &object.name);
        let patch = json!({"metadata": metadata});
        self.api(object.kind, &object.namespace)
            .patch_metadata(&object.name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .map_err(self.failed("patch", object.kind, &key))?;
        Ok(())
    }

    fn api(&self, kind: usize, namespace: &str) -> Api<DynamicObject> {
        let resource = &self.inventory.kinds[kind].resource;
        let client = self.context.client.clone();
        if namespace.is_empty() {
            Api::all_with(client, resource)
        } else {
            Api::namespaced_with(client, namespace, resource)
        }
    }

    fn failed(
        &self,
        operation: &'static str,
        kind: usize,
        key: &ObjectKey,
    ) -> impl FnOnce(kube::Error) -> Error {
        let kind = self.inventory.kinds[kind].resource.kind.clone();
        let key = key.to_string();
        move |source| Error::Request { operation, kind, key, source: Box::new(source) }
    }

    fn lock(&self) -> MutexGuard<'_, Graph> {
        self.graph.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
