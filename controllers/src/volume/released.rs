//! What a volume needs next (upstream's `syncVolume` and `reclaimVolume`).

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::ResourceExt;

use crate::event::Notice;
use crate::volume::annotation::{BOUND_BY_CONTROLLER, PROVISIONED_BY};
use crate::volume::matching::{claim_ref, phase, volume_of};
use crate::volume::provision;

/// What to do about a volume.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// Nothing.
    Rest,
    /// Its phase becomes this one.
    Phase(&'static str),
    /// Its claim decides.
    AskClaim,
    /// Its claim has another volume: it is free again.
    Unbind {
        /// The user had set it aside for a claim of that name, which stays so.
        keep_name: bool,
    },
    /// Its claim is gone and its data goes with it.
    Delete,
    /// It cannot be reclaimed.
    Fail(Notice),
}

/// Decides. `claim` is the object behind the volume's reference, whatever its uid.
pub fn step(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> Step {
    let reference = claim_ref(volume);
    let uid = reference.and_then(|reference| reference.uid.as_deref()).unwrap_or_default();
    if uid.is_empty() {
        // A claim of that name may be waiting for it.
        let known = phase(volume);
        return match (reference, known) {
            (_, "" | "Pending") => Step::Phase("Available"),
            (Some(_), "Available") if claim.is_some() => Step::AskClaim,
            (_, "Available") => Step::Rest,
            _ => Step::Phase("Available"),
        };
    }
    let claim = claim.filter(|claim| claim.metadata.uid.as_deref() == Some(uid));
    let Some(claim) = claim else { return release(volume) };
    match volume_of(claim) {
        None => Step::AskClaim,
        Some(name) if Some(name) == volume.metadata.name.as_deref() => {
            if phase(volume) == "Bound" {
                Step::Rest
            } else {
                Step::Phase("Bound")
            }
        }
        Some(_) if provision::is_ours(volume) && deletes(volume) => release(volume),
        Some(_) => {
            Step::Unbind { keep_name: !volume.annotations().contains_key(BOUND_BY_CONTROLLER) }
        }
    }
}

fn deletes(volume: &PersistentVolume) -> bool {
    policy(volume) == "Delete"
}

fn policy(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref();
    spec.and_then(|spec| spec.persistent_volume_reclaim_policy.as_deref()).unwrap_or("Retain")
}

fn release(volume: &PersistentVolume) -> Step {
    if !matches!(phase(volume), "Released" | "Failed") {
        return Step::Phase("Released");
    }
    if volume.metadata.deletion_timestamp.is_some() || phase(volume) == "Failed" {
        return Step::Rest;
    }
    match policy(volume) {
        "Delete" if provision::is_ours(volume) => Step::Delete,
        // Who made it removes it.
        "Delete" if volume.annotations().contains_key(PROVISIONED_BY) => Step::Rest,
        "Delete" => {
            let message = format!(
                "error getting deleter volume plugin for volume \"{}\": no deletable volume plugin \
                 matched",
                volume.name_any()
            );
            Step::Fail(Notice::warning("VolumeFailedDelete", message))
        }
        "Recycle" => {
            let message = "No recycler plugin found for the volume!";
            Step::Fail(Notice::warning("VolumeFailedRecycle", message))
        }
        _ => Step::Rest,
    }
}
