//! Job.

mod policy;

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use super::workload::{labels_from, template_warnings};
use crate::defaults::{child, copy_from, empty, items_at, set, set_default, set_default_text};
use crate::duration;
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::default_template;
use crate::pod_spec::{validate_selector_and_labels, validate_template};
use crate::registry::{Behaviour, Cell, Column, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &Job).with_status().with_generation();

const SERVED: &[Served] = &[Served::new("batch", "v1", "Job", "jobs", "job").all()];

struct Job;

impl Behaviour for Job {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let labels = object["spec"]["template"]["metadata"]["labels"].clone();
        let spec = child(object, "spec");
        default_template(child(spec, "template"));
        if spec["completions"].is_null() && spec["parallelism"].is_null() {
            set(spec, "completions", 1);
        }
        set_default(spec, "parallelism", 1);
        let per_index = !spec["backoffLimitPerIndex"].is_null();
        set_default(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        set_default(spec, "completionMode", "NonIndexed");
        set_default(spec, "suspend", false);
        let failure_policy = spec["podFailurePolicy"].is_object();
        let replacement = if failure_policy { "Failed" } else { "TerminatingOrFailed" };
        set_default(spec, "podReplacementPolicy", replacement);
        if failure_policy {
            for rule in items_at(&mut spec["podFailurePolicy"], "rules") {
                for pattern in items_at(rule, "onPodConditions") {
                    set_default_text(pattern, "status", "True");
                }
            }
        }
        labels_from(object, labels);
        Ok(())
    }

    // The caller has given the object its uid and name before this.
    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", empty());
        generate_selector(object);
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = validate_job_spec(&spec);
        errors.extend(validate_selector_and_labels(&spec, "empty selector is invalid for job"));
        errors
    }

    fn validate_change(&self, object: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (new, old) = (Field::root(object).at("spec"), &old["spec"]);
        for name in
            ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"]
        {
            errors.extend(new.at(name).immutable(&old[name]));
        }
        // An indexed job may be resized, completions and parallelism together.
        let completions = new.at("completions");
        let elastic =
            old["completionMode"] == "Indexed" && completions.value == new.at("parallelism").value;
        if !elastic {
            errors.extend(completions.immutable(&old["completions"]));
        }
        let template = new.at("template");
        let mut expected = old["template"].clone();
        if old["suspend"] == true {
            // What the scheduler looks at may be adjusted before the job starts.
            for name in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
                copy_from(child(&mut expected, "spec"), &template.value["spec"], name);
            }
            for name in ["labels", "annotations"] {
                copy_from(child(&mut expected, "metadata"), &template.value["metadata"], name);
            }
        }
        errors.extend(template.immutable(&expected));
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        template_warnings(object)
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Status"),
                Column::text("Completions"),
                Column::text("Duration"),
                Column::AGE,
                Column::wide("Containers"),
                Column::wide("Images"),
                Column::wide("Selector"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let succeeded = status["succeeded"].as_i64().unwrap_or(0);
        let completions = match (spec["completions"].as_i64(), spec["parallelism"].as_i64()) {
            (Some(wanted), _) => format!("{succeeded}/{wanted}"),
            (None, Some(parallelism)) if parallelism > 1 => {
                format!("{succeeded}/1 of {parallelism}")
            }
            _ => format!("{succeeded}/1"),
        };
        let time = |key: &str| status[key].as_str().and_then(|t| t.parse::<Timestamp>().ok());
        let took = match (time("startTime"), time("completionTime")) {
            (None, _) => String::new(),
            (Some(start), end) => {
                duration::human(end.unwrap_or(now).duration_since(start).as_secs())
            }
        };
        let [names, images] = row::containers(&spec["template"]["spec"]);
        vec![
            row::name(object),
            job_status(object).into(),
            completions.into(),
            took.into(),
            row::age(object, now),
            names,
            images,
            row::label_selector(&spec["selector"]),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let succeeded = object["status"]["succeeded"].as_i64().unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }
}

fn job_status(job: &Value) -> &'static str {
    let has = |kind: &str| {
        let mut list = job["status"]["conditions"].as_array().into_iter().flatten();
        list.any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if job["metadata"]["deletionTimestamp"].is_string() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else {
        "Running"
    }
}

/// Checks the spec of a job (also inside a CronJob, where there is no selector yet).
pub fn validate_job_spec(spec: &Field<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    errors.extend(spec.all_non_negative(&[
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ]));
    let mode = spec.at("completionMode");
    if mode.exists() {
        errors.extend(mode.one_of(&["NonIndexed", "Indexed"]));
    }
    errors.extend(policy::validate(spec));
    errors.extend(validate_template(&spec.at("template"), &["OnFailure", "Never"]));
    errors
}

/// Unless the manifest brings its own selector, pods are told apart by the uid of their job.
fn generate_selector(object: &mut Value) {
    if object["spec"]["manualSelector"] == true {
        return;
    }
    let uid = object["metadata"]["uid"].clone();
    let name = object["metadata"]["name"].clone();
    let spec = child(object, "spec");
    let labels = child(child(child(spec, "template"), "metadata"), "labels");
    for (key, value) in [
        ("batch.kubernetes.io/job-name", &name),
        ("job-name", &name),
        ("batch.kubernetes.io/controller-uid", &uid),
        ("controller-uid", &uid),
    ] {
        set(labels, key, value.clone());
    }
    let selector = child(spec, "selector");
    let matches = child(selector, "matchLabels");
    set(matches, "batch.kubernetes.io/controller-uid", uid);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn defaults_and_selector() {
        let mut job = json!({"metadata": {"name": "pi", "uid": "u"}, "spec": {"template":
            {"metadata": {"labels": {"app": "pi"}}, "spec": {"containers": []}}}});
        RESOURCE.decode(&SERVED[0], &mut job).unwrap();
        Job.prepare_for_create(&mut job);
        let spec = &job["spec"];
        assert_eq!(spec["completions"], 1);
        assert_eq!(spec["backoffLimit"], 6);
        assert_eq!(
            spec["selector"],
            json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})
        );
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "pi");
        assert_eq!(job["metadata"]["labels"], json!({"app": "pi"}));
    }
}
