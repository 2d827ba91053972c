//! Carrying the steps of claims and volumes out.

use std::future::Future;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    PersistentVolume, PersistentVolumeClaim, PersistentVolumeClaimStatus, PersistentVolumeStatus,
    Pod,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use crate::cache::{Change, ObjectKey};
use crate::context::Context;
use crate::error::Error;
use crate::event::{Notice, Recorder};
use crate::pod;
use crate::queue::{Queue, Requeue};
use crate::request;
use crate::volume::annotation::{
    BETA_PROVISIONER, BIND_COMPLETED, BOUND_BY_CONTROLLER, LOCAL_PATH, PROVISIONER,
};
use crate::volume::claim::{self, Observed};
use crate::volume::matching::{claim_ref, is_bound, volume_of};
use crate::volume::provision::claim_reference;
use crate::volume::released;

/// The name under which events are reported.
const COMPONENT: &str = "persistentvolume-controller";
/// How many claims and volumes are served at once.
const WORKERS: usize = 4;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Claim(ObjectKey),
    Volume(ObjectKey),
}

struct Controller {
    context: Arc<Context>,
    recorder: Recorder,
    provisioner: Recorder,
    queue: Arc<Queue<Key>>,
}

/// Subscribes to what matters and returns the workers, to be run when the caches are filled.
pub fn workers(context: &Arc<Context>) -> impl Future<Output = ()> + Send + use<> {
    let controller = Arc::new(Controller {
        context: context.clone(),
        recorder: context.recorder.speaking_for(COMPONENT),
        provisioner: context.recorder.speaking_for(LOCAL_PATH),
        queue: Queue::new(),
    });
    let caches = &context.caches;
    let watcher = controller.clone();
    caches.claims.on_change(move |change| watcher.claim_changed(change));
    let watcher = controller.clone();
    caches.volumes.on_change(move |change| watcher.volume_changed(change));
    let watcher = controller.clone();
    caches.storage_classes.on_change(move |_| watcher.wake_unbound());
    let watcher = controller.clone();
    caches.nodes.on_change(move |change| {
        if matches!(change, Change::Applied { old: None, .. }) {
            watcher.wake_unbound();
        }
    });
    controller.queue.serve(COMPONENT, WORKERS, &context.token, &controller, Controller::reconcile)
}

impl Controller {
    async fn reconcile(self: Arc<Self>, key: Key) -> Result<Requeue, Error> {
        match key {
            Key::Claim(key) => self.claim(&key).await?,
            Key::Volume(key) => self.volume(&key).await?,
        }
        Ok(Requeue::Never)
    }

    fn claim_changed(&self, change: &Change<'_, PersistentVolumeClaim>) {
        let claim = change.object();
        let key = ObjectKey::of(claim.as_ref());
        if let Some(volume) = volume_of(claim) {
            self.queue.add(Key::Volume(ObjectKey::new("", volume)));
        }
        if matches!(change, Change::Deleted(_)) {
            // A volume may have been set aside before the claim knew of it.
            for volume in self.context.caches.volumes.all() {
                let is_its = claim_ref(&volume).is_some_and(|reference| {
                    reference.name.as_deref() == Some(&key.name)
                        && reference.namespace.as_deref() == Some(&key.namespace)
                });
                if is_its {
                    self.queue.add(Key::Volume(ObjectKey::of(volume.as_ref())));
                }
            }
        }
        self.queue.add(Key::Claim(key));
    }

    fn volume_changed(&self, change: &Change<'_, PersistentVolume>) {
        let volume = change.object();
        self.queue.add(Key::Volume(ObjectKey::of(volume.as_ref())));
        match claim_ref(volume) {
            Some(reference) => self.queue.add(Key::Claim(ObjectKey::new(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            ))),
            None => self.wake_unbound(),
        }
    }

    fn wake_unbound(&self) {
        for claim in self.context.caches.claims.all() {
            if !is_bound(&claim) {
                self.queue.add(Key::Claim(ObjectKey::of(claim.as_ref())));
            }
        }
    }

    async fn claim(&self, key: &ObjectKey) -> Result<(), Error> {
        let caches = &self.context.caches;
        let Some(claim) = caches.claims.get(key) else { return Ok(()) };
        let step = claim::step(&Observed {
            claim: &claim,
            volumes: &caches.volumes.all(),
            classes: &caches.storage_classes.all(),
            nodes: &caches.nodes.all(),
            waiting_pod: self.waiting_pod(key),
            directory: &self.context.config.volume_dir,
        });
        let outcome = self.apply(&claim, step).await;
        match outcome {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn apply(
        &self,
        claim: &Arc<PersistentVolumeClaim>,
        step: claim::Step,
    ) -> Result<(), Error> {
        use claim::Step;
        match step {
            Step::Wait(notice) => {
                if let Some(notice) = notice {
                    self.recorder.record(claim.as_ref(), notice);
                }
                self.write_claim_phase(claim, "Pending").await
            }
            Step::UseClass(class) => {
                self.merge_claim(claim, json!({"spec": {"storageClassName": class}})).await
            }
            Step::Bind(volume) => self.bind(claim, &volume).await,
            Step::Provision(volume) => self.provision(claim, &volume).await,
            Step::Ask { provisioner, notice } => {
                self.recorder.record(claim.as_ref(), notice);
                let annotations = json!({PROVISIONER: provisioner, BETA_PROVISIONER: provisioner});
                self.merge_claim(claim, json!({"metadata": {"annotations": annotations}})).await
            }
            Step::Grow(volume) => self.grow(claim, &volume).await,
            Step::Lose(notice) => {
                let known = claim.status.as_ref().and_then(|status| status.phase.as_deref());
                if known != Some("Lost") {
                    self.recorder.record(claim.as_ref(), notice);
                }
                self.write_claim_phase(claim, "Lost").await
            }
        }
    }

    /// The pod that the scheduler has still to place before the claim can be bound.
    fn waiting_pod(&self, claim: &ObjectKey) -> Option<String> {
        let uses = |pod: &Pod| {
            let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
            let mut sources = volumes.filter_map(|volume| volume.persistent_volume_claim.as_ref());
            sources.any(|source| source.claim_name == claim.name)
        };
        let pods = self.context.caches.pods.namespaced(&claim.namespace);
        let pod = pods.into_iter().find(|pod| pod::node_name(pod).is_none() && uses(pod))?;
        Some(pod.name_any())
    }

    /// Ties volume and claim together: first the volume, so that a crash in between leaves it set
    /// aside for this claim and for no other.
    async fn bind(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let client = &self.context.client;
        let mut volume = volume.clone();
        let reference = claim_ref(&volume).cloned();
        let has_uid = reference.as_ref().and_then(|reference| reference.uid.as_deref());
        if has_uid.is_none_or(str::is_empty) {
            if reference.is_none() {
                let annotations = volume.annotations_mut();
                annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
            }
            volume.spec.get_or_insert_default().claim_ref = Some(claim_reference(claim));
            volume = request::replace(client, &volume).await?;
            self.context.caches.volumes.observe(volume.clone());
        }
        self.write_volume_phase(&volume, "Bound", None).await?;
        let name = volume.name_any();
        let mut claim = claim.clone();
        if volume_of(&claim) != Some(&name) || !claim.annotations().contains_key(BIND_COMPLETED) {
            let mut annotations = json!({BIND_COMPLETED: "yes"});
            if volume_of(&claim).is_none() {
                annotations[BOUND_BY_CONTROLLER] = "yes".into();
            }
            let patch = json!({
                "metadata": {"uid": claim.metadata.uid,
                    "resourceVersion": claim.metadata.resource_version,
                    "annotations": annotations},
                "spec": {"volumeName": name},
            });
            let key = ObjectKey::of(&claim);
            claim = request::merge::<PersistentVolumeClaim>(client, &key, &patch).await?;
            self.context.caches.claims.observe(claim.clone());
        }
        let spec = volume.spec.unwrap_or_default();
        let known = claim.status.clone().unwrap_or_default();
        let status = PersistentVolumeClaimStatus {
            phase: Some("Bound".to_owned()),
            access_modes: spec.access_modes,
            // What has grown is reported when it has.
            capacity: known
                .capacity
                .clone()
                .filter(|_| known.phase.as_deref() == Some("Bound"))
                .or(spec.capacity),
            ..known.clone()
        };
        self.write_claim_status(&claim, status).await
    }

    async fn provision(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let (namespace, name) = (claim.namespace().unwrap_or_default(), claim.name_any());
        let message =
            format!("External provisioner is provisioning volume for claim \"{namespace}/{name}\"");
        self.provisioner.record(claim, Notice::normal("Provisioning", message));
        match request::create(&self.context.client, volume).await {
            Ok(created) => {
                let message = format!("Successfully provisioned volume {}", created.name_any());
                let notice = Notice::normal("ProvisioningSucceeded", message);
                self.provisioner.record(claim, notice);
                self.context.caches.volumes.observe(created);
            }
            // A crash came between this and the binding: the watch will bring it.
            Err(error) if error.is_already_exists() => {}
            Err(error) => {
                let message = format!("failed to provision volume: {}", error.message());
                let notice = Notice::warning("ProvisioningFailed", message);
                self.provisioner.record(claim, notice);
                return Err(error);
            }
        }
        let annotations = json!({PROVISIONER: LOCAL_PATH, BETA_PROVISIONER: LOCAL_PATH});
        self.merge_claim(claim, json!({"metadata": {"annotations": annotations}})).await
    }

    /// A directory has no size of its own: only the numbers grow.
    async fn grow(
        &self,
        claim: &PersistentVolumeClaim,
        volume: &PersistentVolume,
    ) -> Result<(), Error> {
        let spec = claim.spec.as_ref().and_then(|spec| spec.resources.as_ref());
        let wanted = spec.and_then(|resources| resources.requests.as_ref()?.get("storage"));
        let Some(wanted) = wanted.cloned() else { return Ok(()) };
        let patch = json!({"spec": {"capacity": {"storage": wanted}}});
        let grown: PersistentVolume =
            request::merge(&self.context.client, &ObjectKey::of(volume), &patch).await?;
        self.context.caches.volumes.observe(grown);
        let mut status = claim.status.clone().unwrap_or_default();
        status.capacity.get_or_insert_default().insert("storage".to_owned(), wanted);
        self.write_claim_status(claim, status).await?;
        let notice = Notice::normal("VolumeResizeSuccessful", "Resize volume succeeded");
        self.provisioner.record(claim, notice);
        Ok(())
    }

    async fn merge_claim(&self, claim: &PersistentVolumeClaim, patch: Value) -> Result<(), Error> {
        let mut patch = patch;
        if patch["metadata"].is_null() {
            patch["metadata"] = json!({});
        }
        patch["metadata"]["uid"] = json!(claim.metadata.uid);
        let key = ObjectKey::of(claim);
        let written =
            request::merge::<PersistentVolumeClaim>(&self.context.client, &key, &patch).await?;
        self.context.caches.claims.observe(written);
        Ok(())
    }

    async fn write_claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
    ) -> Result<(), Error> {
        let known = claim.status.clone().unwrap_or_default();
        let status = if phase == "Lost" {
            PersistentVolumeClaimStatus { capacity: None, access_modes: None, ..known }
        } else {
            known
        };
        let status = PersistentVolumeClaimStatus { phase: Some(phase.to_owned()), ..status };
        self.write_claim_status(claim, status).await
    }

    async fn write_claim_status(
        &self,
        claim: &PersistentVolumeClaim,
        status: PersistentVolumeClaimStatus,
    ) -> Result<(), Error> {
        if claim.status.as_ref() == Some(&status) {
            return Ok(());
        }
        let updated = PersistentVolumeClaim { status: Some(status), ..claim.clone() };
        let written = request::replace_status(&self.context.client, &updated).await?;
        self.context.caches.claims.observe(written);
        Ok(())
    }

    async fn volume(&self, key: &ObjectKey) -> Result<(), Error> {
        use released::Step;
        let caches = &self.context.caches;
        let Some(volume) = caches.volumes.get(key) else { return Ok(()) };
        let claim_key = claim_ref(&volume).map(|reference| {
            ObjectKey::new(
                reference.namespace.clone().unwrap_or_default(),
                reference.name.clone().unwrap_or_default(),
            )
        });
        let claim = claim_key.as_ref().and_then(|key| caches.claims.get(key));
        let outcome = match released::step(&volume, claim.as_deref()) {
            Step::Rest => Ok(()),
            Step::Phase(phase) => self.write_volume_phase(&volume, phase, None).await,
            Step::AskClaim => {
                if let Some(key) = claim_key {
                    self.queue.add(Key::Claim(key));
                }
                Ok(())
            }
            Step::Unbind { keep_name } => self.unbind(&volume, keep_name).await,
            Step::Delete => {
                let uid = volume.metadata.uid.as_deref();
                request::delete::<PersistentVolume>(&self.context.client, key, uid).await
            }
            Step::Fail(notice) => {
                self.recorder.record(volume.as_ref(), notice.clone());
                self.write_volume_phase(&volume, "Failed", Some(notice)).await
            }
        };
        match outcome {
            Err(error) if error.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn unbind(&self, volume: &PersistentVolume, keep_name: bool) -> Result<(), Error> {
        let mut free = volume.clone();
        free.annotations_mut().remove(BOUND_BY_CONTROLLER);
        let spec = free.spec.get_or_insert_default();
        if keep_name {
            if let Some(reference) = &mut spec.claim_ref {
                reference.uid = None;
                reference.resource_version = None;
            }
        } else {
            spec.claim_ref = None;
        }
        let written = request::replace(&self.context.client, &free).await?;
        self.context.caches.volumes.observe(written.clone());
        self.write_volume_phase(&written, "Available", None).await
    }

    async fn write_volume_phase(
        &self,
        volume: &PersistentVolume,
        phase: &str,
        notice: Option<Notice>,
    ) -> Result<(), Error> {
        let known = volume.status.clone().unwrap_or_default();
        if known.phase.as_deref() == Some(phase) {
            return Ok(());
        }
        let status = PersistentVolumeStatus {
            phase: Some(phase.to_owned()),
            last_phase_transition_time: Some(Time(Timestamp::now())),
            message: notice.as_ref().map(|notice| notice.message.clone()),
            reason: notice.map(|notice| notice.reason.to_owned()),
        };
        let updated = PersistentVolume { status: Some(status), ..volume.clone() };
        let written = request::replace_status(&self.context.client, &updated).await?;
        self.context.caches.volumes.observe(written);
        Ok(())
    }
}
