//! One shared, watched copy of every object of a kind.
//!
//! Invariant: the copy is never older than a write that this process made and reported through
//! [`Cache::observe`], so that a controller which has just written plans on what it wrote.

use std::fmt;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ::watch::restart::panic_text;
use ::watch::{OwnText, keep_running};
use futures::{FutureExt, TryStreamExt};
use kube::api::{Api, ListParams, WatchEvent, WatchParams};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::held::{Form, Objects};

/// How long one watch request may live. The connection is in-process, so nothing is gained by
/// asking again often.
const WATCH_SECONDS: u32 = 24 * 3600;
/// The delay after a first failed list or watch; it doubles with every further failure.
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest such delay.
const LAST_RETRY: Duration = Duration::from_secs(30);
/// The time between two looks at a busy kind whose changes may come late. Each wakes a thread, which
/// costs more than to take a change in.
const CALM: Duration = Duration::from_millis(5);

/// The name of an object within its kind.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The namespace, empty for objects of cluster scope.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// The key of `name` in `namespace`.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// The key of `object`.
    pub fn of<K: Resource>(object: &K) -> Self {
        let meta = object.meta();
        Self {
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

impl Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// One change of one object.
pub enum Change<'a, K> {
    /// The object is new or differs from `old`.
    Applied {
        /// What was known before.
        old: Option<&'a Arc<K>>,
        /// What is known now.
        new: &'a Arc<K>,
    },
    /// The object is gone; this was its last state.
    Deleted(&'a Arc<K>),
}

impl<'a, K> Change<'a, K> {
    /// The newest known state.
    pub fn object(&self) -> &'a Arc<K> {
        match self {
            Self::Applied { new, .. } => new,
            Self::Deleted(object) => object,
        }
    }

    /// Every known state: the older one first.
    pub fn states(&self) -> impl Iterator<Item = &'a Arc<K>> {
        let old = match self {
            Self::Applied { old, .. } => *old,
            Self::Deleted(_) => None,
        };
        old.into_iter().chain(std::iter::once(self.object()))
    }
}

type Handler<K> = Box<dyn Fn(&Change<'_, K>) + Send + Sync>;

/// What a cached type must be able to do.
pub trait Cached: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Cached for K {}

/// Every object of a kind, kept current by one watch.
pub struct Cache<K> {
    objects: RwLock<Objects<K>>,
    handlers: RwLock<Vec<Handler<K>>>,
    /// The resource version up to which the watch has been followed. Held while a change is
    /// applied and announced, so that handlers see changes in order.
    followed: Mutex<u64>,
    synced: watch::Sender<bool>,
    /// The time between two looks at changes that do not come at once.
    calm: Duration,
}

impl<K: Cached> Cache<K> {
    /// An empty cache; [`Cache::run`] fills it.
    pub fn new() -> Arc<Self> {
        Self::with_form(Form::whole())
    }

    /// An empty cache that holds its objects in that form.
    pub(crate) fn with_form(form: Form<K>) -> Arc<Self> {
        Self::with(form, Duration::ZERO)
    }

    /// The same for a kind of which there may be many changes, which may come late: a change
    /// is seen at once after a quiet time, and some milliseconds later after a busy one.
    pub(crate) fn calm(form: Form<K>) -> Arc<Self> {
        Self::with(form, CALM)
    }

    fn with(form: Form<K>, calm: Duration) -> Arc<Self> {
        Arc::new(Self {
            objects: RwLock::new(Objects::new(form)),
            handlers: RwLock::new(Vec::new()),
            followed: Mutex::new(0),
            synced: watch::Sender::new(false),
            calm,
        })
    }

    /// Calls `handler` on every change from now on. It runs inside the watch and must only note
    /// what is to be done.
    pub fn on_change(&self, handler: impl Fn(&Change<'_, K>) + Send + Sync + 'static) {
        self.handlers.write().unwrap_or_else(PoisonError::into_inner).push(Box::new(handler));
    }

    /// The object of that key.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.read().get(key)
    }

    /// The objects of one namespace, in the order of their names.
    pub fn namespaced(&self, namespace: &str) -> Vec<Arc<K>> {
        self.read().namespaced(namespace)
    }

    /// The objects of one namespace that belong to a group, in the order of their names.
    pub fn grouped(&self, namespace: &str, group: &str) -> Vec<Arc<K>> {
        self.read().grouped(namespace, group)
    }

    /// The objects of all namespaces that belong to a group.
    pub fn group(&self, group: &str) -> Vec<Arc<K>> {
        self.read().group(group)
    }

    /// Every object.
    pub fn all(&self) -> Vec<Arc<K>> {
        self.read().all()
    }

    /// Waits until the cache holds what the server held when it was started.
    pub async fn synced(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.synced.subscribe().wait_for(|synced| *synced).await;
    }

    /// Takes in the answer to a write without waiting for the watch to bring it.
    pub fn observe(&self, object: K) {
        let version = version(&object);
        let followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        // What the watch has passed it has delivered, and perhaps its deletion as well.
        if version > *followed {
            self.apply(object, version);
        }
    }

    /// Follows the server, on a task of its own, until `token` is cancelled. Boxed, since there is a
    /// copy of what runs a task for each type of task.
    pub fn spawn(
        self: &Arc<Self>,
        api: Api<OwnText<K>>,
        selector: Selection,
        token: CancellationToken,
    ) {
        tokio::spawn(self.clone().run(api, selector, token).boxed());
    }

    /// Follows the server until `token` is cancelled.
    pub async fn run(
        self: Arc<Self>,
        api: Api<OwnText<K>>,
        selector: Selection,
        token: CancellationToken,
    ) {
        let url = api.resource_url().to_owned();
        let follow = keep_running(&url, || self.follow(api.clone(), selector.clone()));
        tokio::select! {
            () = token.cancelled() => {}
            () = follow => {}
        }
    }

    async fn follow(&self, api: Api<OwnText<K>>, selector: Selection) {
        let mut version = None;
        let mut failures = 0;
        loop {
            let outcome = match version.clone() {
                None => self.list(&api, &selector).await.map(|found| version = Some(found)),
                Some(from) => self.watch(&api, &selector, from, &mut version).await,
            };
            let Err(error) = outcome else {
                failures = 0;
                continue;
            };
            if matches!(&error, kube::Error::Api(status) if status.code == 410) {
                version = None;
                failures = 0;
                continue;
            }
            let delay = FIRST_RETRY.saturating_mul(1 << failures.min(16)).min(LAST_RETRY);
            failures += 1;
            tracing::warn!(url = api.resource_url(), %error, ?delay, "watching again");
            tokio::time::sleep(delay).await;
        }
    }

    async fn list(
        &self,
        api: &Api<OwnText<K>>,
        selector: &Selection,
    ) -> Result<String, kube::Error> {
        let parameters =
            ListParams { field_selector: selector.fields.clone(), ..ListParams::default() };
        let list = api.list(&parameters).await?;
        let listed = list.metadata.resource_version.unwrap_or_default();
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        *followed = (*followed).max(listed.parse().unwrap_or(0));
        let mut gone = self.read().keys();
        for OwnText(object) in list.items {
            gone.remove(&ObjectKey::of(&object));
            let version = self::version(&object);
            self.apply(object, version);
        }
        for key in gone {
            // A write reported after the list was taken is not in it and yet is not gone.
            if self.get(&key).is_none_or(|object| self::version(object.as_ref()) <= *followed) {
                self.remove(&key);
            }
        }
        drop(followed);
        self.synced.send_replace(true);
        Ok(listed)
    }

    async fn watch(
        &self,
        api: &Api<OwnText<K>>,
        selector: &Selection,
        from: String,
        version: &mut Option<String>,
    ) -> Result<(), kube::Error> {
        let parameters = WatchParams {
            field_selector: selector.fields.clone(),
            timeout: Some(WATCH_SECONDS),
            ..WatchParams::default()
        };
        let stream = api.watch(&parameters, &from).await?;
        let mut stream = std::pin::pin!(stream);
        let mut looked = None;
        loop {
            let event = match stream.try_next().now_or_never() {
                Some(event) => event?,
                None => {
                    let event = stream.try_next().await?;
                    self.calm_down(&mut looked).await;
                    event
                }
            };
            let Some(event) = event else { return Ok(()) };
            match event {
                WatchEvent::Added(OwnText(object)) | WatchEvent::Modified(OwnText(object)) => {
                    *version = object.resource_version();
                    let number = self::version(&object);
                    let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
                    *followed = (*followed).max(number);
                    self.apply(object, number);
                }
                WatchEvent::Deleted(OwnText(object)) => {
                    *version = object.resource_version();
                    let number = self::version(&object);
                    let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
                    *followed = (*followed).max(number);
                    self.remove(&ObjectKey::of(&object));
                }
                WatchEvent::Bookmark(bookmark) => {
                    let number = bookmark.metadata.resource_version.parse().unwrap_or(0);
                    let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
                    *followed = (*followed).max(number);
                    *version = Some(bookmark.metadata.resource_version);
                }
                WatchEvent::Error(status) => return Err(kube::Error::Api(status)),
            }
        }
    }

    /// Waits after a busy time, so that several changes are taken in at once.
    async fn calm_down(&self, looked: &mut Option<Instant>) {
        if self.calm.is_zero() {
            return;
        }
        if let Some(looked) = *looked
            && looked.elapsed() < self.calm
        {
            tokio::time::sleep_until(looked + self.calm).await;
        }
        *looked = Some(Instant::now());
    }

    fn apply(&self, mut object: K, number: u64) {
        let (new, old) = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            objects.trim(&mut object);
            let (key, new) = (ObjectKey::of(&object), Arc::new(object));
            let known = objects.get(&key);
            let recreated = known.as_ref().is_some_and(|known| known.meta().uid != new.meta().uid);
            if known.as_ref().is_some_and(|known| version(known.as_ref()) >= number) {
                return;
            }
            objects.insert(key, &new, known.as_ref());
            (new, if recreated { Err(known) } else { Ok(known) })
        };
        let old = match old {
            Ok(old) => old,
            Err(replaced) => {
                if let Some(replaced) = &replaced {
                    self.announce(&Change::Deleted(replaced));
                }
                None
            }
        };
        self.announce(&Change::Applied { old: old.as_ref(), new: &new });
    }

    fn remove(&self, key: &ObjectKey) {
        let removed = self.objects.write().unwrap_or_else(PoisonError::into_inner).remove(key);
        if let Some(removed) = removed {
            self.announce(&Change::Deleted(&removed));
        }
    }

    fn announce(&self, change: &Change<'_, K>) {
        for handler in self.handlers.read().unwrap_or_else(PoisonError::into_inner).iter() {
            // A handler is code of one controller; the others hear of the change all the same.
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| handler(change))) {
                let key = ObjectKey::of(change.object().as_ref());
                let reason = panic_text(&*panic);
                tracing::error!(%key, reason, "a controller panicked over a change");
            }
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Objects<K>> {
        self.objects.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Cached + Resource<DynamicType = ()>> Cache<K> {
    /// Starts following all objects of the kind.
    pub fn start(self: &Arc<Self>, client: &Client, token: &CancellationToken) {
        self.start_selected(client, Selection::default(), token);
    }

    /// Starts following the selected objects of the kind.
    pub fn start_selected(
        self: &Arc<Self>,
        client: &Client,
        selector: Selection,
        token: &CancellationToken,
    ) {
        let api = Api::all(client.clone());
        self.spawn(api, selector, token.clone());
    }
}

/// Which objects of a kind a cache holds.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    /// A field selector.
    pub fields: Option<String>,
}

fn version<K: Resource>(object: &K) -> u64 {
    object.meta().resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn object(name: &str, version: u64) -> ConfigMap {
        let mut object = ConfigMap::default();
        object.metadata.name = Some(name.to_owned());
        object.metadata.namespace = Some("default".to_owned());
        object.metadata.uid = Some(format!("uid-{name}"));
        object.metadata.resource_version = Some(version.to_string());
        object
    }

    #[test]
    fn a_written_object_is_visible_at_once_and_never_goes_back() {
        let cache = Cache::<ConfigMap>::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(move |change| {
            let deleted = matches!(change, Change::Deleted(_));
            log.lock().unwrap().push((change.object().resource_version().unwrap(), deleted));
        });
        cache.observe(object("a", 5));
        cache.apply(object("a", 5), 5);
        cache.apply(object("a", 4), 4);
        assert_eq!(*seen.lock().unwrap(), [("5".to_owned(), false)]);
        cache.remove(&ObjectKey::new("default", "a"));
        *cache.followed.lock().unwrap() = 7;
        // The answer to a write comes after the watch has already delivered the deletion.
        cache.observe(object("a", 6));
        assert!(cache.all().is_empty());
    }

    #[test]
    fn panicking_handler_does_not_stop_others() {
        let cache = Cache::<ConfigMap>::new();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = seen.clone();
        cache.on_change(|change| panic!("cannot bear {}", change.object().name_any()));
        cache.on_change(move |change| log.lock().unwrap().push(change.object().name_any()));
        cache.observe(object("a", 1));
        cache.observe(object("b", 2));
        assert_eq!(*seen.lock().unwrap(), ["a", "b"]);
    }

    #[test]
    fn packed_objects_are_found_whole_and_by_group() {
        let group = |object: &ConfigMap| object.data.as_ref()?.get("group").cloned();
        let cache = Cache::with_form(Form { group: Some(group), ..Form::packed() });
        let member = |name: &str, version: u64, group: &str| {
            let data = Some([("group".to_owned(), group.to_owned())].into());
            ConfigMap { data, ..object(name, version) }
        };
        for (name, version, group) in [("a", 1, "x"), ("b", 2, "y"), ("c", 3, "x"), ("a", 4, "y")] {
            cache.observe(member(name, version, group));
        }
        assert_eq!(*cache.get(&ObjectKey::new("default", "a")).unwrap(), member("a", 4, "y"));
        let names = |group: &str| -> Vec<String> {
            cache.grouped("default", group).iter().map(|object| object.name_any()).collect()
        };
        assert_eq!((names("x"), names("y")), (vec!["c".into()], vec!["a".into(), "b".into()]));
        cache.remove(&ObjectKey::new("default", "c"));
        assert!(names("x").is_empty() && cache.grouped("other", "y").is_empty());
        assert_eq!(cache.all().len(), 2);
    }

    #[test]
    fn objects_of_one_namespace_are_listed_by_range() {
        let cache = Cache::<ConfigMap>::new();
        for (number, name) in ["a", "b"].iter().enumerate() {
            cache.observe(object(name, number as u64 + 1));
        }
        let mut other = object("a", 9);
        other.metadata.namespace = Some("default2".to_owned());
        cache.observe(other);
        assert_eq!(cache.namespaced("default").len(), 2);
        assert_eq!(cache.namespaced("default2").len(), 1);
        assert_eq!(cache.namespaced("defaul").len(), 0);
    }
}
