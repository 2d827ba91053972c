//! `/scale`: the number of replicas of whatever has replicas, as `autoscaling/v1` Scale.

use api::{FieldError, Served, Subresource};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use crate::apply::managed::Writer;
use crate::body::{self, Body};
use crate::call::Call;
use crate::decode;
use crate::error::ApiError;
use crate::object;
use crate::options::WriteOptions;
use crate::render;
use crate::verbs::patch::Patch;
use crate::write::{self, Edit, Stored};

/// The kind that goes in and out.
static SCALE: Served = Served {
    group: "autoscaling",
    version: "v1",
    kind: "Scale",
    plural: "scales",
    singular: "scale",
    short_names: &[],
    categories: &[],
};

/// Answers get, update and patch.
pub(crate) async fn answer(call: &Call<'_>, body: Body) -> Result<Response<Body>, ApiError> {
    let name = &call.info.name;
    match call.info.verb {
        "get" => {
            let key = call.key(name);
            let record = call.server.store.get(&key).ok_or_else(|| call.not_found(name))?;
            respond(call, &render::parse(&record)?)
        }
        "update" => {
            let bytes = body::read(call.headers, body).await?;
            let options = WriteOptions::parse(call, "UpdateOptions")?;
            let document = decode::document(call.headers, &bytes)?;
            let wanted = document.check(call, &SCALE, options.field_validation)?;
            write(call, &options, |_| Ok(wanted.clone())).await
        }
        "patch" => {
            let bytes = body::read(call.headers, body).await?;
            let options = WriteOptions::parse(call, "PatchOptions")?;
            let patch = match Patch::parse(decode::media_type(call.headers), &bytes)? {
                // A Scale has no lists, so that both merges are the same.
                Patch::Strategic(patch) => Patch::Merge(patch),
                patch => patch,
            };
            write(call, &options, |scale| {
                let mut scale = scale.clone();
                patch.apply(call, &mut scale)?;
                Ok(scale)
            })
            .await
        }
        _ => Err(ApiError::method_not_allowed()),
    }
}

async fn write(
    call: &Call<'_>,
    options: &WriteOptions,
    wanted: impl Fn(&Value) -> Result<Value, ApiError> + Send + Sync,
) -> Result<Response<Body>, ApiError> {
    let name = &call.info.name;
    let edit = Edit {
        subresource: Subresource::Scale,
        trusted: false,
        dry_run: options.dry_run,
        manager: Some(Writer::new(call, options, Subresource::Scale)),
    };
    let stored = write::modify(call, name, &edit, |current| {
        let scale = wanted(&scale_of(current.object))?;
        write::check_identity(call, &scale, current)?;
        let replicas = match &scale["spec"]["replicas"] {
            Value::Null => 0,
            value => value.as_i64().ok_or_else(|| {
                invalid(
                    name,
                    FieldError::invalid("spec.replicas", value.clone(), "must be a number"),
                )
            })?,
        };
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            return Err(invalid(
                name,
                FieldError::invalid(
                    "spec.replicas",
                    replicas,
                    "must be greater than or equal to 0",
                ),
            ));
        }
        let mut object = current.object.clone();
        object::child_mut(&mut object, "spec").insert("replicas".into(), replicas.into());
        Ok(object)
    })
    .await?;
    match &stored {
        Stored::Object(record) | Stored::Removed(record) => respond(call, &render::parse(record)?),
        Stored::Imagined(object) => respond(call, object),
    }
}

fn invalid(name: &str, error: FieldError) -> ApiError {
    ApiError::invalid(&SCALE, name, vec![error])
}

fn respond(call: &Call<'_>, object: &Value) -> Result<Response<Body>, ApiError> {
    let encoding = render::accepted(call)?.encoding;
    body::value(StatusCode::OK, &scale_of(object), encoding, call.headers)
}

/// The Scale of an object in its storage version.
fn scale_of(object: &Value) -> Value {
    let metadata = &object["metadata"];
    let mut own = serde_json::Map::new();
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if !metadata[field].is_null() {
            own.insert(field.into(), metadata[field].clone());
        }
    }
    let mut scale = json!({
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": own,
        "spec": {},
        "status": { "replicas": object["status"]["replicas"].as_i64().unwrap_or(0) },
    });
    if let Some(replicas) = object["spec"]["replicas"].as_i64().filter(|r| *r != 0) {
        scale["spec"]["replicas"] = replicas.into();
    }
    let selector = selector_text(&object["spec"]["selector"]);
    if !selector.is_empty() {
        scale["status"]["selector"] = selector.into();
    }
    scale
}

/// A selector in the form of `kubectl -l`.
fn selector_text(selector: &Value) -> String {
    let is_plain = selector.as_object().is_some_and(|map| {
        !map.contains_key("matchLabels") && !map.contains_key("matchExpressions")
    });
    let labels = if is_plain { selector } else { &selector["matchLabels"] };
    let mut terms: Vec<(String, String)> = labels
        .as_object()
        .into_iter()
        .flatten()
        .map(|(k, v)| (k.clone(), format!("{k}={}", v.as_str().unwrap_or_default())))
        .collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let mut values: Vec<&str> = expression["values"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        values.sort_unstable();
        let values = values.join(",");
        let text = match expression["operator"].as_str().unwrap_or_default() {
            "In" => format!("{key} in ({values})"),
            "NotIn" => format!("{key} notin ({values})"),
            "Exists" => key.to_owned(),
            _ => format!("!{key}"),
        };
        terms.push((key.to_owned(), text));
    }
    terms.sort();
    terms.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_kubectl_reads_them() {
        let plain = json!({"b": "2", "a": "1"});
        assert_eq!(selector_text(&plain), "a=1,b=2");
        let full = json!({"matchLabels": {"app": "x"}, "matchExpressions": [
            {"key": "tier", "operator": "In", "values": ["b", "a"]},
            {"key": "old", "operator": "DoesNotExist"},
        ]});
        assert_eq!(selector_text(&full), "app=x,!old,tier in (a,b)");
    }
}
