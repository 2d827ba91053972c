//! What a claim needs next (upstream's `syncClaim`).

use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::ResourceExt;

use crate::event::Notice;
use crate::volume::annotation::{LOCAL_PATH, PROVISIONER};
use crate::volume::matching::{
    best, claim_ref, class_of, default_class, is_bound, is_for, mismatch, requested, selected_node,
    storage, volume_of, waits_for_consumer,
};
use crate::volume::provision;

/// What is known around one claim.
pub struct Observed<'a> {
    /// The claim.
    pub claim: &'a PersistentVolumeClaim,
    /// Every volume.
    pub volumes: &'a [Arc<PersistentVolume>],
    /// Every class.
    pub classes: &'a [Arc<StorageClass>],
    /// Every node.
    pub nodes: &'a [Arc<Node>],
    /// The name of a pod that uses the claim and waits for a node.
    pub waiting_pod: Option<String>,
    /// Where directories for volumes are made.
    pub directory: &'a Path,
}

/// What to do about a claim.
#[derive(Debug, PartialEq)]
pub enum Step {
    /// It stays pending.
    Wait(Option<Notice>),
    /// It names no class: it gets the default one.
    UseClass(String),
    /// The volume becomes its own, as far as it is not already.
    Bind(Arc<PersistentVolume>),
    /// A volume is made for it.
    Provision(Box<PersistentVolume>),
    /// Somebody else is asked to make a volume.
    Ask {
        /// The provisioner.
        provisioner: String,
        /// What to tell people.
        notice: Notice,
    },
    /// Its volume grows to what it asks for now.
    Grow(Arc<PersistentVolume>),
    /// Its volume is gone.
    Lose(Notice),
}

/// Decides.
pub fn step(observed: &Observed<'_>) -> Step {
    if observed.claim.metadata.deletion_timestamp.is_some() && !is_bound(observed.claim) {
        return Step::Wait(None);
    }
    if is_bound(observed.claim) {
        return bound(observed);
    }
    match volume_of(observed.claim) {
        Some(name) => named(observed, name),
        None => unbound(observed),
    }
}

fn volume<'a>(observed: &Observed<'a>, name: &str) -> Option<&'a Arc<PersistentVolume>> {
    observed.volumes.iter().find(|volume| volume.metadata.name.as_deref() == Some(name))
}

fn class<'a>(observed: &Observed<'a>) -> Option<&'a Arc<StorageClass>> {
    let name = class_of(observed.claim);
    observed.classes.iter().find(|class| class.metadata.name.as_deref() == Some(name))
}

/// A claim whose binding was complete once.
fn bound(observed: &Observed<'_>) -> Step {
    let lost = |reason: &'static str, message: &str| Step::Lose(Notice::warning(reason, message));
    let Some(name) = volume_of(observed.claim) else {
        return lost(
            "ClaimLost",
            "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!",
        );
    };
    let Some(volume) = volume(observed, name) else {
        return lost(
            "ClaimLost",
            "Bound claim has lost its PersistentVolume. Data on the volume is lost!",
        );
    };
    if claim_ref(volume).is_some() && !is_for(volume, observed.claim) {
        return lost(
            "ClaimMisbound",
            "Two claims are bound to the same volume, this one is bound incorrectly",
        );
    }
    let status = observed.claim.status.as_ref();
    let has = storage(status.and_then(|status| status.capacity.as_ref()));
    let is_settled = status.and_then(|status| status.phase.as_deref()) == Some("Bound");
    let may_grow = class(observed).is_some_and(|class| class.allow_volume_expansion == Some(true));
    if is_settled && has < requested(observed.claim) && may_grow && provision::is_ours(volume) {
        return Step::Grow(volume.clone());
    }
    Step::Bind(volume.clone())
}

/// A claim that names its volume.
fn named(observed: &Observed<'_>, name: &str) -> Step {
    let Some(volume) = volume(observed, name) else { return Step::Wait(None) };
    if is_for(volume, observed.claim) {
        return Step::Bind(volume.clone());
    }
    if claim_ref(volume).is_some() {
        let message = format!("volume \"{name}\" already bound to a different claim.");
        return Step::Wait(Some(Notice::warning("FailedBinding", message)));
    }
    match mismatch(volume, observed.claim) {
        None => Step::Bind(volume.clone()),
        Some(reason) => {
            let message = format!("Cannot bind to requested volume \"{name}\": {reason}");
            Step::Wait(Some(Notice::warning("VolumeMismatch", message)))
        }
    }
}

/// A claim that takes any volume that fits.
fn unbound(observed: &Observed<'_>) -> Step {
    let claim = observed.claim;
    let spec_class = claim.spec.as_ref().and_then(|spec| spec.storage_class_name.as_ref());
    if spec_class.is_none()
        && let Some(class) = default_class(observed.classes)
    {
        return Step::UseClass(class.name_any());
    }
    let class = class(observed);
    let delayed = waits_for_consumer(class.map(Arc::as_ref));
    let node = selected_node(claim)
        .and_then(|name| observed.nodes.iter().find(|node| node.name_any() == name));
    if delayed && node.is_none() {
        // Only a volume that was set aside for it is taken without a pod.
        let own = observed
            .volumes
            .iter()
            .find(|volume| is_for(volume, claim) && mismatch(volume, claim).is_none());
        return own.map_or_else(|| wait_for_consumer(observed), |own| Step::Bind(own.clone()));
    }
    let place = node.filter(|_| delayed);
    if let Some(found) = best(observed.volumes, claim, place.map(Arc::as_ref)) {
        return Step::Bind(found);
    }
    let failed = |message: String| Step::Wait(Some(Notice::warning("ProvisioningFailed", message)));
    let Some(class) = class else {
        let name = class_of(claim);
        return if name.is_empty() {
            let message =
                "no persistent volumes available for this claim and no storage class is set";
            Step::Wait(Some(Notice::normal("FailedBinding", message)))
        } else {
            failed(format!("storageclass.storage.k8s.io \"{name}\" not found"))
        };
    };
    if class.provisioner.starts_with("kubernetes.io/") {
        return failed(format!("no volume plugin matched name: {}", class.provisioner));
    }
    if class.provisioner != LOCAL_PATH {
        return ask(observed, &class.provisioner);
    }
    if let Some(reason) = provision::refusal(claim) {
        let name = class.name_any();
        return failed(format!(
            "failed to provision volume with StorageClass \"{name}\": {reason}"
        ));
    }
    // Without a pod that says where, any node that is there.
    let Some(node) = place.or(observed.nodes.first()) else { return Step::Wait(None) };
    let hostname = node.labels().get("kubernetes.io/hostname").cloned();
    let hostname = hostname.unwrap_or_else(|| node.name_any());
    Step::Provision(Box::new(provision::volume(claim, class, observed.directory, &hostname)))
}

fn wait_for_consumer(observed: &Observed<'_>) -> Step {
    let notice = match &observed.waiting_pod {
        None => Notice::normal(
            "WaitForFirstConsumer",
            "waiting for first consumer to be created before binding",
        ),
        Some(pod) => {
            Notice::normal("WaitForPodScheduled", format!("waiting for pod {pod} to be scheduled"))
        }
    };
    Step::Wait(Some(notice))
}

fn ask(observed: &Observed<'_>, provisioner: &str) -> Step {
    let message = format!(
        "Waiting for a volume to be created either by the external provisioner '{provisioner}' or \
         manually by the system administrator. If volume creation is delayed, please verify that \
         the provisioner is running and correctly registered."
    );
    let notice = Notice::normal("ExternalProvisioning", message);
    let asked = observed.claim.annotations().get(PROVISIONER);
    if asked.is_some_and(|asked| asked == provisioner) {
        return Step::Wait(Some(notice));
    }
    Step::Ask { provisioner: provisioner.to_owned(), notice }
}
