//! The one way in which objects are written: decided against the newest state, encoded once.

use std::sync::Arc;

use api::{ErrorList, FieldError, Resource, Subresource, metadata};
use http::{Response, StatusCode};
use serde_json::Value;
use store::{Action, Durability, Record, WriteError, Written};

use crate::admission::{self, quota::Turn};
use crate::apply::managed;
use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::measure::measure;
use crate::meta::Meta;
use crate::object::{self, Encoded};
use crate::render;
use crate::services::Reservation;

/// How often a write that is not bound to a revision is decided anew when others are faster.
const ATTEMPTS: usize = 64;

/// The largest object, as the JSON in which it is stored: what is read as JSON can be written back
/// as JSON.
pub(crate) const OBJECT_BYTES_MAX: usize = 3 << 20;
/// Bytes beyond it for status, and for changes of an object that is being deleted.
pub(crate) const REPORT_BYTES_MAX: usize = 256 << 10;
/// Nested objects and lists in a stored object: less than every parser of them takes.
pub(crate) const OBJECT_DEPTH_MAX: usize = 100;

/// Memory of an object to be stored, as a tree of JSON values.
pub(crate) const OBJECT_MEMORY_MAX: usize = 32 << 20;
/// Memory of a stored object as the type of its kind.
pub(crate) const DECODED_BYTES_MAX: u32 = 16 << 20;

/// The bounds for the size of a written object. An object that has got larger may stay so large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    /// As far as any client may.
    Object,
    /// Beyond that, what happens to the object: its status, and the end of one that is being deleted.
    Report,
    /// As far as needed, for the few bytes of the server itself: an object that cannot take them
    /// could not be deleted.
    Server,
}

impl Room {
    fn of(edit: &Edit<'_>, old: &Value) -> Self {
        match edit.subresource {
            _ if edit.trusted => Self::Server,
            Subresource::Status => Self::Report,
            _ if object::is_deleting(old) => Self::Report,
            _ => Self::Object,
        }
    }

    /// Returns the bound where `most` is the bound of clients for something that grows with the bytes.
    fn most(self, most: usize) -> usize {
        match self {
            Self::Object => most,
            Self::Report => most + most / (OBJECT_BYTES_MAX / REPORT_BYTES_MAX),
            Self::Server => usize::MAX,
        }
    }
}

/// Encodes an object to be stored, if it is within its bounds.
pub(crate) fn encode(
    call: &Call<'_>,
    object: &Value,
    meta: &Meta,
    before: Option<&Record<Meta>>,
    room: Room,
) -> Result<Encoded, ApiError> {
    let extent = measure(object);
    if extent.depth > OBJECT_DEPTH_MAX {
        return Err(ApiError::entity_too_large(format!(
            "the object is nested more than {OBJECT_DEPTH_MAX} levels deep"
        )));
    }
    let decoded = before.map_or(0, |old| old.meta.decoded_bytes);
    if meta.decoded_bytes > decoded
        && meta.decoded_bytes as usize > room.most(DECODED_BYTES_MAX as usize)
    {
        return Err(takes_too_much(DECODED_BYTES_MAX as usize));
    }
    if extent.memory > room.most(OBJECT_MEMORY_MAX) {
        let old = before.map(render::parse).transpose()?;
        if extent.memory > old.map_or(0, |old| measure(&old).memory) {
            return Err(takes_too_much(OBJECT_MEMORY_MAX));
        }
    }
    let encoded = Encoded::new(object, call.stored_as());
    if encoded.len() > room.most(OBJECT_BYTES_MAX).max(before.map_or(0, |old| old.value.len())) {
        return Err(ApiError::too_large(OBJECT_BYTES_MAX));
    }
    Ok(encoded)
}

fn takes_too_much(bytes: usize) -> ApiError {
    ApiError::entity_too_large(format!("the object takes more than {bytes} bytes of memory"))
}

/// What a write left behind.
pub(crate) enum Stored {
    /// The object as it is stored now.
    Object(Arc<Record<Meta>>),
    /// The final state of an object that the write removed.
    Removed(Arc<Record<Meta>>),
    /// What a dry run would have stored, in the storage version.
    Imagined(Value),
}

impl Stored {
    /// A response with the object.
    pub(crate) fn respond(
        &self,
        call: &Call<'_>,
        status: StatusCode,
    ) -> Result<Response<Body>, ApiError> {
        match self {
            Self::Object(record) | Self::Removed(record) => render::record(call, status, record),
            Self::Imagined(object) => render::object(call, status, object.clone()),
        }
    }
}

/// How an existing object is to be changed.
pub(crate) struct Edit<'e> {
    /// The part that may change.
    pub(crate) subresource: Subresource<'e>,
    /// The server's own change: the kind's rules for clients do not apply.
    pub(crate) trusted: bool,
    pub(crate) dry_run: bool,
    /// Who is recorded as the writer of what changes, once the object tracks that.
    pub(crate) manager: Option<managed::Writer<'e>>,
}

/// The state that a change is decided upon.
pub(crate) struct Current<'a> {
    pub(crate) object: &'a Value,
    pub(crate) revision: u64,
}

/// Changes an existing object: `change` gets the newest state and returns the wanted one, both in
/// the storage version, as often as somebody else is faster.
pub(crate) async fn modify(
    call: &Call<'_>,
    name: &str,
    edit: &Edit<'_>,
    mut change: impl FnMut(&Current<'_>) -> Result<Value, ApiError> + Send,
) -> Result<Stored, ApiError> {
    let store = &call.server.store;
    let key = call.key(name);
    let mut record = store.get(&key).ok_or_else(|| call.not_found(name))?;
    for _ in 0..ATTEMPTS {
        let old = render::parse(&record)?;
        let mut new = change(&Current { object: &old, revision: record.revision })?;
        // The turn ends with this attempt.
        let (reservation, _turn) = if edit.trusted {
            Default::default()
        } else {
            settle(call, &mut new, &old, edit).await?
        };
        if let Some(writer) = &edit.manager {
            managed::record_update(&mut new, &old, writer)?;
        }
        if edit.dry_run {
            new["metadata"]["resourceVersion"] = record.revision.to_string().into();
            return Ok(Stored::Imagined(new));
        }
        let plan = plan(call.resource, &mut new, &old, Room::of(edit, &old));
        let durability = match plan {
            // The wish to delete is on disk already; that it came true can be found out again.
            Plan::Remove if object::is_deleting(&old) => lazy(call.durability(edit.subresource)),
            // Who hears that a pod has ended releases what could tell of it.
            Plan::Put(_) if ends(call.resource, &new, &old) => call.durability(Subresource::None),
            _ => call.durability(edit.subresource),
        };
        match commit(call, &key, &record, durability, plan, &new).await? {
            Committed::Done(stored) => {
                reservation.keep(&call.server.services);
                if matches!(stored, Stored::Removed(_)) {
                    call.server.services.release(call.resource, &new);
                }
                return Ok(stored);
            }
            Committed::Overtaken(Some(newer)) => record = newer,
            Committed::Overtaken(None) => return Err(call.not_found(name)),
        }
    }
    Err(ApiError::modified(call.served, name))
}

/// Whether a change says that a pod is over, which must not be forgotten: it would run again.
fn ends(resource: &Resource, new: &Value, old: &Value) -> bool {
    let over =
        |pod: &Value| matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
    resource.served[0].kind == "Pod" && over(new) && !over(old) && !object::is_deleting(new)
}

pub(crate) fn lazy(durability: Durability) -> Durability {
    if durability == Durability::Durable { Durability::Lazy } else { durability }
}

/// What is to happen to the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    Keep,
    /// It is stored, within these bounds.
    Put(Room),
    Remove,
}

/// A deleted object goes when nothing holds it any longer.
fn plan(resource: &Resource, new: &mut Value, old: &Value, room: Room) -> Plan {
    let revision = old["metadata"]["resourceVersion"].clone();
    new["metadata"]["resourceVersion"] = revision;
    if object::is_deleting(new) && !is_held(resource, new) {
        Plan::Remove
    } else if new == old {
        Plan::Keep
    } else {
        Plan::Put(room)
    }
}

/// Whether finalizers or a grace period keep an object that is being deleted.
pub(crate) fn is_held(resource: &Resource, object: &Value) -> bool {
    let grace = object["metadata"]["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
    let namespace_content = resource.served[0].kind == "Namespace"
        && object["spec"]["finalizers"].as_array().is_some_and(|f| !f.is_empty());
    grace > 0 || namespace_content || object::finalizers(object).next().is_some()
}

/// The outcome of an attempt.
pub(crate) enum Committed {
    Done(Stored),
    /// Somebody else wrote first: the newest state, or none when the key is gone.
    Overtaken(Option<Arc<Record<Meta>>>),
}

/// Writes what was decided upon `record`, unless that is not the newest state any more.
pub(crate) async fn commit(
    call: &Call<'_>,
    key: &str,
    record: &Arc<Record<Meta>>,
    durability: Durability,
    plan: Plan,
    new: &Value,
) -> Result<Committed, ApiError> {
    let meta = match plan {
        Plan::Keep => Meta::default(),
        Plan::Remove | Plan::Put(_) => Meta::of(call.resource, new),
    };
    let encoded = match plan {
        Plan::Keep => None,
        // What goes may be as large as it is.
        Plan::Remove => Some(Encoded::new(new, call.stored_as())),
        Plan::Put(room) => Some(encode(call, new, &meta, Some(record), room)?),
    };
    let decide = |current: Option<&Arc<Record<Meta>>>, revision: u64| match current {
        Some(current) if current.revision == record.revision => Ok(match (plan, encoded) {
            (Plan::Put(_), Some(encoded)) => Action::Put { value: encoded.at(revision), meta },
            (Plan::Remove, Some(encoded)) => Action::Delete { value: encoded.at(revision), meta },
            _ => Action::Keep,
        }),
        current => Err(current.cloned()),
    };
    let _writing = call.deadline.write()?;
    match call.server.store.write(key, durability, decide).await {
        Ok(Written::Put(record)) => Ok(Committed::Done(Stored::Object(record))),
        Ok(Written::Deleted(record)) => {
            call.server.churn.note();
            Ok(Committed::Done(Stored::Removed(record)))
        }
        Ok(Written::Kept) => Ok(Committed::Done(Stored::Object(record.clone()))),
        Err(WriteError::Rejected(newer)) => Ok(Committed::Overtaken(newer)),
        Err(other) => Err(disk_failure(other)),
    }
}

/// A failure of the store that is not the writer's fault.
pub(crate) fn disk_failure<E>(error: WriteError<E>) -> ApiError {
    match error {
        WriteError::Disk(error) if error.is_unknown() => ApiError::outcome_unknown(&error),
        WriteError::Disk(error) if error.is_full() => ApiError::disk_full(error),
        WriteError::Disk(error) => ApiError::internal(format!("nothing was stored: {error}")),
        WriteError::Exceeded(exceeded) => ApiError::store_full(exceeded),
        WriteError::Closed => ApiError::unavailable("the server is shutting down"),
        WriteError::Rejected(_) => ApiError::internal("a write was refused"),
    }
}

/// Applies the rules for changes by clients: what may not change is carried over, admission and
/// validation have their say.
async fn settle(
    call: &Call<'_>,
    new: &mut Value,
    old: &Value,
    edit: &Edit<'_>,
) -> Result<(Reservation, Option<Turn>), ApiError> {
    let behaviour = call.resource.behaviour;
    keep_system_metadata(new, old);
    behaviour.prepare_for_update(new, old, edit.subresource);
    let turn = admission::update(call, new, old, edit.subresource).await?;
    let reservation = call.server.services.for_update(call, new, old)?;
    if matches!(edit.subresource, Subresource::None | Subresource::Scale) {
        raise_generation(call.resource, new, old);
    }
    let mut errors: ErrorList = metadata::validate_metadata_update(new, old);
    errors.extend(behaviour.validate_update(new, old, edit.subresource));
    if errors.is_empty() {
        if edit.subresource != Subresource::Status {
            call.warn_all(call.resource.warnings(new, Some(old)));
        }
        admission::validate_update(call, new, old, edit.subresource)?;
        return Ok((reservation, turn));
    }
    Err(ApiError::invalid(call.served, object::name(new), errors))
}

/// Carries over the metadata that only the server writes.
pub(crate) fn keep_system_metadata(new: &mut Value, old: &Value) {
    let metadata = object::metadata_mut(new);
    for name in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
    ] {
        match &old["metadata"][name] {
            // A client may leave generateName as it is or drop it.
            value if name == "generateName" && metadata.contains_key(name) => {
                if !value.is_null() {
                    metadata.insert(name.into(), value.clone());
                }
            }
            Value::Null => drop(metadata.remove(name)),
            value => drop(metadata.insert(name.into(), value.clone())),
        }
    }
    metadata.remove("selfLink");
    drop_empty_metadata(new);
}

/// Absent and empty mean the same in metadata; stored is absent, so that equal objects are equal.
pub(crate) fn drop_empty_metadata(object: &mut Value) {
    let metadata = object::metadata_mut(object);
    metadata.retain(|_, value| match value {
        Value::Null => false,
        Value::Object(map) => !map.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::String(text) => !text.is_empty(),
        _ => true,
    });
}

/// `metadata.generation` counts the changes of everything but metadata and status.
fn raise_generation(resource: &Resource, new: &mut Value, old: &Value) {
    if !resource.has_generation {
        return;
    }
    let generation = old["metadata"]["generation"].as_i64().unwrap_or(0);
    if resource.behaviour.generation_changed(new, old) {
        new["metadata"]["generation"] = generation.saturating_add(1).into();
    }
}

/// Refuses a write whose body names another object than the URL, or another incarnation or
/// revision than the stored one.
pub(crate) fn check_identity(
    call: &Call<'_>,
    wanted: &Value,
    current: &Current<'_>,
) -> Result<(), ApiError> {
    let name = &call.info.name;
    let uid = object::metadata_str(wanted, "uid");
    let stored_uid = object::metadata_str(current.object, "uid");
    if !uid.is_empty() && uid != stored_uid {
        return Err(ApiError::conflict(
            call.served,
            name,
            &format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {stored_uid}"
            ),
        ));
    }
    match object::metadata_str(wanted, "resourceVersion") {
        "" | "0" => Ok(()),
        text => {
            let revision: u64 = text.parse().map_err(|_| {
                let error =
                    FieldError::invalid("metadata.resourceVersion", text, "must be a number");
                ApiError::invalid(call.served, name, vec![error])
            })?;
            if revision == current.revision {
                Ok(())
            } else {
                Err(ApiError::modified(call.served, name))
            }
        }
    }
}
