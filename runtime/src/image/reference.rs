//! Image names: `nginx` is short for `docker.io/library/nginx:latest`.

use std::fmt;
use std::str::FromStr;

/// Where names without a registry come from.
const DEFAULT_REGISTRY: &str = "docker.io";
/// Another name of it, under which it answers.
const LEGACY_REGISTRY: &str = "index.docker.io";
/// Whose repositories there need no other name.
const OFFICIAL: &str = "library";
const DEFAULT_TAG: &str = "latest";
const REPOSITORY_MAX_LEN: usize = 255;
const TAG_MAX_LEN: usize = 128;
/// Digest algorithms and the hexadecimal digits of their digests.
const DIGESTS: [(&str, usize); 3] = [("sha256", 64), ("sha384", 96), ("sha512", 128)];

/// A full image reference: registry, repository, and a tag or a digest (or both).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
}

/// A name that is no image reference. The text is the one that kubelet reports.
#[derive(Debug, thiserror::Error)]
#[error("couldn't parse image name {0:?}: invalid reference format")]
pub struct ReferenceError(String);

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(name: &str) -> Result<Self, ReferenceError> {
        parse(name).ok_or_else(|| ReferenceError(name.to_owned()))
    }
}

/// `[registry/]repository[:tag][@digest]`, in the grammar of the distribution project.
fn parse(text: &str) -> Option<Reference> {
    let (text, digest) = match text.split_once('@') {
        Some((text, digest)) => (text, Some(digest)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the port of the registry.
    let last = text.rfind('/').map_or(0, |slash| slash + 1);
    let (name, tag) = match text[last..].find(':') {
        Some(colon) => (&text[..last + colon], Some(&text[last + colon + 1..])),
        None => (text, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if names_registry(first) => (first, path),
        _ => (DEFAULT_REGISTRY, name),
    };
    let tag = tag.or(digest.is_none().then_some(DEFAULT_TAG));
    let valid = is_registry(registry)
        && path.split('/').all(is_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(is_digest);
    let registry = if registry == LEGACY_REGISTRY { DEFAULT_REGISTRY } else { registry };
    let repository = match registry == DEFAULT_REGISTRY && !path.contains('/') {
        true => format!("{OFFICIAL}/{path}"),
        false => path.to_owned(),
    };
    if !valid || repository.len() > REPOSITORY_MAX_LEN {
        return None;
    }
    Some(Reference {
        registry: registry.to_owned(),
        repository,
        tag: tag.map(Into::into),
        digest: digest.map(Into::into),
    })
}

/// Whether what stands before the first slash is a registry rather than a part of the path.
fn names_registry(first: &str) -> bool {
    first.contains(['.', ':'])
        || first == "localhost"
        || first.contains(|c: char| c.is_ascii_uppercase())
}

fn is_registry(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, Some(port)),
        None => (text, None),
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label)
        && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// Lower-case letters and digits, with `.`, `_`, `__` or any number of `-` between them.
fn is_component(text: &str) -> bool {
    let is_word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separators = text.split(is_word).filter(|between| !between.is_empty());
    text.starts_with(is_word)
        && text.ends_with(is_word)
        && separators.into_iter().all(|between| {
            matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-')
        })
}

fn is_tag(text: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= TAG_MAX_LEN
        && text.bytes().next().is_some_and(is_word)
        && text.bytes().all(|b| is_word(b) || b == b'.' || b == b'-')
}

fn is_digest(text: &str) -> bool {
    let Some((algorithm, digits)) = text.split_once(':') else { return false };
    DIGESTS.contains(&(algorithm, digits.len())) && digits.bytes().all(|b| b.is_ascii_hexdigit())
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl Reference {
    /// The registry's host and port, for example `docker.io`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The registry and repository without tag or digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// `name:tag`, unless the reference has only a digest.
    pub fn tagged(&self) -> Option<String> {
        self.tag.as_ref().map(|tag| format!("{}:{tag}", self.name()))
    }

    /// `name@digest`, if there is a digest; the tag is left out because the digest decides.
    pub fn digested(&self) -> Option<String> {
        self.digest.as_ref().map(|digest| format!("{}@{digest}", self.name()))
    }

    /// Whether the tag is `latest` and there is no digest: such images are pulled always by
    /// default.
    pub fn is_latest(&self) -> bool {
        self.digest.is_none() && self.tag() == Some(DEFAULT_TAG)
    }

    /// The host and port where the registry is asked.
    pub(super) fn host(&self) -> &str {
        if self.registry == DEFAULT_REGISTRY { LEGACY_REGISTRY } else { &self.registry }
    }

    pub(super) fn repository(&self) -> &str {
        &self.repository
    }

    pub(super) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub(super) fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
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
            ("index.docker.io/nginx", "docker.io/library/nginx:latest"),
            ("Registry/app", "Registry/app:latest"),
            ("quay.io/a/b__c--d/e.f:V1.0-x_y", "quay.io/a/b__c--d/e.f:V1.0-x_y"),
        ] {
            assert_eq!(short.parse::<Reference>().unwrap().to_string(), full);
        }
    }

    #[test]
    fn a_digest_stands_alone_or_beside_a_tag() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let alone: Reference = format!("nginx@{digest}").parse().unwrap();
        assert_eq!(alone.tagged(), None);
        assert_eq!(alone.digested().unwrap(), format!("docker.io/library/nginx@{digest}"));
        let both: Reference = format!("r.io:5000/a:1@{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("r.io:5000/a:1@{digest}"));
        assert!(!both.is_latest());
    }

    #[test]
    fn bad_names_say_so() {
        let long = "a".repeat(256);
        for bad in [
            "",
            "UPPER",
            "a b",
            "nginx:",
            "nginx@sha256:1",
            "nginx:a:b",
            "/nginx",
            "nginx/",
            "a//b",
            "a/-b",
            "a/b_",
            "a/b___c",
            "a/b..c",
            "a.b:x/c",
            "a.b:/c",
            "-a.b/c",
            "nginx:.1",
            "nginx@",
            "nginx:ü",
            &long,
        ] {
            let error = bad.parse::<Reference>().unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("couldn't parse image name {bad:?}: invalid reference format")
            );
        }
    }
}
