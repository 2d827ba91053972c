//! `metadata.managedFields`: who set which fields. An object is tracked from its first apply on.

use std::collections::HashMap;

use api::{Subresource, schema};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lookup::Lookup;
use super::paths::{self, Paths, Room, TooManyFields};
use crate::call::Call;
use crate::error::ApiError;
use crate::object;
use crate::options::WriteOptions;

/// The member of `metadata`.
pub(crate) const FIELD: &str = "managedFields";

/// Entries of one record.
pub(crate) const MANAGERS_MAX: usize = 200;
/// Entries for updates, beyond which the oldest are merged (upstream's `DefaultMaxUpdateManagers`).
const UPDATE_MANAGERS_MAX: usize = 10;
/// The manager of merged entries.
const ANCIENT: &str = "ancient-changes";

/// A record that is beyond its bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Oversized {
    #[error(transparent)]
    Fields(#[from] TooManyFields),
    #[error("metadata.managedFields: Too many: must have at most {MANAGERS_MAX} items")]
    Managers,
}

impl From<Oversized> for ApiError {
    fn from(error: Oversized) -> Self {
        match error {
            Oversized::Fields(error) => error.into(),
            Oversized::Managers => Self::bad_request(error.to_string()),
        }
    }
}

/// Who writes, as `managedFields` records it.
#[derive(Clone, Debug)]
pub(crate) struct Writer<'a> {
    manager: String,
    api_version: String,
    subresource: &'a str,
    message: Option<&'static schema::Message>,
    /// Apply keeps its own record.
    applies: bool,
}

/// One manager's fields.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) manager: String,
    pub(crate) operation: String,
    pub(crate) api_version: String,
    pub(crate) subresource: String,
    pub(crate) time: String,
    pub(crate) paths: Paths,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(
        call: &Call<'_>,
        options: &WriteOptions,
        subresource: Subresource<'a>,
    ) -> Self {
        let subresource = match subresource {
            Subresource::None => "",
            Subresource::Status => "status",
            Subresource::Scale => "scale",
            Subresource::Other(name) => name,
        };
        let stored = call.stored_as();
        Self {
            manager: options.manager.clone(),
            api_version: call.served.api_version(),
            subresource,
            message: schema::message(stored.group, stored.version, stored.kind),
            applies: false,
        }
    }

    /// The same writer by apply.
    pub(crate) fn applying(mut self) -> Self {
        self.applies = true;
        self
    }
}

impl Entry {
    /// The manager as a conflict names it. Who applies is the same in every version; who updates
    /// is told with the version.
    pub(crate) fn whose(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

/// Reads the record of an object. All its paths together are bounded.
pub(crate) fn entries(object: &Value) -> Result<Vec<Entry>, Oversized> {
    let list = object["metadata"][FIELD].as_array().map(Vec::as_slice).unwrap_or_default();
    check_managers(list.len())?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut room = Room::default();
    let read = |entry: &Value| {
        Ok(Entry {
            manager: text(&entry["manager"]),
            operation: text(&entry["operation"]),
            api_version: text(&entry["apiVersion"]),
            subresource: text(&entry["subresource"]),
            time: text(&entry["time"]),
            paths: paths::from_json(&entry["fieldsV1"], &mut room)?,
        })
    };
    list.iter().map(read).collect()
}

fn check_managers(number: usize) -> Result<(), Oversized> {
    if number > MANAGERS_MAX { Err(Oversized::Managers) } else { Ok(()) }
}

/// Writes the record into an object, if it can be read again; managers without fields are dropped.
pub(crate) fn set_entries(object: &mut Value, entries: &[Entry]) -> Result<(), Oversized> {
    let list: Vec<Value> = entries
        .iter()
        .filter(|entry| !entry.paths.is_empty())
        .map(|entry| {
            let mut value = json!({
                "manager": entry.manager,
                "operation": entry.operation,
                "apiVersion": entry.api_version,
                "time": entry.time,
                "fieldsType": "FieldsV1",
                "fieldsV1": paths::to_json(&entry.paths),
            });
            if !entry.subresource.is_empty() {
                value["subresource"] = entry.subresource.clone().into();
            }
            value
        })
        .collect();
    check_managers(list.len())?;
    let mut room = Room::default();
    list.iter().try_for_each(|entry| room.take_fields(&entry["fieldsV1"]))?;
    let metadata = object::metadata_mut(object);
    if list.is_empty() {
        metadata.remove(FIELD);
    } else {
        metadata.insert(FIELD.into(), list.into());
    }
    Ok(())
}

/// Records that `writer` made `new` of `old`: what changed is the writer's from now on. An object
/// that nobody has applied is not tracked.
pub(crate) fn record_update(
    new: &mut Value,
    old: &Value,
    writer: &Writer<'_>,
) -> Result<(), Oversized> {
    if writer.applies {
        return Ok(());
    }
    let tracked = old["metadata"][FIELD].as_array().is_some_and(|list| !list.is_empty());
    let given = new["metadata"][FIELD].clone();
    if !tracked {
        object::metadata_mut(new).remove(FIELD);
        return Ok(());
    }
    // A client may rewrite the record itself (kubectl does when it takes over), or leave it out.
    if given.is_array() && given != old["metadata"][FIELD] {
        // It has to be readable when the next change is recorded.
        let mut entries = entries(new)?;
        return if merge_oldest(&mut entries) { set_entries(new, &entries) } else { Ok(()) };
    }
    // A record that is full must not keep the object from changing: it ends, as one that a client
    // removes.
    if extend(new, old, writer).is_err() {
        object::metadata_mut(new).remove(FIELD);
    }
    Ok(())
}

/// Adds what `writer` changed to the record.
fn extend(new: &mut Value, old: &Value, writer: &Writer<'_>) -> Result<(), Oversized> {
    let mut entries = entries(old)?;
    let present = paths::of(new, writer.message)?;
    let (mut in_new, mut in_old) = (Lookup::new(new), Lookup::new(old));
    let mut differs = |path: &paths::Path| match path.last() {
        // What is in an element has paths of its own.
        Some(last) if &**last == "." => !in_old.has(path),
        _ => in_new.get(path) != in_old.get(path),
    };
    let changed: Paths = present.into_iter().filter(|path| differs(path)).collect();
    for entry in &mut entries {
        entry.paths.retain(|path| in_new.has(path) && !changed.contains(path));
    }
    if !changed.is_empty() {
        let own = entries.iter_mut().find(|e| {
            e.operation == "Update"
                && e.manager == writer.manager
                && e.api_version == writer.api_version
                && e.subresource == writer.subresource
        });
        let time = object::time(Timestamp::now());
        match own {
            Some(own) => {
                own.paths.extend(changed);
                own.time = time;
            }
            None => entries.push(Entry {
                manager: writer.manager.clone(),
                operation: "Update".into(),
                api_version: writer.api_version.clone(),
                subresource: writer.subresource.into(),
                time,
                paths: changed,
            }),
        }
    }
    merge_oldest(&mut entries);
    set_entries(new, &entries)
}

/// Merges the oldest updates with the same version into one entry until there are few enough
/// (upstream `capManagersManager`). Returns whether it merged any.
fn merge_oldest(entries: &mut [Entry]) -> bool {
    let is_update = |entry: &Entry| entry.operation == "Update" && !entry.paths.is_empty();
    let mut updates: Vec<usize> =
        (0..entries.len()).filter(|at| is_update(&entries[*at])).collect();
    let mut left = updates.len();
    updates.sort_by(|a, b| entries[*a].time.cmp(&entries[*b].time));
    let is_ancient = |entry: &Entry| entry.manager == ANCIENT && entry.subresource.is_empty();
    let ancient = updates.iter().filter(|at| is_ancient(&entries[**at]));
    let mut merged: HashMap<String, usize> =
        ancient.map(|at| (entries[*at].api_version.clone(), *at)).collect();
    let mut any = false;
    for at in updates {
        if left <= UPDATE_MANAGERS_MAX {
            break;
        }
        let into = *merged.entry(entries[at].api_version.clone()).or_insert(at);
        if into == at {
            continue;
        }
        let (paths, time) = (std::mem::take(&mut entries[at].paths), entries[at].time.clone());
        let into = &mut entries[into];
        into.manager = ANCIENT.into();
        into.subresource.clear();
        into.paths.extend(paths);
        into.time = time;
        left -= 1;
        any = true;
    }
    any
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(entries: Vec<Value>) -> Value {
        json!({"metadata": { FIELD: entries }})
    }

    /// `leaves` fields below `levels` levels.
    fn fields(levels: usize, leaves: usize) -> Value {
        let leaves = (0..leaves).map(|n| (format!("f:{n}"), json!({})));
        (0..levels).fold(Value::Object(leaves.collect()), |below, _| json!({ "f:a": below }))
    }

    fn update(manager: usize, version: &str) -> Value {
        json!({"manager": format!("m{manager:02}"), "operation": "Update", "apiVersion": version,
            "time": format!("2024-01-01T00:00:{manager:02}Z"),
            "fieldsV1": {format!("f:{manager:02}"): {}}})
    }

    #[test]
    fn paths_of_all_entries_are_bounded_together() {
        let entry = |manager: usize| {
            json!({"manager": manager.to_string(), "operation": "Apply",
            "apiVersion": "v1", "fieldsV1": fields(88, 2_700)})
        };
        let read = entries(&record((0..3).map(entry).collect())).expect("three entries fit");
        let elements = |entry: &Entry| entry.paths.iter().map(Vec::len).sum::<usize>();
        assert_eq!(read.iter().map(elements).sum::<usize>(), 3 * 89 * 2_700);
        let refused = entries(&record((0..45).map(entry).collect())).map(drop);
        assert_eq!(refused, Err(Oversized::Fields(TooManyFields)));
        // What could not be read again is not written.
        let mut read = read;
        read.extend_from_within(..);
        let mut object = json!({"metadata": {}});
        assert_eq!(set_entries(&mut object, &read), Err(Oversized::Fields(TooManyFields)));
        assert_eq!(object, json!({"metadata": {}}));
    }

    #[test]
    fn prefixes_are_shared_by_paths() {
        let read = entries(&record(vec![json!({"fieldsV1": fields(2, 2)})])).expect("it fits");
        let paths: Vec<_> = read[0].paths.iter().collect();
        assert!(std::sync::Arc::ptr_eq(&paths[0][1], &paths[1][1]));
    }

    #[test]
    fn number_of_managers_is_bounded() {
        assert!(entries(&record(vec![json!({}); MANAGERS_MAX])).is_ok());
        let refused = entries(&record(vec![json!({}); MANAGERS_MAX + 1])).map(drop);
        assert_eq!(refused, Err(Oversized::Managers));
    }

    #[test]
    fn full_record_keeps_no_object_from_changing() {
        let apply = |manager: usize| {
            json!({"manager": manager.to_string(), "operation": "Apply", "apiVersion": "v1",
                "fieldsV1": {"f:data": {format!("f:{manager}"): {}}}})
        };
        let mut old = record((0..MANAGERS_MAX).map(apply).collect());
        old["data"] = (0..MANAGERS_MAX).map(|n| (n.to_string(), json!("x"))).collect();
        let mut new = old.clone();
        new["data"]["own"] = json!("y");
        let writer = Writer {
            manager: "other".into(),
            subresource: "",
            api_version: "v1".into(),
            message: None,
            applies: false,
        };
        assert_eq!(record_update(&mut new, &old, &writer), Ok(()));
        assert_eq!((&new["metadata"][FIELD], &new["data"]["own"]), (&Value::Null, &json!("y")));
    }

    #[test]
    fn oldest_updates_are_merged() {
        let list = (0..12).map(|n| update(n, if n == 1 { "v2" } else { "v1" })).rev().collect();
        let mut read = entries(&record(list)).expect("it fits");
        assert!(merge_oldest(&mut read));
        assert!(!merge_oldest(&mut read));
        read.retain(|entry| !entry.paths.is_empty());
        assert_eq!(read.len(), UPDATE_MANAGERS_MAX);
        let ancient = read.iter().find(|entry| entry.manager == ANCIENT).expect("one is merged");
        assert_eq!((ancient.api_version.as_str(), ancient.paths.len()), ("v1", 3));
        assert_eq!(ancient.time, "2024-01-01T00:00:03Z");
    }
}
