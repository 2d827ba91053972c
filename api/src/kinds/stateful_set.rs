//! StatefulSet, and its ancestor PetSet.

use std::collections::HashSet;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::row;
use super::workload::{
    replicas_and_template, selector_from_template, template_names_selector, template_warnings,
    validate_running_template,
};
use crate::defaults::{child, items_at, set, set_default, set_default_text, take};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::names;
use crate::pod_spec::defaults::default_claim_spec;
use crate::pod_spec::validate_selector_and_labels;
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
    // Not in `all`: that would list every StatefulSet twice.
    Served::new("apps", "v1alpha1", "PetSet", "petsets", "petset"),
];

struct StatefulSet;

impl Behaviour for StatefulSet {
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

    fn to_served(&self, served: &Served, object: &mut Value) {
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

    fn name_rule(&self, name: &str, prefix: bool) -> Vec<String> {
        names::label_name(name, prefix)
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = ErrorList::new();
        let policy = spec.at("podManagementPolicy");
        if !["OrderedReady", "Parallel"].contains(&policy.str()) {
            errors.push(policy.invalid("must be 'OrderedReady' or 'Parallel'"));
        }
        let strategy = spec.at("updateStrategy");
        let rolling = strategy.at("rollingUpdate");
        match strategy.at("type").str() {
            "OnDelete" => {
                if rolling.exists() {
                    errors.push(FieldError::invalid(
                        &rolling.path,
                        rolling.value.clone(),
                        "only allowed for updateStrategy 'RollingUpdate'",
                    ));
                }
            }
            "RollingUpdate" => errors.extend(rolling.at("partition").non_negative()),
            _ => errors.push(strategy.invalid("must be 'RollingUpdate' or 'OnDelete'")),
        }
        let retention = spec.at("persistentVolumeClaimRetentionPolicy");
        for name in ["whenDeleted", "whenScaled"] {
            errors.extend(retention.at(name).one_of(&["Delete", "Retain"]));
        }
        errors.extend(spec.all_non_negative(&[
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
        ]));
        errors.extend(spec.at("ordinals").at("start").non_negative());
        errors.extend(validate_selector_and_labels(
            &spec,
            "empty selector is invalid for statefulset",
        ));
        // Claims become volumes of the same name.
        let mut template = spec.at("template").value.clone();
        let pod = child(&mut template, "spec");
        let mut list = pod["volumes"].as_array().cloned().unwrap_or_default();
        let mut names: HashSet<String> =
            list.iter().filter_map(|volume| Some(volume["name"].as_str()?.to_owned())).collect();
        for claim in spec.at("volumeClaimTemplates").items() {
            let name = claim.at("metadata").at("name").str();
            if names.insert(name.to_owned()) {
                list.push(json!({ "name": name, "persistentVolumeClaim": { "claimName": name } }));
            }
        }
        pod["volumes"] = Value::Array(list);
        let template = Field::new(&template, spec.at("template").path);
        errors.extend(validate_running_template(&template, "StatefulSet"));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (mut new, mut old) = (object["spec"].clone(), old["spec"].clone());
        for name in [
            "replicas",
            "ordinals",
            "template",
            "updateStrategy",
            "revisionHistoryLimit",
            "persistentVolumeClaimRetentionPolicy",
            "minReadySeconds",
        ] {
            take(&mut new, name);
            take(&mut old, name);
        }
        for spec in [&mut new, &mut old] {
            items_at(spec, "volumeClaimTemplates").for_each(|claim| {
                take(claim, "status");
            });
        }
        if !same(&new, &old) {
            errors.push(FieldError::forbidden(
                "spec",
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
                 'template', 'updateStrategy', 'revisionHistoryLimit', \
                 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            ));
        }
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The errors of a set whose container mounts these volumes.
    fn errors(
        volumes: &Value,
        claims: &Value,
        mounted: impl Iterator<Item = String>,
    ) -> Vec<String> {
        let mounts: Vec<Value> =
            mounted.map(|name| json!({ "name": name, "mountPath": format!("/{name}") })).collect();
        let mut object = json!({
            "metadata": { "name": "s", "namespace": "default" },
            "spec": {
                "serviceName": "s",
                "selector": { "matchLabels": { "app": "s" } },
                "template": {
                    "metadata": { "labels": { "app": "s" } },
                    "spec": {
                        "volumes": volumes,
                        "containers": [{ "name": "c", "image": "i", "volumeMounts": mounts }],
                    },
                },
                "volumeClaimTemplates": claims,
            },
        });
        RESOURCE.decode(&CURRENT, &mut object).unwrap();
        StatefulSet.validate(&object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn volumes_of_the_template_and_of_claims_can_be_mounted() {
        let volumes = json!([{ "name": "settings", "configMap": { "name": "s" } }]);
        let claims = json!([{
            "metadata": { "name": "data" },
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": { "requests": { "storage": "1Mi" } },
            },
        }]);
        let mounts =
            |names: &[&str]| errors(&volumes, &claims, names.iter().map(|name| (*name).to_owned()));
        assert_eq!(mounts(&["settings", "data"]), [""; 0]);
        assert_eq!(
            mounts(&["none"]),
            ["spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"none\""]
        );
    }

    #[test]
    fn each_of_many_claims_is_a_volume_once() {
        let range = |numbers: std::ops::Range<i32>| numbers.map(|n| format!("v{n}"));
        let volumes: Value =
            range(0..2_000).map(|name| json!({ "name": name, "emptyDir": {} })).collect();
        let claims: Value = range(1_000..3_000)
            .chain(range(2_500..3_000))
            .map(|name| json!({ "metadata": { "name": name } }))
            .collect();
        assert_eq!(
            errors(&volumes, &claims, range(0..3_001)),
            ["spec.template.spec.containers[0].volumeMounts[3000].name: Not found: \"v3000\""]
        );
    }
}
