//! `pods/eviction`: a deletion that respects PodDisruptionBudgets.

use api::Subresource;
use api::selector::LabelSelector;
use bytes::Bytes;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::body::{self, Body};
use crate::call::Call;
use crate::error::ApiError;
use crate::meta;
use crate::negotiate::Encoding;
use crate::options::DeleteOptions;
use crate::verbs::delete;
use crate::write::{self, Edit};
use crate::{decode, object, render};

/// Answers `POST …/pods/<name>/eviction`.
pub(crate) async fn answer(call: &Call<'_>, body: &Bytes) -> Result<Response<Body>, ApiError> {
    let eviction = decode::document(call.headers, body)?.value;
    let name = call.info.name.clone();
    let named = object::name(&eviction);
    if !named.is_empty() && named != name {
        return Err(ApiError::bad_request("name in URL does not match name in Eviction object"));
    }
    let mut options = DeleteOptions::parse(&eviction["deleteOptions"], call.query)?;
    if call.query.all("dryRun").any(|v| v == "All") {
        options.dry_run = true;
    }
    let key = call.key(&name);
    let record = call.server.store.get(&key).ok_or_else(|| call.not_found(&name))?;
    let pod = render::parse(&record)?;
    if !is_free(&pod) {
        spend_budget(call, &pod, options.dry_run).await?;
    }
    options.uid.get_or_insert_with(|| object::metadata_str(&pod, "uid").to_owned());
    if !options.dry_run {
        announce(call, &name).await?;
    }
    delete::delete(call, &name, &options).await?;
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    });
    body::value(StatusCode::CREATED, &status, Encoding::Json, call.headers)
}

/// Says in the pod's status why it goes, so that its owner need not take it for a failure.
async fn announce(call: &Call<'_>, name: &str) -> Result<(), ApiError> {
    const KIND: &str = "DisruptionTarget";
    let edit =
        Edit { subresource: Subresource::Status, trusted: true, dry_run: false, manager: None };
    write::modify(call, name, &edit, |current| {
        let mut pod = current.object.clone();
        let status = object::child_mut(&mut pod, "status");
        let conditions = status.entry("conditions").or_insert_with(|| json!([]));
        if let Some(list) = conditions.as_array_mut() {
            list.retain(|condition| condition["type"] != KIND);
            list.push(json!({
                "type": KIND, "status": "True", "lastProbeTime": null,
                "lastTransitionTime": object::time(Timestamp::now()),
                "reason": "EvictionByEvictionAPI", "message": "Eviction API: evicting",
            }));
        }
        Ok(pod)
    })
    .await?;
    Ok(())
}

/// Whether the pod serves nobody, so that no budget protects it.
fn is_free(pod: &Value) -> bool {
    matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed" | "Pending") | None)
        || object::is_deleting(pod)
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Takes one disruption off the budget that covers the pod, if one does.
async fn spend_budget(call: &Call<'_>, pod: &Value, dry_run: bool) -> Result<(), ApiError> {
    let Some(resource) = call.server.catalog.stored("policy", "poddisruptionbudgets") else {
        return Ok(());
    };
    let budgets = call.about(resource);
    let prefix = meta::prefix(resource, call.namespace());
    let mut covering = Vec::new();
    for record in call.server.store.list(&prefix, None, 0).records {
        let budget = render::parse(&record)?;
        let selector = LabelSelector::from_json(&budget["spec"]["selector"]);
        if selector.is_ok_and(|s| s.matches_json(&pod["metadata"]["labels"])) {
            covering.push(budget);
        }
    }
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => {
            return Err(ApiError::internal(
                "This pod has more than one PodDisruptionBudget, which the eviction subresource \
                 does not support.",
            ));
        }
    };
    // A pod that is not ready may go when the others keep the budget, or always if it says so.
    if !is_ready(pod) {
        let status = &budget["status"];
        let healthy = status["currentHealthy"].as_i64().unwrap_or(0);
        let desired = status["desiredHealthy"].as_i64().unwrap_or(0);
        let always = budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        if always || (healthy >= desired && desired > 0) {
            return Ok(());
        }
    }
    let edit = Edit { subresource: Subresource::Status, trusted: true, dry_run, manager: None };
    let pod_name = object::name(pod).to_owned();
    write::modify(&budgets, object::name(budget), &edit, |current| {
        let mut budget = current.object.clone();
        take_one(&mut budget, &pod_name, Timestamp::now())?;
        Ok(budget)
    })
    .await?;
    Ok(())
}

fn take_one(budget: &mut Value, pod: &str, now: Timestamp) -> Result<(), ApiError> {
    let name = object::name(budget).to_owned();
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    let status = &budget["status"];
    if status["observedGeneration"].as_i64().unwrap_or(0) < generation {
        return Err(ApiError::too_many_requests(
            "Cannot evict pod as it would violate the pod's disruption budget.",
            10,
        ));
    }
    let allowed = status["disruptionsAllowed"].as_i64().unwrap_or(0);
    if allowed <= 0 {
        return Err(ApiError::disruption_budget(format!(
            "The disruption budget {name} needs {} healthy pods and has {} currently",
            status["desiredHealthy"].as_i64().unwrap_or(0),
            status["currentHealthy"].as_i64().unwrap_or(0)
        )));
    }
    let status = object::child_mut(budget, "status");
    status.insert("disruptionsAllowed".into(), (allowed - 1).into());
    let disrupted = status.entry("disruptedPods").or_insert_with(|| json!({}));
    disrupted[pod] = object::time(now).into();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_budget_refuses() {
        let mut budget = json!({
            "metadata": {"name": "b", "generation": 1},
            "status": {"observedGeneration": 1, "disruptionsAllowed": 1,
                       "desiredHealthy": 2, "currentHealthy": 2},
        });
        assert!(take_one(&mut budget, "p", Timestamp::UNIX_EPOCH).is_ok());
        let refused = take_one(&mut budget, "q", Timestamp::UNIX_EPOCH).expect_err("it is spent");
        assert_eq!(refused.code(), StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(
            refused.status()["details"]["causes"][0]["message"],
            "The disruption budget b needs 2 healthy pods and has 2 currently"
        );
    }
}
