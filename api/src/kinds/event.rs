//! Event: stored as core/v1, also served as events.k8s.io/v1 under other field names.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{set, take};
use crate::duration;
use crate::field_error::{ErrorList, FieldError};
use crate::registry::{Behaviour, Cell, Column, Persistence, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Event).persistence(Persistence::Lazy);

const CURRENT: Served = Served::new("", "v1", "Event", "events", "event").short(&["ev"]);

const SERVED: &[Served] = &[CURRENT, CURRENT.also("events.k8s.io", "v1")];

/// Fields that the two versions name differently: core first.
const RENAMED: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

struct Event;

impl Behaviour for Event {
    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if served.group == "events.k8s.io" {
            for (core, events) in RENAMED {
                rename(object, events, core);
            }
        }
        Ok(())
    }

    fn to_served(&self, served: &Served, object: &mut Value) {
        if served.group == "events.k8s.io" {
            for (core, events) in RENAMED {
                rename(object, core, events);
            }
        }
    }

    fn prepare_for_create(&self, _object: &mut Value) {}

    fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let event_namespace = row::plain(&object["metadata"]["namespace"], "");
        let involved = row::plain(&object["involvedObject"]["namespace"], "");
        // What concerns cluster-scoped objects goes to the default namespace.
        let fits = involved == event_namespace
            || (involved.is_empty()
                && matches!(event_namespace.as_str(), "default" | "kube-system"));
        if !fits {
            let detail = "does not match event.namespace";
            errors.push(FieldError::invalid("involvedObject.namespace", involved, detail));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::text("Last Seen"),
                Column::text("Type"),
                Column::text("Reason"),
                Column::text("Object"),
                Column::wide("Subobject"),
                Column::wide("Source"),
                Column::text("Message"),
                Column::wide("First Seen"),
                Column::wide("Count"),
                Column { priority: 1, ..Column::NAME },
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let involved = &object["involvedObject"];
        let kind = row::plain(&involved["kind"], "").to_lowercase();
        let name = row::plain(&involved["name"], "");
        let target = if name.is_empty() { kind } else { format!("{kind}/{name}") };

        let first = first_present([&object["firstTimestamp"], &object["eventTime"]]);
        let mut last = first_present([&object["lastTimestamp"], &Value::Null]);
        if last == "<unknown>" {
            last.clone_from(&first);
        }
        let mut count = object["count"].as_i64().unwrap_or(0);
        let series = &object["series"];
        if series.is_object() {
            if series["lastObservedTime"].is_string() {
                last = row::plain(&series["lastObservedTime"], "");
            }
            count = series["count"].as_i64().unwrap_or(0);
        } else if count == 0 {
            count = 1;
        }
        let ago = |text: String| duration::since(&Value::from(text), now);
        vec![
            ago(last).into(),
            row::text_or(&object["type"], ""),
            row::text_or(&object["reason"], ""),
            target.into(),
            row::text_or(&involved["fieldPath"], ""),
            source(object).into(),
            row::plain(&object["message"], "").trim().into(),
            ago(first).into(),
            count.into(),
            row::name(object),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let involved = &object["involvedObject"];
        let text = |value: &Value| row::plain(value, "");
        let source = match text(&object["source"]["component"]) {
            component if component.is_empty() => text(&object["reportingComponent"]),
            component => component,
        };
        vec![
            ("involvedObject.kind", text(&involved["kind"])),
            ("involvedObject.namespace", text(&involved["namespace"])),
            ("involvedObject.name", text(&involved["name"])),
            ("involvedObject.uid", text(&involved["uid"])),
            ("involvedObject.apiVersion", text(&involved["apiVersion"])),
            ("involvedObject.resourceVersion", text(&involved["resourceVersion"])),
            ("involvedObject.fieldPath", text(&involved["fieldPath"])),
            ("regarding.kind", text(&involved["kind"])),
            ("regarding.namespace", text(&involved["namespace"])),
            ("regarding.name", text(&involved["name"])),
            ("regarding.uid", text(&involved["uid"])),
            ("regarding.apiVersion", text(&involved["apiVersion"])),
            ("regarding.resourceVersion", text(&involved["resourceVersion"])),
            ("regarding.fieldPath", text(&involved["fieldPath"])),
            ("reason", text(&object["reason"])),
            ("reportingComponent", text(&object["reportingComponent"])),
            ("reportingController", text(&object["reportingComponent"])),
            ("source", source),
            ("type", text(&object["type"])),
        ]
    }
}

fn rename(object: &mut Value, from: &str, to: &str) {
    let value = take(object, from);
    if !value.is_null() {
        set(object, to, value);
    }
}

fn first_present(candidates: [&Value; 2]) -> String {
    candidates.into_iter().find_map(Value::as_str).unwrap_or("<unknown>").to_owned()
}

fn source(event: &Value) -> String {
    let mut component = row::plain(&event["source"]["component"], "");
    if component.is_empty() {
        component = row::plain(&event["reportingComponent"], "");
    }
    let mut host = row::plain(&event["source"]["host"], "");
    if host.is_empty() {
        host = row::plain(&event["reportingInstance"], "");
    }
    match (component.is_empty(), host.is_empty()) {
        (_, true) => component,
        (true, false) => host,
        (false, false) => format!("{component}, {host}"),
    }
}
