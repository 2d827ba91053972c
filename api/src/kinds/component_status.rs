//! ComponentStatus: how the parts of the control plane are, asked for by guides of long ago.

use jiff::Timestamp;
use serde_json::Value;

use super::row;
use crate::registry::{Behaviour, Cell, Column, Persistence, Resource, Served};

/// The row of the resource table.
pub const RESOURCE: Resource = Resource::new(SERVED, &ComponentStatus)
    .persistence(Persistence::None)
    .verbs(&["get", "list"])
    .cluster_scoped();

const SERVED: &[Served] =
    &[Served::new("", "v1", "ComponentStatus", "componentstatuses", "componentstatus")
        .short(&["cs"])];

struct ComponentStatus;

impl Behaviour for ComponentStatus {
    fn columns(&self) -> &'static [Column] {
        const { &[Column::NAME, Column::text("Status"), Column::text("Message"), Column::text("Error")] }
    }

    fn cells(&self, object: &Value, _now: Timestamp) -> Vec<Cell> {
        let conditions = object["conditions"].as_array().into_iter().flatten();
        let healthy = conditions.into_iter().find(|condition| condition["type"] == "Healthy");
        let status = match healthy.map(|condition| &condition["status"]) {
            None => "Unknown",
            Some(status) if status == "True" => "Healthy",
            Some(_) => "Unhealthy",
        };
        let text = |field: &str| healthy.map_or(Value::from(""), |c| row::text_or(&c[field], ""));
        vec![row::name(object), status.into(), text("message"), text("error")]
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn cells() {
        let status = |conditions: Value| {
            let object = json!({"metadata": {"name": "x"}, "conditions": conditions});
            ComponentStatus.cells(&object, Timestamp::UNIX_EPOCH)
        };
        let well = json!([{"type": "Healthy", "status": "True", "message": "ok"}]);
        assert_eq!(status(well), [json!("x"), json!("Healthy"), json!("ok"), json!("")]);
        let ill = json!([{"type": "Healthy", "status": "False", "error": "full"}]);
        assert_eq!(status(ill), [json!("x"), json!("Unhealthy"), json!(""), json!("full")]);
        assert_eq!(status(json!([]))[1], "Unknown");
    }
}
