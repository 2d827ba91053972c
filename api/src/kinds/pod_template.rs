//! PodTemplate.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::child;
use crate::field::{Field, same};
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::default_template;
use crate::pod_spec::pod_warnings;
use crate::pod_spec::validate_template;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &PodTemplate).with_generation();

const SERVED: &[Served] = &[Served::new("", "v1", "PodTemplate", "podtemplates", "podtemplate")];

struct PodTemplate;

impl Behaviour for PodTemplate {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        default_template(child(object, "template"));
        Ok(())
    }

    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        !same(&object["template"], &old["template"])
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let template = Field::root(object).at("template");
        validate_template(&template, &["Always", "OnFailure", "Never"])
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        pod_warnings(&Field::root(object).at("template").at("spec"))
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Containers"),
                Column::text("Images"),
                Column::text("Pod Labels"),
            ]
        }
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let template = &object["template"];
        let [names, images] = row::containers(&template["spec"]);
        vec![row::name(object), names, images, row::labels(&template["metadata"]["labels"])]
    }
}
