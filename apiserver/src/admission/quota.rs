//! Nothing is created beyond what the ResourceQuotas of its namespace allow (upstream
//! `ResourceQuota`).
//!
//! Invariant: creations, and updates that may take more, happen one after the other in a namespace
//! with a quota, each measured against what is stored, so that two never share the last place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::quantity::Quantity;
use api::quota::{self, Amounts, Counted, Measured};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use crate::call::Call;
use crate::error::ApiError;
use crate::server::ApiServer;
use crate::{meta, object, render};

/// Held from the measurement until the object is stored.
pub(crate) type Turn = OwnedMutexGuard<()>;

/// Waits until no other measured write in the namespace goes on.
pub(crate) async fn turn(server: &ApiServer, namespace: &str) -> Turn {
    server.quota_turns.of(namespace, tokio::sync::Mutex::default).lock_owned().await
}

/// Refuses a new object that its namespace has no room for.
pub(crate) async fn create(call: &Call<'_>, new: &Value) -> Result<Option<Turn>, ApiError> {
    if !has_quota(call)? {
        return Ok(None);
    }
    let turn = turn(call.server, call.namespace()).await;
    check(call, new, None)?;
    Ok(Some(turn))
}

/// Refuses a change for which the namespace has no room.
pub(super) async fn update(
    call: &Call<'_>,
    new: &Value,
    old: &Value,
) -> Result<Option<Turn>, ApiError> {
    let stored = call.stored_as();
    let may_grow =
        matches!((stored.group, stored.plural), ("", "services" | "persistentvolumeclaims"));
    let measured = |object: &Value| Measured::of(stored.group, stored.plural, object);
    if !may_grow || !has_quota(call)? || measured(new) == measured(old) {
        return Ok(None);
    }
    let turn = turn(call.server, call.namespace()).await;
    check(call, new, Some(old))?;
    Ok(Some(turn))
}

fn has_quota(call: &Call<'_>) -> Result<bool, ApiError> {
    if call.namespace().is_empty() {
        return Ok(false);
    }
    let resource = call.server.builtin("", "resourcequotas")?;
    Ok(call.server.store.count(&meta::prefix(resource, call.namespace())) > 0)
}

/// The quotas that are about an object, by name.
fn quotas(call: &Call<'_>, measured: Option<&Measured>) -> Result<Vec<Value>, ApiError> {
    let resource = call.server.builtin("", "resourcequotas")?;
    let page = call.server.store.list(&meta::prefix(resource, call.namespace()), None, 0);
    let quotas: Result<Vec<Value>, ApiError> =
        page.records.iter().map(|record| render::parse(record)).collect();
    let mut quotas = quotas?;
    quotas.sort_by(|a, b| object::name(a).cmp(object::name(b)));
    quotas.retain(|quota| quota::applies(quota, measured));
    Ok(quotas)
}

/// The objects of a type in a namespace, to sum what they take.
struct Known {
    counted: Counted,
    /// The number of objects, where nothing else is asked for.
    number: usize,
    records: Vec<Arc<store::Record<meta::Meta>>>,
}

impl Known {
    /// Finds the objects of the type of a request, without the one that it replaces.
    fn of(call: &Call<'_>, is_measured: bool, replaced: Option<&str>) -> Self {
        let stored = call.stored_as();
        let counted = Counted { group: stored.group.to_owned(), plural: stored.plural.to_owned() };
        let (store, prefix) = (&call.server.store, meta::prefix(call.resource, call.namespace()));
        if !is_measured {
            return Self { counted, number: store.count(&prefix), records: Vec::new() };
        }
        let replaced = replaced.map(|name| call.key(name));
        let page =
            store.select(&prefix, None, 0, |record| Some(&*record.key) != replaced.as_deref());
        Self { counted, number: 0, records: page.records }
    }

    fn taken<'a>(&self, quota: &Value, resources: impl Iterator<Item = &'a str>) -> Amounts {
        let measured = self.records.iter().map(|record| record.meta.measured.as_deref());
        let objects = measured.chain(std::iter::repeat_n(None, self.number));
        quota::total(quota, &self.counted, resources, objects)
    }
}

fn check(call: &Call<'_>, new: &Value, old: Option<&Value>) -> Result<(), ApiError> {
    let stored = call.stored_as();
    let (group, plural) = (stored.group, stored.plural);
    let measured = Measured::of(group, plural, new);
    let quotas = quotas(call, measured.as_ref())?;
    let forbidden = |why: &str| {
        let name = match object::name(new) {
            "" => object::metadata_str(new, "generateName"),
            name => name,
        };
        ApiError::forbidden(call.served, name, why)
    };
    let had = |old| quota::usage(group, plural, Measured::of(group, plural, old).as_ref());
    let before = old.map(had).unwrap_or_default();
    let delta: Amounts = quota::usage(group, plural, measured.as_ref())
        .into_iter()
        .map(|(name, amount)| {
            let had = before.get(&name).copied().unwrap_or(Quantity::ZERO);
            (name, amount - had)
        })
        .filter(|(_, more)| !more.is_zero() && !more.is_negative())
        .collect();
    let mut known: Option<Known> = None;
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
        let known = known.get_or_insert_with(|| {
            Known::of(call, measured.is_some(), old.map(|_| object::name(new)))
        });
        let mut used = known.taken(quota, limits.keys().map(String::as_str));
        quota::add(&mut used, &before);
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
