//! ControllerRevision: a template that a DaemonSet or StatefulSet had.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::registry::{Behaviour, Cell, Column, Resource, Served, Subresource};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ControllerRevision);

const CURRENT: Served =
    Served::new("apps", "v1", "ControllerRevision", "controllerrevisions", "controllerrevision");

const SERVED: &[Served] =
    &[CURRENT, CURRENT.also("apps", "v1beta2"), CURRENT.also("apps", "v1beta1")];

struct ControllerRevision;

impl Behaviour for ControllerRevision {
    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let mut errors = ErrorList::new();
        let data = object.at("data");
        if !data.exists() {
            errors.push(data.required("data is mandatory"));
        }
        errors.extend(object.at("revision").non_negative());
        errors
    }

    fn validate_update(&self, object: &Value, old: &Value, _: Subresource<'_>) -> ErrorList {
        let mut errors = self.validate(object);
        errors.extend(Field::root(object).at("data").immutable(&old["data"]));
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Controller"), Column::text("Revision"), Column::AGE] }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let owners = object["metadata"]["ownerReferences"].as_array().into_iter().flatten();
        let owner = owners.into_iter().find(|owner| owner["controller"] == true);
        let controller = owner.map_or_else(
            || "<none>".to_owned(),
            |owner| {
                let kind = owner["kind"].as_str().unwrap_or_default().to_lowercase();
                let group = owner["apiVersion"].as_str().and_then(|v| v.split_once('/'));
                let kind = group.map_or(kind.clone(), |(group, _)| format!("{kind}.{group}"));
                format!("{kind}/{}", owner["name"].as_str().unwrap_or_default())
            },
        );
        vec![
            row::name(object),
            controller.into(),
            row::integer(&object["revision"]),
            row::age(object, now),
        ]
    }
}
