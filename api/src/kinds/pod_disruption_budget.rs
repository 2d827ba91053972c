//! PodDisruptionBudget.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::validate_int_or_percent;
use crate::defaults::{child, set};
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::metadata::validate_label_selector;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &PodDisruptionBudget).with_status().with_generation();

const CURRENT: Served = Served::new(
    "policy",
    "v1",
    "PodDisruptionBudget",
    "poddisruptionbudgets",
    "poddisruptionbudget",
)
.short(&["pdb"]);

const SERVED: &[Served] = &[CURRENT, CURRENT.also("policy", "v1beta1")];

/// In v1beta1 an empty selector matches nothing, in v1 everything; this key, which no pod has,
/// says the former in the words of the latter.
const MATCHES_NOTHING: &str = "pdb.kubernetes.io/deprecated-v1beta1-empty-selector-match";

struct PodDisruptionBudget;

impl Behaviour for PodDisruptionBudget {
    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let spec = child(object, "spec");
        if served.version == "v1beta1" && spec["selector"] == json!({}) {
            set(spec, "selector", match_nothing());
        }
        Ok(())
    }

    fn to_served(&self, served: &Served, object: &mut Value) {
        let spec = child(object, "spec");
        if served.version == "v1beta1" && spec["selector"] == match_nothing() {
            set(spec, "selector", json!({}));
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        let zero = json!({ "disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0,
            "expectedPods": 0 });
        set(object, "status", zero);
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        let (least, most) = (spec.at("minAvailable"), spec.at("maxUnavailable"));
        if least.exists() && most.exists() {
            let detail = "minAvailable and maxUnavailable cannot be both set";
            errors.push(spec.invalid(detail));
        }
        for bound in [&least, &most] {
            if bound.exists() {
                errors.extend(validate_int_or_percent(bound, false));
                errors.extend(validate_int_or_percent(bound, true));
            }
        }
        errors.extend(validate_label_selector(&spec.at("selector")));
        let policy = spec.at("unhealthyPodEvictionPolicy");
        if policy.exists() {
            errors.extend(policy.one_of(&["AlwaysAllow", "IfHealthyBudget"]));
        }
        errors
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Min Available"),
                Column::text("Max Unavailable"),
                Column::integer("Allowed Disruptions"),
                Column::AGE,
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &object["spec"];
        vec![
            row::name(object),
            row::plain(&spec["minAvailable"], "N/A").into(),
            row::plain(&spec["maxUnavailable"], "N/A").into(),
            row::integer(&object["status"]["disruptionsAllowed"]),
            row::age(object, now),
        ]
    }
}

fn match_nothing() -> Value {
    json!({ "matchExpressions": [{ "key": MATCHES_NOTHING, "operator": "Exists" }] })
}
