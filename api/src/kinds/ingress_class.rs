//! IngressClass.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, object_at, set_default};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::names;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &IngressClass).cluster_scoped().with_generation();

const SERVED: &[Served] =
    &[Served::new("networking.k8s.io", "v1", "IngressClass", "ingressclasses", "ingressclass")];

struct IngressClass;

impl Behaviour for IngressClass {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        if let Some(parameters) = object_at(child(object, "spec"), "parameters") {
            set_default(parameters, "scope", "Cluster");
        }
        Ok(())
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let controller = Field::root(object).at("spec").at("controller");
        let mut errors = ErrorList::new();
        match controller.str().split_once('/') {
            _ if controller.is_empty() => errors.push(controller.required("")),
            Some((domain, path)) if !domain.is_empty() && !path.is_empty() => {
                errors.extend(controller.invalid_each(names::dns1123_subdomain(domain)));
            }
            _ => errors.push(
                controller.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"),
            ),
        }
        let parameters = Field::root(object).at("spec").at("parameters");
        if parameters.exists() {
            errors.extend(validate_parameters(&parameters));
        }
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let controller = Field::root(object).at("spec").at("controller");
        controller.immutable(&old["spec"]["controller"]).into_iter().collect()
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Controller"), Column::text("Parameters"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        let parameters = &spec["parameters"];
        let shown = if parameters.is_object() {
            let mut kind = row::plain(&parameters["kind"], "");
            if let Some(group) = parameters["apiGroup"].as_str() {
                kind = format!("{kind}.{group}");
            }
            format!("{kind}/{}", row::plain(&parameters["name"], ""))
        } else {
            "<none>".to_owned()
        };
        vec![
            row::name(object),
            row::text_or(&spec["controller"], ""),
            shown.into(),
            row::age(object, now),
        ]
    }
}

/// Checks the reference to what configures the controller.
fn validate_parameters(parameters: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let [group, kind, name, scope, namespace] =
        ["apiGroup", "kind", "name", "scope", "namespace"].map(|name| parameters.at(name));
    if group.exists() {
        errors.extend(group.invalid_each(names::dns1123_subdomain(group.str())));
    }
    for field in [kind, name] {
        if field.is_empty() {
            errors.push(field.required(""));
        } else {
            errors.extend(field.invalid_each(names::path_segment(field.str())));
        }
    }
    match scope.str() {
        "" => errors.push(scope.required("")),
        "Namespace" if namespace.is_empty() => {
            let detail = "`parameters.scope` is set to 'Namespace'";
            errors.push(namespace.required(detail));
        }
        "Namespace" => {
            errors.extend(namespace.invalid_each(names::dns1123_label(namespace.str())));
        }
        "Cluster" if !namespace.is_empty() => {
            errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
        }
        _ => errors.extend(scope.one_of(&["Cluster", "Namespace"])),
    }
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parameters_name_an_object() {
        let check = |parameters: Value| -> Vec<String> {
            let object = json!({"spec": {"controller": "a.b/c", "parameters": parameters}});
            IngressClass.validate(&object).iter().map(ToString::to_string).collect()
        };
        assert!(check(json!({"kind": "Config", "name": "c", "scope": "Cluster"})).is_empty());
        assert_eq!(
            check(json!({"scope": "Namespace"})),
            [
                "spec.parameters.kind: Required value",
                "spec.parameters.name: Required value",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to \
                 'Namespace'",
            ]
        );
        assert_eq!(
            check(json!({"kind": "C", "name": "c", "scope": "Node"})),
            ["spec.parameters.scope: Unsupported value: \"Node\": supported values: \"Cluster\", \
              \"Namespace\""]
        );
    }
}
