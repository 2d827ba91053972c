//! Whether the volumes of a pod allow it to run at all, and where (upstream `VolumeBinding` and
//! `VolumeRestrictions`).

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::ResourceExt;

use crate::cache::ObjectKey;
use crate::context::Caches;
use crate::scheduler::filter::Refusal;
use crate::scheduler::node::Nodes;
use crate::volume::matching::{
    candidates, class_of, is_bound, phase, reaches, volume_of, waits_for_consumer,
};
use crate::volume::protection::claims_of;

/// The provisioner of classes whose volumes are made by hand.
const BY_HAND: &str = "kubernetes.io/no-provisioner";

/// A claim that waits for this pod.
#[derive(Clone, Debug)]
pub struct Unbound {
    /// The claim.
    pub claim: Arc<PersistentVolumeClaim>,
    /// The volumes that would do.
    candidates: Vec<Arc<PersistentVolume>>,
    /// Whether a volume can be made for it anywhere.
    provisionable: bool,
}

/// The claims of one pod.
#[derive(Clone, Debug, Default)]
pub struct Claims {
    /// Why no node will do whatever it is.
    pub obstacle: Option<String>,
    /// The volumes that exist.
    bound: Vec<Arc<PersistentVolume>>,
    /// The claims that get their volume where the pod goes.
    pub unbound: Vec<Unbound>,
    /// Claims of this pod that only one pod may use.
    exclusive: Vec<String>,
}

impl Claims {
    /// Looks the claims of a pod up.
    pub fn of(pod: &Pod, caches: &Caches) -> Self {
        let mut claims = Self::default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let mut immediate = false;
        for name in claims_of(pod) {
            let Some(claim) = caches.claims.get(&ObjectKey::new(namespace, &name)) else {
                claims.obstacle = Some(format!("persistentvolumeclaim \"{name}\" not found"));
                return claims;
            };
            if let Some(obstacle) = obstacle(&claim) {
                claims.obstacle = Some(obstacle);
                return claims;
            }
            let modes = claim.spec.iter().flat_map(|spec| spec.access_modes.iter().flatten());
            if modes.into_iter().any(|mode| mode == "ReadWriteOncePod") {
                claims.exclusive.push(name);
            }
            let class = caches.storage_classes.get(&ObjectKey::new("", class_of(&claim)));
            if is_bound(&claim) {
                let volume = volume_of(&claim).unwrap_or_default();
                claims.bound.extend(caches.volumes.get(&ObjectKey::new("", volume)));
            } else if volume_of(&claim).is_none() && waits_for_consumer(class.as_deref()) {
                claims.unbound.push(Unbound {
                    candidates: candidates(&caches.volumes.all(), &claim),
                    provisionable: class.is_some_and(|class| class.provisioner != BY_HAND),
                    claim,
                });
            } else {
                immediate = true;
            }
        }
        if immediate {
            let message = "pod has unbound immediate PersistentVolumeClaims";
            claims.obstacle = Some(message.to_owned());
        }
        claims
    }

    /// Checks one node.
    pub fn check(&self, pod: &Pod, node: &Node, nodes: &Nodes) -> Result<(), Refusal> {
        let taken = nodes.pods().any(|(_, used)| {
            used.pod.metadata.namespace == pod.metadata.namespace
                && used.pod.metadata.uid != pod.metadata.uid
                && claims_of(&used.pod).iter().any(|name| self.exclusive.contains(name))
        });
        if taken {
            return Err(Refusal::for_now(
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod \
                 access mode",
            ));
        }
        if !self.bound.iter().all(|volume| reaches(volume, node)) {
            return Err(Refusal::final_("node(s) had volume node affinity conflict"));
        }
        let servable = self.unbound.iter().all(|unbound| {
            unbound.provisionable || unbound.candidates.iter().any(|volume| reaches(volume, node))
        });
        if !servable {
            return Err(Refusal::final_(
                "node(s) didn't find available persistent volumes to bind",
            ));
        }
        Ok(())
    }
}

fn obstacle(claim: &PersistentVolumeClaim) -> Option<String> {
    let name = claim.name_any();
    let status = claim.status.as_ref().and_then(|status| status.phase.as_deref());
    if status == Some("Lost") {
        let volume = volume_of(claim).unwrap_or_default();
        return Some(format!(
            "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
        ));
    }
    let leaving = claim.metadata.deletion_timestamp.is_some();
    leaving.then(|| format!("persistentvolumeclaim \"{name}\" is being deleted"))
}

/// Whether a volume is there and its claim knows it.
pub fn is_served(claim: &PersistentVolumeClaim, caches: &Caches) -> bool {
    is_bound(claim)
        && volume_of(claim).is_some_and(|name| {
            let volume = caches.volumes.get(&ObjectKey::new("", name));
            volume.is_some_and(|volume| phase(&volume) == "Bound")
        })
}
