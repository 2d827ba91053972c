//! Image names: `nginx` is short for `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

/// A full image reference: registry, repository, and a tag or a digest (or both).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference(oci_client::Reference);

/// A name that is no image reference. The text is the one that kubelet reports.
#[derive(Debug, thiserror::Error)]
#[error("couldn't parse image name {name:?}: invalid reference format")]
pub struct ReferenceError {
    name: String,
    #[source]
    source: oci_client::ParseError,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        name.parse().map(Self).map_err(|source| ReferenceError { name: name.to_owned(), source })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.whole().fmt(f)
    }
}

impl Reference {
    /// The registry's host and port, for example `docker.io`.
    pub fn registry(&self) -> &str {
        self.0.registry()
    }

    /// The registry and repository without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.0.registry(), self.0.repository())
    }

    /// `name:tag`, unless the reference has only a digest.
    pub fn tagged(&self) -> Option<String> {
        self.0.tag().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `name@digest`, if there is a digest; the tag is left out because the digest decides.
    pub fn digested(&self) -> Option<String> {
        self.0.digest().map(|digest| format!("{}@{digest}", self.name()))
    }

    /// Whether the tag is `latest` and there is no digest: such images are pulled always by
    /// default.
    pub fn is_latest(&self) -> bool {
        self.0.digest().is_none() && self.0.tag() == Some("latest")
    }

    /// The same repository fetched from a mirror.
    pub(super) fn via(&self, mirror: &str) -> oci_client::Reference {
        let mut reference = self.0.clone();
        reference.set_mirror_registry(mirror.to_owned());
        reference
    }

    pub(super) fn inner(&self) -> &oci_client::Reference {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn short_names_are_completed() {
        for (short, full) in [
            ("nginx", "docker.io/library/nginx:latest"),
            ("nginx:1.9.1", "docker.io/library/nginx:1.9.1"),
            ("docker.io/nginx", "docker.io/library/nginx:latest"),
            ("user/app", "docker.io/user/app:latest"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            ("127.0.0.1:5000/a/b", "127.0.0.1:5000/a/b:latest"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn bad_names_say_so() {
        for bad in ["", "UPPER", "a b", "nginx:", "nginx@sha256:1"] {
            let error = bad.parse::<Reference>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("couldn't parse image name {bad:?}: invalid reference format")
            );
        }
    }
}
