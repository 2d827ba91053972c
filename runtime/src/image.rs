//! The image store: pulls, archives, unpacked layers, garbage collection.

use std::path::PathBuf;

use oci_spec::image::ImageConfiguration;

/// An image that is present and unpacked.
#[derive(Clone, Debug)]
pub struct Image {
    /// `sha256:…` of its configuration: the image ID.
    pub id: String,
    /// Full references with a tag, for example `docker.io/library/nginx:latest`.
    pub tags: Vec<String>,
    /// Full references with a manifest digest, for example `docker.io/library/nginx@sha256:…`.
    pub digests: Vec<String>,
    /// Unpacked size in bytes.
    pub size_bytes: u64,
    /// Entrypoint, command, environment, user, working directory, stop signal.
    pub config: ImageConfiguration,
    /// Unpacked layer directories, base first.
    pub layers: Vec<PathBuf>,
}
