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
