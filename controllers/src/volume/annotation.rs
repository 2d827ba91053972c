//! The words in which the parts of storage leave notes for each other, all but the last upstream's.

/// On claim and volume: the controller, not the user, chose the partner.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a claim: its binding is complete, so that what is missing from now on is lost.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a volume: who made it and has to remove its data.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is asked to make a volume.
pub const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same, as it was called before.
pub const BETA_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node that the scheduler wants its pod to run on.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a StorageClass: claims that name no class get this one.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
/// The same, as it was called before.
pub const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";
/// The provisioner that makes directories on a node.
pub const LOCAL_PATH: &str = "coracle/local-path";
/// The finalizer with which the node's agent holds a volume until its directory is settled.
pub const DIRECTORY_FINALIZER: &str = "coracle/local-path-directory";
