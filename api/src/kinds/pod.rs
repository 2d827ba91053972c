//! Pod.

mod create;
mod phase;
mod update;

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::defaults::{child, copy_from, set};
use crate::field::{Field, same};
use crate::field_error::{ErrorList, FieldError};
use crate::pod;
use crate::pod_spec::defaults::{default_pod, sync_service_account};
use crate::pod_spec::pod_warnings;
use crate::pod_spec::validate_pod_spec;
use crate::registry::{
    Behaviour, Cell, Column, Resource, Served, Subresource, SubresourceInfo, keep_all_but_status,
};

/// The row of the resource table.
pub const RESOURCE: Resource =
    Resource::new(SERVED, &Pod).with_status().with_generation().subresources(SUBRESOURCES);

const SERVED: &[Served] = &[Served::new("", "v1", "Pod", "pods", "pod").short(&["po"]).all()];

const SUBRESOURCES: &[SubresourceInfo] = &[
    SubresourceInfo::new("attach", "PodAttachOptions", &["create", "get"]),
    SubresourceInfo::new("binding", "Binding", &["create"]),
    SubresourceInfo::new("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
    SubresourceInfo::new("eviction", "Eviction", &["create"]).of("policy", "v1"),
    SubresourceInfo::new("exec", "PodExecOptions", &["create", "get"]),
    SubresourceInfo::new("log", "Pod", &["get"]),
    SubresourceInfo::new("portforward", "PodPortForwardOptions", &["create", "get"]),
    SubresourceInfo::new(
        "proxy",
        "PodProxyOptions",
        &["create", "delete", "get", "patch", "update"],
    ),
    SubresourceInfo::new("resize", "Pod", &["get", "patch", "update"]),
];

struct Pod;

impl Behaviour for Pod {
    fn to_storage(&self, _served: &Served, object: &mut Value) -> Result<(), ErrorList> {
        default_pod(child(object, "spec"));
        Ok(())
    }

    fn prepare_for_create(&self, object: &mut Value) {
        sync_service_account(child(object, "spec"));
        create::resolve_label_keys(object);
        set(object, "status", create::first_status(object));
    }

    fn prepare_for_update(&self, object: &mut Value, old: &Value, subresource: Subresource<'_>) {
        match subresource {
            Subresource::Status => {
                keep_all_but_status(object, old);
                copy_from(child(object, "metadata"), &old["metadata"], "ownerReferences");
                let class = old["status"]["qosClass"].clone();
                if object["status"]["qosClass"].is_null() && !class.is_null() {
                    set(child(object, "status"), "qosClass", class);
                }
            }
            Subresource::Other("ephemeralcontainers") => {
                let added = object["spec"]["ephemeralContainers"].clone();
                set(object, "spec", old["spec"].clone());
                if !added.is_null() {
                    set(child(object, "spec"), "ephemeralContainers", added);
                }
                copy_from(object, old, "status");
            }
            Subresource::Other("resize") => {
                let wanted = object["spec"].clone();
                set(object, "spec", old["spec"].clone());
                phase::resize(child(object, "spec"), &wanted);
                copy_from(object, old, "status");
            }
            _ => {
                sync_service_account(child(object, "spec"));
                copy_from(child(object, "spec"), &old["spec"], "ephemeralContainers");
                copy_from(object, old, "status");
            }
        }
    }

    fn validate(&self, object: &Value) -> ErrorList {
        let spec = Field::root(object).at("spec");
        let mut errors = validate_pod_spec(&spec);
        let ephemeral = spec.at("ephemeralContainers");
        if !ephemeral.is_empty() {
            errors.push(ephemeral.forbidden("cannot be set on create"));
        }
        let (node, gates) = (spec.at("nodeName"), spec.at("schedulingGates"));
        if !node.is_empty() && !gates.is_empty() {
            let detail = "cannot be set until all schedulingGates have been cleared";
            errors.push(node.forbidden(detail));
        }
        errors
    }

    fn validate_update(
        &self,
        object: &Value,
        old: &Value,
        subresource: Subresource<'_>,
    ) -> ErrorList {
        let spec = Field::root(object).at("spec");
        match subresource {
            Subresource::Status => ErrorList::new(),
            Subresource::Other("ephemeralcontainers") => {
                update::validate_ephemeral_update(object, old)
            }
            Subresource::Other("resize") => {
                let mut errors = validate_pod_spec(&spec);
                if pod::qos_class(spec.value) != pod::qos_class(&old["spec"]) {
                    let detail = "Pod QOS Class may not change as a result of resizing";
                    errors.push(FieldError::invalid("spec", pod::qos_class(spec.value), detail));
                }
                // The agent does not apply new limits to a container that runs.
                errors.push(spec.forbidden("Pod running on node without support for resize"));
                errors
            }
            Subresource::Other(_) => validate_pod_spec(&spec),
            _ => {
                let mut errors = validate_pod_spec(&spec);
                errors.extend(update::validate_update(object, old));
                errors
            }
        }
    }

    fn generation_changed(&self, object: &Value, old: &Value) -> bool {
        !same(&object["spec"], &old["spec"])
    }

    fn warnings(&self, object: &Value) -> Vec<String> {
        pod_warnings(&Field::root(object).at("spec"))
    }

    fn columns(&self) -> &'static [Column] {
        const {
            &[
                Column::NAME,
                Column::text("Ready"),
                Column::text("Status"),
                Column::text("Restarts"),
                Column::AGE,
                Column::wide("IP"),
                Column::wide("Node"),
                Column::wide("Nominated Node"),
                Column::wide("Readiness Gates"),
            ]
        }
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let summary = phase::Summary::of(object, now);
        vec![
            row::name(object),
            summary.ready.into(),
            summary.status.into(),
            summary.restarts.into(),
            row::age(object, now),
            row::text_or(&status["podIP"], "<none>"),
            row::text_or(&spec["nodeName"], "<none>"),
            row::text_or(&status["nominatedNodeName"], "<none>"),
            phase::readiness_gates(object).into(),
        ]
    }

    fn selectable_fields(&self, object: &Value) -> Vec<(&'static str, String)> {
        let (spec, status) = (&object["spec"], &object["status"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let ips = status["podIPs"].as_array().into_iter().flatten();
        let ips: Vec<&str> = ips.filter_map(|ip| ip["ip"].as_str()).collect();
        vec![
            ("spec.nodeName", text(&spec["nodeName"])),
            ("spec.restartPolicy", text(&spec["restartPolicy"])),
            ("spec.schedulerName", text(&spec["schedulerName"])),
            ("spec.serviceAccountName", text(&spec["serviceAccountName"])),
            ("spec.hostNetwork", spec["hostNetwork"].as_bool().unwrap_or(false).to_string()),
            ("status.phase", text(&status["phase"])),
            ("status.podIP", text(&status["podIP"])),
            ("status.podIPs", ips.join(",")),
            ("status.nominatedNodeName", text(&status["nominatedNodeName"])),
        ]
    }
}
