//! CronJob.

use jiff::Timestamp;
use serde_json::Value;

use super::job::validate_job_spec;
use super::row;
use crate::defaults::{child, empty, set, set_default, set_default_text};
use crate::duration;
use crate::field::Field;
use crate::field_error::ErrorList;
use crate::pod_spec::defaults::default_template;
use crate::pod_spec::pod_warnings;
use crate::registry::{Behaviour, Cell, Column, Resource, Served};
use crate::schedule::{Schedule, time_zone};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &CronJob).with_status().with_generation();

const CURRENT: Served =
    Served::new("batch", "v1", "CronJob", "cronjobs", "cronjob").short(&["cj"]).all();

const SERVED: &[Served] = &[CURRENT, CURRENT.also("batch", "v1beta1")];

/// The job controller appends eleven characters.
const NAME_MAX_BYTES: usize = 52;

struct CronJob;

impl Behaviour for CronJob {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        let spec = child(object, "spec");
        set_default_text(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        let template = child(spec, "jobTemplate");
        child(template, "metadata");
        default_template(child(child(template, "spec"), "template"));
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        set(object, "status", empty());
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let object = Field::root(object);
        let spec = object.at("spec");
        let mut errors = ErrorList::new();
        let schedule = spec.at("schedule");
        let zone = spec.at("timeZone");
        if schedule.is_empty() {
            errors.push(schedule.required(""));
        } else {
            if schedule.str().contains("TZ") {
                let detail = if zone.exists() {
                    "cannot use both timeZone field and TZ or CRON_TZ in schedule"
                } else {
                    "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"
                };
                errors.push(schedule.invalid(detail));
            } else if let Err(error) = Schedule::parse(schedule.str()) {
                errors.push(schedule.invalid(error));
            }
        }
        if zone.exists() {
            match zone.str() {
                "" => errors.push(zone.invalid("timeZone must be nil or non-empty string")),
                name if name.eq_ignore_ascii_case("local") => errors.push(zone.invalid(
                    "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
                )),
                name if time_zone(name).is_none() => {
                    errors.push(zone.invalid(format!("unknown time zone {name}")));
                }
                _ => {}
            }
        }
        errors.extend(spec.at("startingDeadlineSeconds").non_negative());
        let policy = spec.at("concurrencyPolicy");
        if policy.is_empty() {
            errors.push(policy.required(""));
        } else {
            errors.extend(policy.one_of(&["Allow", "Forbid", "Replace"]));
        }
        errors.extend(
            spec.all_non_negative(&["successfulJobsHistoryLimit", "failedJobsHistoryLimit"]),
        );
        let job = spec.at("jobTemplate").at("spec");
        let manual = job.at("manualSelector");
        if manual.bool() {
            errors.push(manual.not_supported(&["nil", "false"]));
        }
        errors.extend(validate_job_spec(&job));
        let name = object.at("metadata").at("name");
        if name.str().len() > NAME_MAX_BYTES {
            errors.push(name.invalid("must be no more than 52 characters"));
        }
        errors
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        pod_warnings(
            &Field::root(object).at("spec").at("jobTemplate").at("spec").at("template").at("spec"),
        )
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Schedule"),
                Column::text("Timezone"),
                Column::typed("Suspend", "boolean"),
                Column::integer("Active"),
                Column::text("Last Schedule"),
                Column::AGE,
                Column::wide("Containers"),
                Column::wide("Images"),
                Column::wide("Selector"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let last = match &status["lastScheduleTime"] {
            Value::Null => "<none>".to_owned(),
            time => duration::since(time, now),
        };
        let suspend = match spec["suspend"].as_bool() {
            Some(true) => "True",
            Some(false) => "False",
            None => "<unset>",
        };
        let job = &spec["jobTemplate"]["spec"];
        let [names, images] = row::containers(&job["template"]["spec"]);
        vec![
            row::name(object),
            row::text_or(&spec["schedule"], ""),
            row::text_or(&spec["timeZone"], "<none>"),
            suspend.into(),
            row::count(&status["active"]).into(),
            last.into(),
            row::age(object, now),
            names,
            images,
            row::label_selector(&job["selector"]),
        ]
    }
}
