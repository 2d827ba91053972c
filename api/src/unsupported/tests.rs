//! The table of fields against objects, and against the whole schema.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::walk::is_named;
use super::{FIELD_RULES, KIND_RULES, MAX_WARNINGS, When, warnings};
use crate::registry::{Persistence, find, resources};
use crate::schema::{self, Field, Message};

/// Objects, one a paragraph, each followed by the warnings for it.
const CASES: &str = include_str!("testdata/warnings.txt");

/// Messages with the fields that the code acts on, or that have no effect to miss.
const ACTED_ON: &str = include_str!("acted_on.txt");

#[test]
fn warnings_name_the_field() {
    for case in CASES.split("\n\n").map(str::trim).filter(|case| !case.is_empty()) {
        let mut lines = case.lines().filter(|line| !line.starts_with('#'));
        let [path, object] = [lines.next().unwrap(), lines.next().unwrap()];
        let mut path = path.split(' ');
        let [group, version, plural] = [(); 3].map(|()| path.next().unwrap());
        let group = if group == "core" { "" } else { group };
        let object: Value = serde_json::from_str(object).unwrap();
        let resource = find(group, version, plural).unwrap().0;
        let expected: Vec<&str> = lines.collect();
        assert_eq!(warnings(resource, &object, true), expected, "{object}");
    }
}

#[test]
fn every_rule_has_a_case() {
    for rule in FIELD_RULES {
        let text = format!("{}: not supported by coracle: {}", rule.field, rule.effect);
        let keyed = format!("]: not supported by coracle: {}", rule.effect);
        let found =
            CASES.contains(&text) || (matches!(rule.when, When::Key(_)) && CASES.contains(&keyed));
        assert!(found, "{} {}", rule.message, rule.field);
    }
    assert!(KIND_RULES.iter().all(|rule| CASES.contains(rule.effect)));
}

#[test]
fn lease_renewal_is_not_warned_about() {
    let lease = find("coordination.k8s.io", "v1", "leases").unwrap().0;
    assert_eq!(warnings(lease, &json!({}), true).len(), 1);
    assert_eq!(warnings(lease, &json!({}), false).len(), 0);
    let policy = find("networking.k8s.io", "v1", "networkpolicies").unwrap().0;
    assert_eq!(warnings(policy, &json!({}), false).len(), 1);
}

#[test]
fn number_of_warnings_is_bounded() {
    let container = json!({ "volumeDevices": [{ "name": "a", "devicePath": "/a" }] });
    let spec = json!({ "containers": vec![container; 10_000] });
    let pods = find("", "v1", "pods").unwrap().0;
    assert_eq!(warnings(pods, &json!({ "spec": spec }), true).len(), MAX_WARNINGS);
    let keys: serde_json::Map<_, _> =
        (0..10_000).map(|n| (format!("metallb.io/{n}"), "x".into())).collect();
    let services = find("", "v1", "services").unwrap().0;
    let object = json!({ "metadata": { "annotations": keys } });
    assert_eq!(warnings(services, &object, true).len(), MAX_WARNINGS);
}

/// A field that comes with a new version of the schema fails this test until it is classified.
#[test]
fn every_field_is_classified() {
    let acted_on = acted_on();
    let mut reached = BTreeSet::new();
    let mut missing: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    let mut open: Vec<&'static Message> = roots();
    while let Some(message) = open.pop() {
        if !reached.insert(message.name()) {
            continue;
        }
        for field in message.fields() {
            if field.is_inlined() {
                open.extend(field.message());
                continue;
            }
            let rules = FIELD_RULES.iter().filter(|rule| rule.field == field.json_name());
            let rules: Vec<_> = rules.filter(|rule| is_named(message, rule.message)).collect();
            let refused = rules.iter().any(|rule| matches!(rule.when, When::Set));
            let listed = acted_on.get(&end(message)).is_some_and(|f| f.contains(field.json_name()));
            // A rule for some values leaves others that are acted on.
            if refused == listed {
                missing.entry(end(message)).or_default().insert(field.json_name());
            }
            if !refused {
                open.extend(field.message());
            }
        }
    }
    let lines: Vec<String> = missing
        .iter()
        .map(|(message, fields)| {
            format!("{message}: {}", fields.iter().copied().collect::<Vec<_>>().join(" "))
        })
        .collect();
    assert!(
        lines.is_empty(),
        "neither or both of acted_on.txt and rules.rs:\n{}",
        lines.join("\n")
    );
    let names: BTreeSet<String> = reached.iter().map(|name| short(name)).collect();
    let stale: Vec<_> = acted_on.keys().filter(|name| !names.contains(*name)).collect();
    assert!(stale.is_empty(), "no such message: {stale:?}");
    for rule in FIELD_RULES {
        assert!(names.contains(rule.message), "no such message: {}", rule.message);
    }
}

/// The messages of stored kinds without their status, which controllers write.
fn roots() -> Vec<&'static Message> {
    let stored = resources().iter().filter(|r| r.persistence != Persistence::None);
    let kinds = stored.filter_map(|resource| {
        let storage = resource.storage();
        schema::message(storage.group, storage.version, storage.kind)
    });
    let parts = kinds.flat_map(|message| {
        let parts = message.fields().iter().filter(|field| field.json_name() != "status");
        let parts: Vec<_> = parts.filter_map(Field::message).collect();
        // Kinds without a spec have their fields at the top.
        let flat = message.fields().iter().all(|field| field.json_name() != "spec");
        if flat { vec![message] } else { parts }
    });
    parts.collect()
}

fn acted_on() -> BTreeMap<String, BTreeSet<&'static str>> {
    let lines = ACTED_ON.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let entries = lines.map(|line| {
        let (message, fields) = line.split_once(": ").unwrap();
        (message.to_owned(), fields.split(' ').collect())
    });
    entries.collect()
}

fn end(message: &Message) -> String {
    short(message.name())
}

/// The last three segments of a message's name.
fn short(name: &str) -> String {
    let segments: Vec<&str> = name.rsplit('.').take(3).collect();
    segments.into_iter().rev().collect::<Vec<_>>().join(".")
}
