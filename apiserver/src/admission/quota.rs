//! Nothing is created beyond what the ResourceQuotas of its namespace allow (upstream
//! `ResourceQuota`).
//!
//! Invariant: creations in a namespace with a quota happen one after the other, each measured
//! against what is stored, so that two of them never share the last place.

use std::collections::{BTreeMap, BTreeSet};

use api::quantity::Quantity;
use api::quota::{self, Amounts, Counted};
use serde_json::Value;
use tokio::sync::MutexGuard;

use crate::call::Call;
use crate::error::ApiError;
use crate::{meta, object, render};

/// Held from the measurement until the object is stored.
pub(crate) type Turn<'a> = Option<MutexGuard<'a, ()>>;

/// Refuses a new object that its namespace has no room for.
pub(crate) async fn create<'a>(call: &'a Call<'_>, new: &Value) -> Result<Turn<'a>, ApiError> {
    if !has_quota(call)? {
        return Ok(None);
    }
    let turn = call.server.quota_turn.lock().await;
    check(call, new, None)?;
    Ok(Some(turn))
}

/// Refuses a change for which the namespace has no room.
pub(super) fn update(call: &Call<'_>, new: &Value, old: &Value) -> Result<(), ApiError> {
    let stored = call.stored_as();
    let may_grow =
        matches!((stored.group, stored.plural), ("", "services" | "persistentvolumeclaims"));
    if may_grow && has_quota(call)? { check(call, new, Some(old)) } else { Ok(()) }
}

fn has_quota(call: &Call<'_>) -> Result<bool, ApiError> {
    if call.namespace().is_empty() {
        return Ok(false);
    }
    let resource = call.server.builtin("", "resourcequotas")?;
    let prefix = meta::prefix(resource, call.namespace());
    Ok(!call.server.store.list(&prefix, None, 1, |_| true).records.is_empty())
}

fn objects(call: &Call<'_>, counted: &Counted) -> Result<Vec<Value>, ApiError> {
    let catalog = &call.server.catalog;
    let Some(resource) = catalog.stored(&counted.group, &counted.plural) else {
        return Ok(Vec::new());
    };
    let prefix = meta::prefix(resource, call.namespace());
    let page = call.server.store.list(&prefix, None, 0, |_| true);
    page.records.iter().map(|record| render::parse(record)).collect()
}

fn check(call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let stored = call.stored_as();
    let (group, plural) = (stored.group, stored.plural);
    let own = Counted { group: group.to_owned(), plural: plural.to_owned() };
    let quotas = Counted { group: String::new(), plural: "resourcequotas".to_owned() };
    let mut quotas = objects(call, &quotas)?;
    quotas.sort_by(|a, b| object::name(a).cmp(object::name(b)));
    quotas.retain(|quota| quota::applies(quota, group, plural, new));
    let forbidden = |why: &str| {
        let name = match object::name(new) {
            "" => object::metadata_str(new, "generateName"),
            name => name,
        };
        ApiError::forbidden(call.served, name, why)
    };
    let before = old.map(|old| quota::usage(group, plural, old)).unwrap_or_default();
    let delta: Amounts = quota::usage(group, plural, new)
        .into_iter()
        .map(|(name, amount)| {
            let had = before.get(&name).copied().unwrap_or(Quantity::ZERO);
            (name, amount - had)
        })
        .filter(|(_, more)| !more.is_zero() && !more.is_negative())
        .collect();
    let mut known: Option<Vec<Value>> = None;
    for quota in &quotas {
        let name = object::name(quota);
        let hard = &quota["spec"]["hard"];
        let is_new_pod = group.is_empty() && plural == "pods" && old.is_none();
        if let Some(unsaid) = quota::unsaid(hard, new).filter(|_| is_new_pod) {
            return Err(forbidden(&format!("failed quota: {name}: must specify {unsaid}")));
        }
        let limits: BTreeMap<String, Quantity> = hard
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(resource, _)| delta.contains_key(*resource))
            .filter_map(|(name, limit)| Some((name.clone(), Quantity::from_json(limit).ok()?)))
            .collect();
        if limits.is_empty() {
            continue;
        }
        if known.is_none() {
            known = Some(objects(call, &own)?);
        }
        let mut used = Amounts::new();
        for existing in known.iter().flatten() {
            if old.is_some() && object::name(existing) == object::name(new) {
                continue;
            }
            if quota::applies(quota, group, plural, existing) {
                add(&mut used, &quota::usage(group, plural, existing));
            }
        }
        add(&mut used, &before);
        let zero = Quantity::ZERO;
        let of = |amounts: &Amounts, name: &str| amounts.get(name).copied().unwrap_or(zero);
        let exceeded: BTreeSet<&String> = limits
            .iter()
            .filter(|(name, limit)| of(&used, name) + of(&delta, name) > **limit)
            .map(|(name, _)| name)
            .collect();
        if exceeded.is_empty() {
            continue;
        }
        let pick = |amounts: &Amounts| -> String {
            let picked = exceeded.iter().map(|name| ((*name).clone(), of(amounts, name))).collect();
            quota::format(&picked)
        };
        return Err(forbidden(&format!(
            "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
            pick(&delta),
            pick(&used),
            pick(&limits)
        )));
    }
    Ok(())
}

fn add(total: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let known = total.get(name).copied().unwrap_or(Quantity::ZERO);
        total.insert(name.clone(), known + *amount);
    }
}
