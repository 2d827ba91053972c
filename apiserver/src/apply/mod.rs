//! Server-side apply: fields belong to the managers that set them.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
mod lookup;
pub(crate) mod managed;
mod paths;
mod typed;

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;

use api::schema::{self, Field, ListType, Message, Shape};
use api::{FieldError, Subresource};
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::body::Body;
use crate::call::Call;
use crate::decode;
use crate::error::ApiError;
use crate::options::WriteOptions;
use crate::request::RequestInfo;
use crate::verbs::{create, update};
use crate::write::{self, Edit};
use crate::{object, render};
use lookup::Lookup;
use managed::{Entry, Writer};
use paths::{Element, Path, Paths, TooManyFields};

/// Who owns what an object had before anybody applied it.
const BEFORE: &str = "before-first-apply";
/// Who owns what kubectl applied on its side.
const CLIENT_SIDE: &str = "kubectl-client-side-apply";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Answers with the object after the apply; creates it if it is not there.
pub(crate) async fn answer(
    call: &Call<'_>,
    subresource: Subresource<'_>,
    options: &WriteOptions,
    body: &Bytes,
) -> Result<Response<Body>, ApiError> {
    if !options.manager_given {
        let error = FieldError::required("fieldManager", "is required for apply patch");
        return Err(ApiError::invalid_kind("meta.k8s.io", "PatchOptions", "", vec![error]));
    }
    let document = decode::yaml(body)?;
    let mut config = document.check(call, call.served, options.field_validation)?;
    if config["metadata"][managed::FIELD].as_array().is_some_and(|list| !list.is_empty()) {
        return Err(ApiError::bad_request("metadata.managedFields must be nil"));
    }
    let served = call.served;
    let message = schema::message(served.group, served.version, served.kind);
    typed::check(call, &config, message)?;
    if object::name(&config).is_empty() {
        object::metadata_mut(&mut config).insert("name".into(), call.info.name.clone().into());
    }
    update::claim_identity(call, &mut config)?;
    let owned = paths::of(&config, message)?;
    let apply = Apply { call, options, subresource, message, owned };
    let name = &call.info.name;
    let edit = Edit {
        subresource,
        trusted: false,
        dry_run: options.dry_run,
        manager: Some(Writer::new(call, options, subresource).applying()),
    };
    let modified = write::modify(call, name, &edit, |current| apply.onto(current, &config)).await;
    match modified {
        Err(error) if error.is_not_found() && subresource == Subresource::None => {
            // Who may change objects may not therefore make them.
            let create = RequestInfo { verb: "create", ..call.info.clone() };
            call.server.authorize(call.user, &create)?;
            let mut fresh = config.clone();
            managed::set_entries(&mut fresh, &[apply.entry()])?;
            let stored = create::create(call, fresh, options).await?;
            stored.respond(call, StatusCode::CREATED)
        }
        stored => stored?.respond(call, StatusCode::OK),
    }
}

/// One apply.
struct Apply<'a> {
    call: &'a Call<'a>,
    options: &'a WriteOptions,
    subresource: Subresource<'a>,
    message: Option<&'static Message>,
    /// The fields of the applied configuration.
    owned: Paths,
}

impl Apply<'_> {
    /// The state after the apply, in the storage version.
    fn onto(&self, current: &write::Current<'_>, config: &Value) -> Result<Value, ApiError> {
        let mut live = current.object.clone();
        render::convert(self.call, &mut live);
        write::check_identity(self.call, config, current)?;
        let mut entries = managed::entries(current.object)?;
        if entries.is_empty() {
            entries = self.untracked(&live)?;
        }
        self.settle_conflicts(&mut entries, &live, config)?;
        let mut merged = live.clone();
        merge_members(&mut merged, config, self.message);
        let own = entries.iter().position(|entry| self.is_own(entry));
        let before = own.map(|index| entries[index].paths.clone()).unwrap_or_default();
        self.drop_abandoned(&mut merged, &before, &entries);
        match own {
            Some(index) if entries[index].paths == self.owned => {}
            Some(index) => entries[index] = self.entry(),
            None => entries.push(self.entry()),
        }
        self.call
            .resource
            .decode(self.call.served, &mut merged)
            .map_err(|e| ApiError::invalid(self.call.served, &self.call.info.name, e))?;
        let mut present = Lookup::new(&merged);
        for entry in &mut entries {
            entry.paths.retain(|path| present.has(path));
        }
        managed::set_entries(&mut merged, &entries)?;
        Ok(merged)
    }

    fn subresource_name(&self) -> &'static str {
        if self.subresource == Subresource::Status { "status" } else { "" }
    }

    fn entry(&self) -> Entry {
        Entry {
            manager: self.options.manager.clone(),
            operation: "Apply".into(),
            api_version: self.call.served.api_version(),
            subresource: self.subresource_name().into(),
            time: object::time(Timestamp::now()),
            paths: self.owned.clone(),
        }
    }

    fn is_own(&self, entry: &Entry) -> bool {
        entry.operation == "Apply"
            && entry.manager == self.options.manager
            && entry.subresource == self.subresource_name()
    }

    /// Refuses to change what others own, unless forced: then they lose it.
    fn settle_conflicts(
        &self,
        entries: &mut [Entry],
        live: &Value,
        config: &Value,
    ) -> Result<(), ApiError> {
        let taken_over = self.last_applied(live)?;
        let (mut in_live, mut in_config) = (Lookup::new(live), Lookup::new(config));
        let mut differs = |path: &Path| {
            path.last().is_none_or(|e| &**e != ".")
                && in_live.get(path).is_some_and(|own| Some(own) != in_config.get(path))
        };
        let mut conflicts: Vec<(String, String)> = Vec::new();
        for entry in entries.iter_mut() {
            if self.is_own(entry) {
                continue;
            }
            let contested: Vec<Path> =
                entry.paths.intersection(&self.owned).filter(|p| differs(p)).cloned().collect();
            for path in contested {
                if self.options.force || taken_over.contains(&path) {
                    entry.paths.remove(&path);
                } else {
                    conflicts.push((entry.whose(), paths::display(&path)));
                }
            }
        }
        if conflicts.is_empty() {
            return Ok(());
        }
        Err(ApiError::apply_conflict(
            conflict_message(&conflicts),
            conflicts
                .into_iter()
                .map(|(who, field)| (format!("conflict with {who}"), field))
                .collect(),
        ))
    }

    /// What kubectl's client-side apply owned, which its server-side apply may take over.
    fn last_applied(&self, live: &Value) -> Result<Paths, TooManyFields> {
        match last_applied(live) {
            Some(config) if self.options.manager == "kubectl" => paths::of(&config, self.message),
            _ => Ok(Paths::new()),
        }
    }

    /// Whose the fields are of an object that nobody has applied. What kubectl applied on its side
    /// is known from its annotation: when it begins to apply on the server, it takes all over that
    /// the owner of the annotation has, and drops what its configuration does not say. What the
    /// controllers and defaults have set must not be among that.
    fn untracked(&self, live: &Value) -> Result<Vec<Entry>, TooManyFields> {
        let entry = |manager: &str, paths: Paths| Entry {
            manager: manager.into(),
            operation: "Update".into(),
            time: object::time(Timestamp::now()),
            paths,
            ..self.entry()
        };
        let mut others = paths::of(live, self.message)?;
        let mut entries = Vec::new();
        if let Some(config) = last_applied(live) {
            let mut applied = paths::of(&config, self.message)?;
            let annotation = format!("f:{LAST_APPLIED}").into();
            applied.insert(vec!["f:metadata".into(), "f:annotations".into(), annotation]);
            applied.retain(|path| others.remove(path));
            entries.push(entry(CLIENT_SIDE, applied));
        }
        entries.push(entry(BEFORE, others));
        Ok(entries)
    }

    /// Removes what this manager applied before, applies no longer and nobody else owns.
    fn drop_abandoned(&self, merged: &mut Value, before: &Paths, entries: &[Entry]) {
        let others: BTreeSet<&[Element]> = entries
            .iter()
            .filter(|entry| !self.is_own(entry))
            .flat_map(|entry| entry.paths.iter().map(Vec::as_slice))
            .collect();
        let itself = [Element::from(".")];
        let is_others = |path: &Path| {
            let below = path.strip_suffix(&itself).unwrap_or(path);
            let from = (Bound::Included(below), Bound::Unbounded);
            others.range::<[Element], _>(from).next().is_some_and(|next| next.starts_with(below))
        };
        let abandoned =
            before.difference(&self.owned).filter(|path| !paths::is_key(path) && !is_others(path));
        lookup::remove_all(merged, abandoned);
    }
}

/// The configuration that kubectl applied on its side.
fn last_applied(live: &Value) -> Option<Value> {
    let text = live["metadata"]["annotations"][LAST_APPLIED].as_str()?;
    serde_json::from_str(text).ok().filter(Value::is_object)
}

fn conflict_message(conflicts: &[(String, String)]) -> String {
    if let [(who, field)] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {who}: {field}");
    }
    let mut text = format!("Apply failed with {} conflicts:", conflicts.len());
    let mut last = "";
    for (who, field) in conflicts {
        if who != last {
            text.push_str(&format!(" conflicts with {who}:"));
            last = who;
        }
        text.push_str(&format!("\n- {field}"));
    }
    text
}

/// Merges the members of `config` into an object.
fn merge_members(live: &mut Value, config: &Value, message: Option<&'static Message>) {
    let (Some(live), Some(config)) = (live.as_object_mut(), config.as_object()) else { return };
    for (key, value) in config {
        let field = message.and_then(|m| m.field(key));
        match live.get_mut(key) {
            Some(present) => merge_field(present, value, field),
            None => drop(live.insert(key.clone(), value.clone())),
        }
    }
}

fn merge_field(live: &mut Value, config: &Value, field: Option<&'static Field>) {
    let Some(field) = field.filter(|_| live.is_object() == config.is_object()) else {
        *live = config.clone();
        return;
    };
    match (field.shape(), config) {
        (Shape::List, Value::Array(items)) if paths::is_merged(field) && live.is_array() => {
            merge_list(live, items, field);
        }
        (Shape::Map, Value::Object(map)) if !field.is_atomic() => {
            let own = live.as_object_mut().map(std::mem::take).unwrap_or_default();
            *live = Value::Object(merge_map(own, map, field.message()));
        }
        (Shape::Single, Value::Object(_)) if paths::is_granular(field) => {
            merge_members(live, config, field.message());
        }
        _ => *live = config.clone(),
    }
}

fn merge_map(
    mut live: Map<String, Value>,
    config: &Map<String, Value>,
    message: Option<&'static Message>,
) -> Map<String, Value> {
    for (key, value) in config {
        match live.get_mut(key) {
            Some(present) if message.is_some() && present.is_object() => {
                merge_members(present, value, message);
            }
            _ => drop(live.insert(key.clone(), value.clone())),
        }
    }
    live
}

fn merge_list(live: &mut Value, items: &[Value], field: &'static Field) {
    let Some(list) = live.as_array_mut() else { return };
    let mut positions: HashMap<String, usize> = HashMap::with_capacity(list.len());
    for (at, own) in list.iter().enumerate() {
        positions.entry(paths::item_element(own, field)).or_insert(at);
    }
    for item in items {
        let name = paths::item_element(item, field);
        match positions.get(&name) {
            Some(at) if field.list_type() == ListType::Map => {
                merge_members(&mut list[*at], item, field.message());
            }
            Some(_) => {}
            None => {
                positions.insert(name, list.len());
                list.push(item.clone());
            }
        }
    }
}
