//! Node.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, copy_from, object_at, set_default};
use crate::field::{Field, same};
use crate::field_error::ErrorList;
use crate::names;
use crate::quantity::canonicalize_list;
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, SubresourceInfo, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &Node).cluster_scoped().with_status().subresources(SUBRESOURCES);

const SERVED: &[Served] = &[Served::new("", "v1", "Node", "nodes", "node").short(&["no"])];

const SUBRESOURCES: &[SubresourceInfo] = &[SubresourceInfo::new(
    "proxy",
    "NodeProxyOptions",
    &["create", "delete", "get", "patch", "update"],
)];

const ROLE_LABEL_PREFIX: &str = "node-role.kubernetes.io/";
const ROLE_LABEL: &str = "kubernetes.io/role";

struct Node;

impl Behaviour for Node {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        child(object, "spec");
        if let Some(status) = object_at(object, "status") {
            if status["allocatable"].is_null() && !status["capacity"].is_null() {
                let capacity = status["capacity"].clone();
                set_default(status, "allocatable", capacity);
            }
            for list in ["capacity", "allocatable"] {
                if let Some(list) = object_at(status, list) {
                    canonicalize_list(list);
                }
            }
        }
        Ok(())
    }

    // A node registers itself together with its status.
    fn prepare_for_create(&self, _object: &mut Value) {}

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        match subresource {
            Subresource::Status => keep_all_but_status(object, old),
            _ => copy_from(object, old, "status"),
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        validate_taints(&Field::new(&object["spec"]["taints"], "metadata.taints"))
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let (spec, before) = (Field::root(object).at("spec"), &old["spec"]);
        let mut errors = ErrorList::new();
        for (name, shown) in [("podCIDRs", "podCIDR"), ("providerID", "providerID")] {
            let (field, before) = (spec.at(name), &before[name]);
            if !same(before, &Value::Null) && !same(before, field.value) {
                errors.push(field.forbidden(format!(
                    "node updates may not change {shown} except from \"\" to valid"
                )));
            }
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Status"),
                Column::text("Roles"),
                Column::AGE,
                Column::text("Version"),
                Column::wide("Internal-IP"),
                Column::wide("External-IP"),
                Column::wide("OS-Image"),
                Column::wide("Kernel-Version"),
                Column::wide("Container-Runtime"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let info = &object["status"]["nodeInfo"];
        vec![
            row::name(object),
            conditions(object).into(),
            roles(object).into(),
            row::age(object, now),
            row::text_or(&info["kubeletVersion"], ""),
            address(object, "InternalIP").into(),
            address(object, "ExternalIP").into(),
            row::text_or(&info["osImage"], "<unknown>"),
            row::text_or(&info["kernelVersion"], "<unknown>"),
            row::text_or(&info["containerRuntimeVersion"], "<unknown>"),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let unschedulable = object["spec"]["unschedulable"].as_bool().unwrap_or(false);
        vec![("spec.unschedulable", unschedulable.to_string())]
    }
}

/// Checks taints; upstream names the path of what is wrong as below `metadata`.
fn validate_taints(taints: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for taint in taints.items() {
        let [key, value, effect] = ["key", "value", "effect"].map(|name| taint.at(name));
        errors.extend(key.invalid_each(names::label_key(key.str())));
        let messages = names::label_value(value.str());
        if !messages.is_empty() {
            errors.push(value.invalid(messages.join(";")));
        }
        if effect.is_empty() {
            errors.push(effect.required(""));
        } else {
            errors.extend(effect.one_of(&["NoExecute", "NoSchedule", "PreferNoSchedule"]));
        }
        if !seen.insert((key.str(), effect.str())) {
            let mut duplicate = taint.duplicate();
            "taints must be unique by key and effect pair".clone_into(&mut duplicate.detail);
            errors.push(duplicate);
        }
    }
    errors
}

fn conditions(node: &Value) -> String {
    let list = node["status"]["conditions"].as_array().into_iter().flatten();
    let ready = list.into_iter().find(|condition| condition["type"] == "Ready");
    let mut status = match ready.map(|condition| &condition["status"]) {
        Some(status) if status == "True" => "Ready".to_owned(),
        Some(_) => "NotReady".to_owned(),
        None => "Unknown".to_owned(),
    };
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    status
}

fn roles(node: &Value) -> String {
    let mut roles: Vec<&str> = Vec::new();
    for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
        let role = match key.strip_prefix(ROLE_LABEL_PREFIX) {
            Some(role) => role,
            None if key == ROLE_LABEL => value.as_str().unwrap_or_default(),
            None => "",
        };
        if !role.is_empty() {
            roles.push(role);
        }
    }
    roles.sort_unstable();
    roles.dedup();
    if roles.is_empty() { "<none>".to_owned() } else { roles.join(",") }
}

fn address(node: &Value, kind: &str) -> String {
    let list = node["status"]["addresses"].as_array().into_iter().flatten();
    let found = list.into_iter().find(|address| address["type"] == kind);
    found.and_then(|address| address["address"].as_str()).unwrap_or("<none>").to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_provider_is_named_once() {
        let node = |id: &str| json!({"spec": {"providerID": id}});
        assert!(Node.validate_change(&node("a"), &node("")).is_empty());
        assert!(Node.validate_change(&node("a"), &node("a")).is_empty());
        assert_eq!(
            Node.validate_change(&node("b"), &node("a"))[0].to_string(),
            "spec.providerID: Forbidden: node updates may not change providerID except from \"\" \
             to valid"
        );
    }

    #[test]
    fn taints_are_checked() {
        let node = json!({"spec": {"taints": [
            {"key": "a", "value": "b", "effect": "NoSchedule"},
            {"key": "a", "effect": "NoSchedule"},
            {"key": "a b", "effect": "Never"},
            {"key": "c"},
        ]}});
        let errors: Vec<String> = Node.validate(&node).iter().map(ToString::to_string).collect();
        assert_eq!(
            errors[0],
            "metadata.taints[1]: Duplicate value: {\"effect\":\"NoSchedule\",\"key\":\"a\"}: taints \
             must be unique by key and effect pair"
        );
        assert!(errors[1].starts_with("metadata.taints[2].key: Invalid value: \"a b\""));
        assert_eq!(
            errors[2],
            "metadata.taints[2].effect: Unsupported value: \"Never\": supported values: \
             \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\""
        );
        assert_eq!(errors[3], "metadata.taints[3].effect: Required value");
    }
}
