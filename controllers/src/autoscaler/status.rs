//! Conditions and metrics in the status of an autoscaler.

use api::quantity::Quantity;
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, HorizontalPodAutoscalerCondition, MetricStatus,
    MetricValueStatus, ResourceMetricStatus,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::autoscaler::replicas::Proposal;

/// The autoscaler can read and write the scale.
pub const ABLE_TO_SCALE: &str = "AbleToScale";
/// The metrics can be computed.
pub const SCALING_ACTIVE: &str = "ScalingActive";
/// A bound was met.
pub const SCALING_LIMITED: &str = "ScalingLimited";

/// What a condition says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// The type of the condition.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// One word.
    pub reason: &'static str,
    /// The sentence.
    pub message: String,
}

impl Statement {
    /// A statement.
    pub fn new(
        kind: &'static str,
        holds: bool,
        reason: &'static str,
        message: impl Into<String>,
    ) -> Self {
        Self { kind, holds, reason, message: message.into() }
    }
}

/// Puts a statement among the conditions; the time moves only when it turns true or false.
pub fn set(
    conditions: &mut Option<Vec<HorizontalPodAutoscalerCondition>>,
    statement: Statement,
    now: Timestamp,
) {
    let list = conditions.get_or_insert_default();
    let status = if statement.holds { "True" } else { "False" };
    let (reason, message) = (Some(statement.reason.to_owned()), Some(statement.message));
    match list.iter_mut().find(|known| known.type_ == statement.kind) {
        Some(known) => {
            if known.status != status {
                known.last_transition_time = Some(Time(now));
            }
            known.status = status.to_owned();
            known.reason = reason;
            known.message = message;
        }
        None => list.push(HorizontalPodAutoscalerCondition {
            type_: statement.kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(Time(now)),
        }),
    }
}

/// The present value of a metric on a resource, of pods or of one container.
pub fn metric(resource: &str, container: Option<&str>, proposal: &Proposal) -> MetricStatus {
    let average = if resource == "cpu" {
        Quantity::from_milli(proposal.average_milli)
    } else {
        Quantity::from_bytes(proposal.average_milli / 1000)
    };
    let current = MetricValueStatus {
        average_utilization: proposal.utilization,
        average_value: Some(Text(average.to_string())),
        value: None,
    };
    let name = resource.to_owned();
    let mut status = MetricStatus { type_: "Resource".to_owned(), ..MetricStatus::default() };
    match container {
        None => status.resource = Some(ResourceMetricStatus { current, name }),
        Some(container) => {
            status.type_ = "ContainerResource".to_owned();
            let container = container.to_owned();
            status.container_resource =
                Some(ContainerResourceMetricStatus { container, current, name });
        }
    }
    status
}
