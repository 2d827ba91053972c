//! Why a request is turned away at the door.

/// An authentication or authorization failure; the REST layer makes a `Status` of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Credentials were presented and are not good (401, reason `Unauthorized`).
    #[error("Unauthorized")]
    Unauthorized,
    /// The user may not do this (403, reason `Forbidden`); the whole message.
    #[error("{0}")]
    Forbidden(String),
    /// The request makes no sense (400, reason `BadRequest`).
    #[error("{0}")]
    BadRequest(String),
    /// What the request refers to is not there (404, reason `NotFound`).
    #[error("{0}")]
    NotFound(String),
    /// What the request refers to is another one by now (409, reason `Conflict`).
    #[error("{0}")]
    Conflict(String),
    /// A field breaks a rule (422, reason `Invalid`).
    #[error("{0}")]
    Invalid(String),
    /// The server failed (500, reason `InternalError`).
    #[error("Internal error occurred: {0}")]
    Internal(String),
}

impl Refusal {
    /// The HTTP status code and the `reason` of the Status object.
    pub fn code_and_reason(&self) -> (u16, &'static str) {
        match self {
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden(_) => (403, "Forbidden"),
            Self::BadRequest(_) => (400, "BadRequest"),
            Self::NotFound(_) => (404, "NotFound"),
            Self::Conflict(_) => (409, "Conflict"),
            Self::Invalid(_) => (422, "Invalid"),
            Self::Internal(_) => (500, "InternalError"),
        }
    }
}
