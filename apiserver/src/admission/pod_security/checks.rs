//! Which checks make up a standard, and what they have to say of a pod.

use super::pod::Pod;
use super::policy::{Level, Standard, Version};
use super::{baseline, restricted};

/// What is wrong with a pod: upstream's `ForbiddenReason` and `ForbiddenDetail`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Violation {
    pub(super) reason: String,
    pub(super) detail: String,
}

impl Violation {
    pub(super) fn new(reason: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { reason: reason.into(), detail: detail.into() }
    }
}

/// One check of a standard.
pub(super) struct Check {
    /// The minor version of Kubernetes from which on it counts.
    pub(super) since: u32,
    /// A check of the baseline in whose place the restricted standard has a stricter one.
    pub(super) overridden: bool,
    pub(super) check: fn(&Pod<'_>, Version) -> Option<Violation>,
}

/// The violations in words, or nothing when there are none.
pub(super) fn detail(standard: &Standard, pod: &Pod<'_>) -> Option<String> {
    let texts = violations(standard, pod).into_iter();
    joined(texts.map(|found| format!("{} ({})", found.reason, found.detail)))
}

/// Only the reasons of the violations.
pub(super) fn reasons(standard: &Standard, pod: &Pod<'_>) -> Option<String> {
    joined(violations(standard, pod).into_iter().map(|found| found.reason))
}

fn joined(texts: impl Iterator<Item = String>) -> Option<String> {
    let texts: Vec<String> = texts.collect();
    (!texts.is_empty()).then(|| texts.join(", "))
}

fn violations(standard: &Standard, pod: &Pod<'_>) -> Vec<Violation> {
    let restricted = standard.level == Level::Restricted;
    if standard.level == Level::Privileged {
        return Vec::new();
    }
    let baseline = baseline::CHECKS.iter().filter(|check| !(restricted && check.overridden));
    let more = restricted::CHECKS.iter().filter(|_| restricted);
    baseline
        .chain(more)
        .filter(|check| standard.version.has(check.since))
        .filter_map(|check| (check.check)(pod, standard.version))
        .collect()
}
