//! Who is asking, and may they: authentication, authorization, certificates and tokens.
//!
//! Invariant: a request is answered only after [`Security::authenticate`] and
//! [`Security::authorize`] both said yes; nothing else decides about access.

mod attributes;
mod authenticate;
mod impersonate;
mod objects;
pub mod pki;
pub mod rbac;
mod refusal;
pub mod reviews;
mod tokens;
mod user;

pub(crate) use impersonate::service_account;

pub use attributes::{Attributes, Decision};
pub use authenticate::{Security, SecurityConfig};
pub use objects::{Changes, Objects};
pub use refusal::Refusal;
pub use tokens::TokenKeyError;
pub use user::{UNAUTHENTICATED, User};
