//! Volumes: what pods mount, made before their containers and kept up to date afterwards.

pub mod atomic;
pub mod claim;
pub mod files;
pub mod host_path;
pub mod mount;
pub mod mountinfo;
pub mod ownership;
pub mod prepare;
pub mod propagation;
pub mod provisioned;
pub mod references;
pub mod sub_path;
pub mod token;
