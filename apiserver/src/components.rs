//! How the parts of the control plane are. All but the store are this very process: who gets an
//! answer has reached parts that work.

use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::body::Body;
use crate::call::Call;
use crate::error::ApiError;
use crate::selection::Selection;
use crate::{health, render};

/// The kind that is answered here.
pub(crate) const KIND: &str = "ComponentStatus";

const COMPONENTS: [&str; 3] = ["scheduler", "controller-manager", STORE];
/// The name under which monitors ask for the store.
const STORE: &str = "etcd-0";

/// Answers `get` and `list`.
pub(crate) async fn answer(call: &Call<'_>) -> Result<Response<Body>, ApiError> {
    Selection::parse(call)?;
    let wanted = call.info.name.as_str();
    let mut items = Vec::new();
    for name in COMPONENTS.into_iter().filter(|name| wanted.is_empty() || *name == wanted) {
        let error = match name {
            STORE => health::of_store(call.server).await,
            _ => None,
        };
        items.push(status(name, error));
    }
    match items.pop() {
        None => Err(call.not_found(wanted)),
        Some(only) if !wanted.is_empty() => render::object(call, StatusCode::OK, only),
        Some(last) => {
            items.push(last);
            render::computed_list(call, items)
        }
    }
}

fn status(name: &str, error: Option<String>) -> Value {
    let condition = match error {
        None => json!({ "type": "Healthy", "status": "True", "message": "ok" }),
        Some(error) => json!({ "type": "Healthy", "status": "False", "error": error }),
    };
    json!({
        "kind": KIND,
        "apiVersion": "v1",
        "metadata": { "name": name, "creationTimestamp": null },
        "conditions": [condition],
    })
}
