//! What can go wrong while a controller acts.

use thiserror::Error;

/// A write or read that the API refused, or that never reached it.
#[derive(Debug, Error)]
pub enum Error {
    /// A request failed.
    #[error("{operation} {kind} {key}: {}", said(source))]
    Request {
        /// The verb, for example `create`.
        operation: &'static str,
        /// The kind of the object.
        kind: String,
        /// `namespace/name`, or what of it is known.
        key: String,
        /// What the client reported.
        #[source]
        source: Box<kube::Error>,
    },
    /// The volumes of a pod did not come in time.
    #[error("running PreBind plugin \"VolumeBinding\": binding volumes: timed out for {pod}")]
    VolumesLate {
        /// `namespace/name`.
        pod: String,
    },
    /// The code of a controller panicked.
    #[error("panicked: {text}")]
    Panicked {
        /// The panic's message.
        text: String,
    },
    /// Some of several requests failed; the first failure stands for all.
    #[error("{failed} of {total} requests failed, the first with: {first}")]
    Batch {
        /// How many failed.
        failed: usize,
        /// How many were tried.
        total: usize,
        /// The first failure.
        #[source]
        first: Box<Error>,
    },
}

/// The server's message where there is one: the client's own words show a Status with all its fields.
fn said(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// The Status that the server answered with, if it answered.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Request { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status),
                _ => None,
            },
            Self::Batch { first, .. } => first.status(),
            Self::VolumesLate { .. } | Self::Panicked { .. } => None,
        }
    }

    /// The object changed since it was read.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.is_conflict())
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(|s| s.is_not_found())
    }

    /// An object of that name exists.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|s| s.is_already_exists())
    }

    /// The server understood the object and found it wrong.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(|s| s.is_invalid())
    }

    /// The namespace is being deleted, so nothing can be created in it.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().and_then(|s| s.details.as_ref()).is_some_and(|details| {
            details.causes.iter().any(|cause| cause.reason == "NamespaceTerminating")
        })
    }

    /// The sentence for people: the server's message where there is one.
    pub fn message(&self) -> String {
        self.status().map_or_else(|| self.to_string(), |status| status.message.clone())
    }
}
