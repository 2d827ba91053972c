//! StatefulSet, and its ancestor PetSet.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::{replicas_and_template, selector_from_template, template_names_selector};
use crate::defaults::{child, items_at, set, set_default, set_default_text, take};
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::default_claim_spec;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &StatefulSet).with_status().with_scale().with_generation();

const CURRENT: Served =
    Served::new("apps", "v1", "StatefulSet", "statefulsets", "statefulset").short(&["sts"]).all();

const SERVED: &[Served] = &[
    CURRENT,
    CURRENT.also("apps", "v1beta2"),
    CURRENT.also("apps", "v1beta1"),
    Served::new("apps", "v1alpha1", "PetSet", "petsets", "petset").all(),
];

struct StatefulSet;

impl Behaviour for StatefulSet {
    fn stored(&self) -> (&'static str, &'static str) {
        ("apps/v1", "StatefulSet")
    }

    fn to_storage(&self, served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let old = template_names_selector(served.group, served.version);
        if old {
            selector_from_template(object);
        }
        let spec = child(object, "spec");
        replicas_and_template(spec);
        set_default_text(spec, "podManagementPolicy", "OrderedReady");
        let strategy = child(spec, "updateStrategy");
        set_default_text(strategy, "type", if old { "OnDelete" } else { "RollingUpdate" });
        if strategy["type"] == "RollingUpdate" {
            set_default(child(strategy, "rollingUpdate"), "partition", 0);
        }
        let retention = child(spec, "persistentVolumeClaimRetentionPolicy");
        set_default_text(retention, "whenDeleted", "Retain");
        set_default_text(retention, "whenScaled", "Retain");
        set_default(spec, "revisionHistoryLimit", 10);
        for claim in items_at(spec, "volumeClaimTemplates") {
            set(claim, "apiVersion", "v1");
            set(claim, "kind", "PersistentVolumeClaim");
            default_claim_spec(child(claim, "spec"));
            set_default_text(child(claim, "status"), "phase", "Pending");
        }
        Ok(())
    }

    fn from_storage(&self, served: &Served, object: &mut Value) {
        if served.version == "v1alpha1" {
            let spec = child(object, "spec");
            for newer in [
                "podManagementPolicy",
                "updateStrategy",
                "revisionHistoryLimit",
                "persistentVolumeClaimRetentionPolicy",
                "minReadySeconds",
                "ordinals",
            ] {
                take(spec, newer);
            }
        }
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", json!({ "replicas": 0, "availableReplicas": 0 }));
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Ready"),
                Column::AGE,
                Column::wide("Containers"),
                Column::wide("Images"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let desired = spec["replicas"].as_i64().unwrap_or(0);
        let ready = status["readyReplicas"].as_i64().unwrap_or(0);
        let [names, images] = row::containers(&spec["template"]["spec"]);
        vec![
            row::name(object),
            format!("{ready}/{desired}").into(),
            row::age(object, now),
            names,
            images,
        ]
    }
}
