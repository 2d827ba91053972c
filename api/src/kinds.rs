//! One module per kind: its row in the resource table, defaults, validation, columns.

mod row;

mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod daemon_set;
mod deployment;
mod endpoint_slice;
mod endpoints;
mod event;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod job;
mod lease;
mod limit_range;
mod metrics;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
pub(crate) mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_template;
mod priority_class;
mod rbac;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod review;
mod secret;
mod service;
mod service_account;
mod stateful_set;
mod storage_class;
mod workload;

use crate::registry::Resource;

/// The table of resource types.
pub static RESOURCES: &[Resource] = &[
    pod::RESOURCE,
    namespace::RESOURCE,
    node::RESOURCE,
    service::RESOURCE,
    endpoints::RESOURCE,
    config_map::RESOURCE,
    secret::RESOURCE,
    service_account::RESOURCE,
    event::RESOURCE,
    replication_controller::RESOURCE,
    persistent_volume::RESOURCE,
    persistent_volume_claim::RESOURCE,
    limit_range::RESOURCE,
    resource_quota::RESOURCE,
    pod_template::RESOURCE,
    review::BINDING,
    component_status::RESOURCE,
    deployment::RESOURCE,
    replica_set::RESOURCE,
    daemon_set::RESOURCE,
    stateful_set::RESOURCE,
    controller_revision::RESOURCE,
    job::RESOURCE,
    cron_job::RESOURCE,
    horizontal_pod_autoscaler::RESOURCE,
    pod_disruption_budget::RESOURCE,
    endpoint_slice::RESOURCE,
    lease::RESOURCE,
    priority_class::RESOURCE,
    rbac::ROLE,
    rbac::ROLE_BINDING,
    rbac::CLUSTER_ROLE,
    rbac::CLUSTER_ROLE_BINDING,
    storage_class::RESOURCE,
    ingress::RESOURCE,
    ingress_class::RESOURCE,
    network_policy::RESOURCE,
    metrics::NODE,
    metrics::POD,
    review::TOKEN_REVIEW,
    review::SELF_SUBJECT_REVIEW,
    review::SUBJECT_ACCESS_REVIEW,
    review::LOCAL_SUBJECT_ACCESS_REVIEW,
    review::SELF_SUBJECT_ACCESS_REVIEW,
    review::SELF_SUBJECT_RULES_REVIEW,
];
