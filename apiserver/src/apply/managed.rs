//! `metadata.managedFields`: who set which fields. An object is tracked from its first apply on.

use api::{Subresource, schema};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::lookup::Lookup;
use super::paths::{self, Paths, TooManyFields};
use crate::call::Call;
use crate::object;
use crate::options::WriteOptions;

/// The member of `metadata`.
pub(crate) const FIELD: &str = "managedFields";

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

/// Reads the record of an object.
pub(crate) fn entries(object: &Value) -> Result<Vec<Entry>, TooManyFields> {
    let list = object["metadata"][FIELD].as_array().into_iter().flatten();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    list.map(|entry| {
        Ok(Entry {
            manager: text(&entry["manager"]),
            operation: text(&entry["operation"]),
            api_version: text(&entry["apiVersion"]),
            subresource: text(&entry["subresource"]),
            time: text(&entry["time"]),
            paths: paths::from_json(&entry["fieldsV1"])?,
        })
    })
    .collect()
}

/// Writes the record into an object; managers without fields are dropped.
pub(crate) fn set_entries(object: &mut Value, entries: &[Entry]) {
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
    let metadata = object::metadata_mut(object);
    if list.is_empty() {
        metadata.remove(FIELD);
    } else {
        metadata.insert(FIELD.into(), list.into());
    }
}

/// Records that `writer` made `new` of `old`: what changed is the writer's from now on. An object
/// that nobody has applied is not tracked.
pub(crate) fn record_update(
    new: &mut Value,
    old: &Value,
    writer: &Writer<'_>,
) -> Result<(), TooManyFields> {
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
        return entries(new).map(drop);
    }
    let mut entries = entries(old)?;
    let present = paths::of(new, writer.message)?;
    let (mut in_new, mut in_old) = (Lookup::new(new), Lookup::new(old));
    let mut differs = |path: &paths::Path| match path.last() {
        // What is in an element has paths of its own.
        Some(last) if last == "." => !in_old.has(path),
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
    set_entries(new, &entries);
    Ok(())
}
