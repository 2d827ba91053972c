//! What Pods and pod templates share: defaults and validation of the pod spec.

pub mod defaults;
