//! NodeMetrics and PodMetrics: usage that is read from the nodes when somebody asks.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::quantity::Quantity;
use crate::registry::{Behaviour, Cell, Column, Persistence, Resource, Served};

const READ: &[&str] = &["get", "list"];

const fn read_only(served: &'static [Served], behaviour: &'static dyn Behaviour) -> Resource {
    Resource::new(served, behaviour).persistence(Persistence::None).verbs(READ)
}

/// The row of NodeMetrics in the resource table.
pub const NODE: Resource = read_only(
    &[Served::new("metrics.k8s.io", "v1beta1", "NodeMetrics", "nodes", "")],
    &NodeMetrics,
)
.cluster_scoped();

/// The row of PodMetrics in the resource table.
pub const POD: Resource =
    read_only(&[Served::new("metrics.k8s.io", "v1beta1", "PodMetrics", "pods", "")], &PodMetrics);

struct NodeMetrics;
struct PodMetrics;

impl Behaviour for NodeMetrics {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let usage = |name: &str| row::plain(&object["usage"][name], "0").into();
        vec![row::name(object), usage("cpu"), usage("memory"), row::text_or(&object["window"], "")]
    }
}

impl Behaviour for PodMetrics {
    fn columns(&self) -> &'static [Column] {
        COLUMNS
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let usage = |name: &str| {
            let containers = object["containers"].as_array().into_iter().flatten();
            let each = containers.filter_map(|c| Quantity::from_json(&c["usage"][name]).ok());
            each.sum::<Quantity>().to_string().into()
        };
        vec![row::name(object), usage("cpu"), usage("memory"), row::text_or(&object["window"], "")]
    }
}

const COLUMNS: &[Column] =
    &[Column::NAME, Column::text("cpu"), Column::text("memory"), Column::text("Window")];
