//! The Namespace controller: a namespace that is being deleted is emptied, and finalized when
//! nothing is left in it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{TryStreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Namespace, NamespaceCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, PostParams};

use crate::cache::ObjectKey;
use crate::context::Context;
use crate::error::Error;
use crate::inventory::{Inventory, Kind, Sighting};
use crate::queue::{Queue, Requeue};
use crate::request;

/// How many namespaces are emptied at once.
const WORKERS: usize = 4;
/// Objects that are listed at a time.
const PAGE_OBJECTS: u32 = 100;
/// Objects of a kind that are deleted at the same time.
const DELETIONS: usize = 8;
/// The finalizer that this controller takes away.
const FINALIZER: &str = "kubernetes";
/// How long the content of a namespace is left alone after the last object went by itself. Who
/// deletes the namespace among other things (`kubectl delete -f`, `-k`) shall still find these.
const QUIET: Duration = Duration::from_secs(1);
/// How long it is left alone at most. (Upstream always waits that long.)
const GRACE: Duration = Duration::from_secs(5);
/// What every namespace has, without anybody asking for it.
const GIVEN: [(&str, &str); 2] = [("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")];

/// A namespace that is being deleted.
#[derive(Clone, Copy, Debug)]
struct Ending {
    /// Since when.
    since: Instant,
    /// When something in it went last.
    departure: Instant,
    /// Whether there was content when its deletion began.
    held: bool,
    /// Whether its content is being deleted.
    emptied: bool,
}

impl Ending {
    fn new(now: Instant) -> Self {
        Self { since: now, departure: now, held: false, emptied: false }
    }

    /// How long its content is to be left alone yet.
    fn patience(&self, now: Instant) -> Option<Duration> {
        let due = (self.departure + QUIET).min(self.since + GRACE);
        let left = due.saturating_duration_since(now);
        (!self.emptied && !left.is_zero()).then_some(left)
    }
}

/// The namespaces that are being deleted, by name.
#[derive(Debug, Default)]
struct Endings(Mutex<HashMap<String, Ending>>);

impl Endings {
    fn with<T>(&self, name: &str, work: impl FnOnce(&mut Ending) -> T) -> T {
        let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(endings.entry(name.to_owned()).or_insert_with(|| Ending::new(Instant::now())))
    }

    fn forget(&self, name: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
    }
}

/// What is left of one kind in a namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Remainder {
    /// `plural.group`, with a bare dot for the core group.
    pub resource: String,
    /// How many objects.
    pub count: usize,
    /// Their finalizers, each as often as it occurs.
    pub finalizers: Vec<String>,
}

/// The conditions that tell how the deletion gets on.
pub fn conditions(
    known: &[NamespaceCondition],
    remainders: &[Remainder],
    failures: &[String],
    now: Timestamp,
) -> Vec<NamespaceCondition> {
    let content = if failures.is_empty() {
        (
            false,
            "ContentDeleted",
            "All content successfully deleted, may be waiting on finalization".to_owned(),
        )
    } else {
        let message = format!(
            "Failed to delete all resource types, {} remaining: {}",
            failures.len(),
            failures.join(", ")
        );
        (true, "ContentDeletionFailed", message)
    };
    let mut resources: Vec<String> = remainders
        .iter()
        .map(|left| format!("{} has {} resource instances", left.resource, left.count))
        .collect();
    resources.sort();
    let remaining = if resources.is_empty() {
        (false, "ContentRemoved", "All content successfully removed".to_owned())
    } else {
        let message = format!("Some resources are remaining: {}", resources.join(", "));
        (true, "SomeResourcesRemain", message)
    };
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for finalizer in remainders.iter().flat_map(|left| &left.finalizers) {
        *counts.entry(finalizer).or_default() += 1;
    }
    let finalizers = if counts.is_empty() {
        (false, "ContentHasNoFinalizers", "All content-preserving finalizers finished".to_owned())
    } else {
        let texts: Vec<String> = counts
            .iter()
            .map(|(finalizer, count)| format!("{finalizer} in {count} resource instances"))
            .collect();
        let message =
            format!("Some content in the namespace has finalizers remaining: {}", texts.join(", "));
        (true, "SomeFinalizersRemain", message)
    };
    [
        (
            "NamespaceDeletionDiscoveryFailure",
            (false, "ResourcesDiscovered", "All resources successfully discovered".to_owned()),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            (false, "ParsedGroupVersions", "All legacy kube types successfully parsed".to_owned()),
        ),
        ("NamespaceDeletionContentFailure", content),
        ("NamespaceContentRemaining", remaining),
        ("NamespaceFinalizersRemaining", finalizers),
    ]
    .into_iter()
    .map(|(kind, (holds, reason, message))| {
        let status = if holds { "True" } else { "False" };
        let before = known.iter().find(|condition| condition.type_ == kind);
        let since = before
            .filter(|before| before.status == status)
            .and_then(|before| before.last_transition_time.clone())
            .unwrap_or(Time(now));
        NamespaceCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: Some(since),
        }
    })
    .collect()
}

struct Controller {
    context: Arc<Context>,
    inventory: Arc<Inventory>,
    endings: Endings,
    queue: Arc<Queue<ObjectKey>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(
    context: &Arc<Context>,
    inventory: &Arc<Inventory>,
) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        inventory: inventory.clone(),
        endings: Endings::default(),
        queue: Queue::new(),
    });
    let queue = controller.queue.clone();
    context.caches.namespaces.on_change(move |change| {
        if change.object().metadata.deletion_timestamp.is_some() {
            queue.add(ObjectKey::of(change.object().as_ref()));
        }
    });
    let watcher = controller.clone();
    inventory.on_sighting(move |sighting| watcher.sighted(sighting));
    let queue = &controller.queue;
    queue.serve("namespace-controller", WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    /// Whatever leaves a namespace may have been the last thing in it.
    fn sighted(&self, sighting: &Sighting<'_>) {
        let Some(name) = sighting.meta.namespace.as_deref().filter(|_| sighting.gone) else {
            return;
        };
        let key = ObjectKey::new("", name);
        let namespace = self.context.caches.namespaces.get(&key);
        if namespace.is_some_and(|known| known.metadata.deletion_timestamp.is_some()) {
            self.endings.with(name, |ending| ending.departure = Instant::now());
            self.queue.add(key);
        }
    }

    async fn reconcile(self: Arc<Self>, key: ObjectKey) -> Result<Requeue, Error> {
        let context = &self.context;
        let namespace = context.caches.namespaces.get(&key);
        let Some(namespace) = namespace.filter(|known| known.metadata.deletion_timestamp.is_some())
        else {
            self.endings.forget(&key.name);
            return Ok(Requeue::Never);
        };
        let finalizers = namespace.spec.as_ref().and_then(|spec| spec.finalizers.clone());
        let finalizers = finalizers.unwrap_or_default();
        if !finalizers.iter().any(|finalizer| finalizer == FINALIZER) {
            return Ok(Requeue::Never);
        }
        let ending = self.endings.with(&key.name, |ending| *ending);
        if let Some(left) = ending.patience(Instant::now())
            && (ending.held || has_content(context, &self.inventory, &key.name).await?)
        {
            self.endings.with(&key.name, |ending| ending.held = true);
            return Ok(Requeue::After(left));
        }
        self.endings.with(&key.name, |ending| ending.emptied = true);
        let kinds = self.inventory.kinds.iter().filter(|kind| kind.namespaced);
        let outcomes = join_all(kinds.map(|kind| empty(context, kind, &key.name))).await;
        let mut remainders = Vec::new();
        let mut failures = Vec::new();
        for outcome in outcomes {
            match outcome {
                Ok(None) => {}
                Ok(Some(remainder)) => remainders.push(remainder),
                Err(error) => failures.push(error),
            }
        }
        let messages: Vec<String> = failures.iter().map(Error::message).collect();
        let mut current = (*namespace).clone();
        let status = current.status.get_or_insert_default();
        status.phase = Some("Terminating".to_owned());
        let known = status.conditions.take().unwrap_or_default();
        status.conditions = Some(conditions(&known, &remainders, &messages, Timestamp::now()));
        if current != *namespace {
            match request::replace_status(&context.client, &current).await {
                Ok(written) => {
                    current.metadata.resource_version = written.metadata.resource_version.clone();
                    context.caches.namespaces.observe(written);
                }
                Err(error) if error.is_not_found() => return Ok(Requeue::Never),
                Err(error) => return Err(error),
            }
        }
        if let Some(first) = failures.into_iter().next() {
            return Err(first);
        }
        if !remainders.is_empty() {
            return Ok(Requeue::Never);
        }
        current.spec.get_or_insert_default().finalizers =
            Some(finalizers.into_iter().filter(|finalizer| finalizer != FINALIZER).collect());
        let api: Api<Namespace> = Api::all(context.client.clone());
        let parameters = PostParams::default();
        match api.replace_subresource("finalize", &key.name, &parameters, &current).await {
            Ok(_) => Ok(Requeue::Never),
            Err(kube::Error::Api(status)) if status.is_not_found() => Ok(Requeue::Never),
            Err(error) => Err(request::failed::<Namespace>("finalize", &key)(error)),
        }
    }
}

/// Whether somebody has put something into a namespace.
async fn has_content(
    context: &Context,
    inventory: &Inventory,
    namespace: &str,
) -> Result<bool, Error> {
    for kind in inventory.kinds.iter().filter(|kind| kind.namespaced) {
        let api: Api<DynamicObject> =
            Api::namespaced_with(context.client.clone(), namespace, &kind.resource);
        // One more than there may be without anybody's doing.
        let some = ListParams::default().limit(GIVEN.len() as u32 + 1);
        let found = api.list_metadata(&some).await.map_err(|source| {
            let key = ObjectKey::new(namespace, "*").to_string();
            let kind = kind.resource.kind.clone();
            Error::Request { operation: "list", kind, key, source: Box::new(source) }
        })?;
        let kind = kind.resource.kind.as_str();
        let given = |name: Option<&str>| {
            GIVEN.iter().any(|known| Some(*known) == name.map(|name| (kind, name)))
        };
        if kind != "Event" && found.items.iter().any(|o| !given(o.metadata.name.as_deref())) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Deletes every object of a kind and returns what is left of it.
async fn empty(
    context: &Context,
    kind: &Kind,
    namespace: &str,
) -> Result<Option<Remainder>, Error> {
    let api: Api<DynamicObject> =
        Api::namespaced_with(context.client.clone(), namespace, &kind.resource);
    let key = ObjectKey::new(namespace, "*");
    let failed = |operation: &'static str| {
        let (kind, key) = (kind.resource.kind.clone(), key.to_string());
        move |source| Error::Request { operation, kind, key, source: Box::new(source) }
    };
    let background = DeleteParams::background();
    let mut remainder: Option<Remainder> = None;
    let mut page = ListParams::default().limit(PAGE_OBJECTS);
    // Page by page, and by name: a namespace may hold more than there is memory for twice.
    loop {
        let found = api.list_metadata(&page).await.map_err(failed("list"))?;
        let names = found.items.into_iter().filter_map(|object| object.metadata.name);
        stream::iter(names.map(Ok))
            .try_for_each_concurrent(DELETIONS, |name| {
                let (api, background) = (&api, &background);
                async move {
                    match api.delete(&name, background).await {
                        Err(kube::Error::Api(status)) if status.is_not_found() => Ok(()),
                        result => result.map(drop),
                    }
                }
            })
            .await
            .map_err(failed("delete"))?;
        match found.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => break,
        }
    }
    page.continue_token = None;
    loop {
        let left = api.list_metadata(&page).await.map_err(failed("list"))?;
        if !left.items.is_empty() {
            let resource = format!("{}.{}", kind.resource.plural, kind.resource.group);
            let known = remainder.get_or_insert_with(|| Remainder {
                resource,
                count: 0,
                finalizers: Vec::new(),
            });
            known.count += left.items.len();
            let finalizers = left.items.into_iter().flat_map(|o| o.metadata.finalizers);
            known.finalizers.extend(finalizers.flatten());
        }
        match left.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(remainder),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn content_is_left_alone_while_it_goes_by_itself() {
        let start = Instant::now();
        let at = |milliseconds: u64| start + Duration::from_millis(milliseconds);
        let mut ending = Ending::new(start);
        assert_eq!(ending.patience(start), Some(QUIET));
        ending.departure = at(800);
        assert_eq!(ending.patience(at(1000)), Some(Duration::from_millis(800)));
        assert_eq!(ending.patience(at(1800)), None);
        // Not for ever.
        ending.departure = at(4800);
        assert_eq!(ending.patience(at(4900)), Some(Duration::from_millis(100)));
        assert_eq!(ending.patience(at(5000)), None);
        // What goes since its deletion began goes because of that.
        ending = Ending { emptied: true, ..Ending::new(at(5000)) };
        assert_eq!(ending.patience(at(5000)), None);
    }

    #[test]
    fn conditions_say_what_is_left_and_keep_their_times() {
        let then = Timestamp::UNIX_EPOCH;
        let left = Remainder {
            resource: "pods.".to_owned(),
            count: 2,
            finalizers: vec!["example.com/a".to_owned(), "example.com/a".to_owned()],
        };
        let first = conditions(&[], &[left], &[], then);
        let message = |conditions: &[NamespaceCondition], kind: &str| {
            let found = conditions.iter().find(|known| known.type_ == kind).unwrap();
            (found.status.clone(), found.message.clone().unwrap())
        };
        assert_eq!(
            message(&first, "NamespaceContentRemaining"),
            (
                "True".to_owned(),
                "Some resources are remaining: pods. has 2 resource instances".to_owned()
            )
        );
        assert_eq!(
            message(&first, "NamespaceFinalizersRemaining").1,
            "Some content in the namespace has finalizers remaining: example.com/a in 2 resource instances"
        );
        let later = conditions(&first, &[], &[], "2024-01-01T00:00:00Z".parse().unwrap());
        assert_eq!(message(&later, "NamespaceContentRemaining").0, "False");
        assert_eq!(later[0].last_transition_time, Some(Time(then)));
        assert_ne!(later[3].last_transition_time, Some(Time(then)));
    }
}
