//! From a container of a pod to the OCI specification of a process.

pub mod capability;
pub mod clean_path;
pub mod command;
pub mod downward;
pub mod env;
pub mod etc_files;
pub mod expand;
pub mod masks;
pub mod own_file;
pub mod resources;
pub mod spec;
pub mod user;
pub mod variables;
