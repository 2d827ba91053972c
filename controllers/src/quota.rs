//! The ResourceQuota controller: how much of each quota is taken. Whether there is room for more
//! the server decides itself, when something is created.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use api::quantity::Quantity;
use api::quota::{self, Amounts, Counted, Measured};
use http::Request;
use k8s_openapi::api::core::v1::{ResourceQuota, ResourceQuotaStatus};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;

use crate::cache::{Cache, Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::inventory::Inventory;
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many quotas are counted at once.
const WORKERS: usize = 2;
/// Changes that come together are counted together.
const SETTLE: Duration = Duration::from_millis(100);

/// Subscribes to what is counted and returns the workers, to be run when the caches are filled.
pub fn workers(
    context: &Arc<Context>,
    inventory: &Arc<Inventory>,
) -> impl Future<Output = ()> + Send + use<> {
    let queue: Arc<Queue<ObjectKey>> = Queue::new();
    let quotas = context.caches.quotas.clone();
    let wake = queue.clone();
    quotas.on_change(move |change| {
        if let Change::Applied { old: Some(old), new } = change
            && old.spec == new.spec
            && old.status == new.status
        {
            return;
        }
        wake.add(ObjectKey::of(change.object().as_ref()));
    });
    let wake = queue.clone();
    inventory.on_sighting(move |sighting| {
        let Some(namespace) = sighting.meta.namespace.as_deref() else { return };
        for quota in quotas.namespaced(namespace) {
            wake.add_after(ObjectKey::of(quota.as_ref()), SETTLE);
        }
    });
    context.serve(&queue, "resource-quota-controller", WORKERS, reconcile)
}

async fn reconcile(context: Arc<Context>, key: ObjectKey) -> Result<Requeue, Error> {
    let Some(known) = context.caches.quotas.get(&key) else { return Ok(Requeue::Never) };
    if known.metadata.deletion_timestamp.is_some() {
        return Ok(Requeue::Never);
    }
    let hard = known.spec.as_ref().and_then(|spec| spec.hard.clone()).unwrap_or_default();
    let mut objects = BTreeMap::new();
    for counted in hard.keys().map(|resource| quota::counted(resource)).collect::<BTreeSet<_>>() {
        let found = list(&context, &key.namespace, &counted).await?;
        objects.insert(counted, found);
    }
    let document = serde_json::to_value(known.as_ref()).unwrap_or_default();
    let used = used(&document, hard.keys(), &objects);
    let status = ResourceQuotaStatus { hard: Some(hard), used: Some(used) };
    if known.status.as_ref() != Some(&status) {
        write(&context, &context.caches.quotas, &known, status).await?;
    }
    Ok(Requeue::Never)
}

async fn write(
    context: &Context,
    cache: &Cache<ResourceQuota>,
    known: &ResourceQuota,
    status: ResourceQuotaStatus,
) -> Result<(), Error> {
    let mut updated = known.clone();
    updated.status = Some(status);
    request::write_status(&context.client, cache, &updated).await
}

/// What is taken of each of these resources.
fn used<'a>(
    quota: &Value,
    resources: impl Iterator<Item = &'a String>,
    objects: &BTreeMap<Counted, Vec<Value>>,
) -> BTreeMap<String, Text> {
    let resources: Vec<&String> = resources.collect();
    let mut total = Amounts::new();
    for (counted, found) in objects {
        let measure = |object| Measured::of(&counted.group, &counted.plural, object);
        let measured: Vec<Option<Measured>> = found.iter().map(measure).collect();
        let names = resources.iter().map(|name| name.as_str());
        let taken = quota::total(quota, counted, names, measured.iter().map(Option::as_ref));
        quota::add(&mut total, &taken);
    }
    let of = |name: &String| total.get(name).copied().unwrap_or(Quantity::ZERO).to_string();
    resources.into_iter().map(|name| (name.clone(), Text(of(name)))).collect()
}

/// Every object of a type in the namespace; none of a type that is not served.
async fn list(context: &Context, namespace: &str, counted: &Counted) -> Result<Vec<Value>, Error> {
    if counted.group.is_empty() && counted.plural == "pods" {
        let pods = context.caches.pods.namespaced(namespace);
        return Ok(pods.iter().filter_map(|pod| serde_json::to_value(pod.as_ref()).ok()).collect());
    }
    let served = context.config.resources.iter().find_map(|resource| {
        let stored = resource.storage();
        (resource.namespaced && stored.group == counted.group && stored.plural == counted.plural)
            .then_some(stored)
    });
    let Some(served) = served else { return Ok(Vec::new()) };
    let root = if served.group.is_empty() { "/api" } else { "/apis" };
    let path = format!("{root}/{}/namespaces/{namespace}/{}", served.api_version(), served.plural);
    let outcome = match Request::get(path).body(Vec::new()) {
        Ok(request) => context.client.request::<Value>(request).await,
        Err(error) => Err(kube::Error::HttpError(error)),
    };
    let mut list = outcome.map_err(|source| Error::Request {
        operation: "list",
        kind: served.kind.to_owned(),
        key: namespace.to_owned(),
        source: Box::new(source),
    })?;
    match list["items"].take() {
        Value::Array(items) => Ok(items),
        _ => Ok(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_limited_resource_has_an_amount() {
        let pod = json!({"spec": {"containers": [{"name": "c",
            "resources": {"requests": {"cpu": "100m"}}}]}});
        let objects = BTreeMap::from([(quota::counted("pods"), vec![pod.clone(), pod])]);
        let hard = ["limits.cpu", "pods", "requests.cpu"].map(str::to_owned);
        let used = used(&json!({"spec": {}}), hard.iter(), &objects);
        let texts: Vec<_> =
            used.iter().map(|(name, amount)| format!("{name}={}", amount.0)).collect();
        assert_eq!(texts, ["limits.cpu=0", "pods=2", "requests.cpu=200m"]);
    }
}
