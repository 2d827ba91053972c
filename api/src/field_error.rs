//! Validation errors that name a field, worded as Kubernetes words them.

mod list;
mod printed;

use std::fmt;

pub use list::{ERRORS_MAX, ErrorList};
pub use printed::{Printed, VALUE_BYTES_MAX};

/// The rest of an error's sentence; a longer one is cut.
pub const DETAIL_BYTES_MAX: usize = 4 << 10;

/// What is wrong with one field (upstream `k8s.io/apimachinery/pkg/util/validation/field`).
#[derive(Clone, Debug, PartialEq)]
pub struct FieldError {
    /// The class of the error; it becomes the `reason` of a Status cause.
    pub kind: FieldErrorKind,
    /// The field's path, for example `spec.containers[0].image`.
    pub field: String,
    /// The offending value as the sentence has it, at most [`VALUE_BYTES_MAX`] long; absent for
    /// classes that show none.
    pub value: Option<String>,
    /// The rest of the sentence.
    pub detail: String,
}

/// The classes of field error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A reference names something that does not exist.
    NotFound,
    /// A mandatory field is absent.
    Required,
    /// Two entries that must differ are the same.
    Duplicate,
    /// The value breaks a rule.
    Invalid,
    /// The value is not one of an enumeration.
    NotSupported,
    /// The value is right in itself but not allowed here.
    Forbidden,
    /// A string is too long.
    TooLong,
    /// A list is too long.
    TooMany,
    /// The value has the wrong JSON type.
    TypeInvalid,
    /// The server failed.
    Internal,
}

impl FieldErrorKind {
    /// The `reason` of the Status cause (`FieldValueInvalid`, …).
    pub fn cause_reason(self) -> &'static str {
        match self {
            Self::NotFound => "FieldValueNotFound",
            Self::Required => "FieldValueRequired",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Invalid => "FieldValueInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::Internal => "InternalError",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::NotFound => "Not found",
            Self::Required => "Required value",
            Self::Duplicate => "Duplicate value",
            Self::Invalid => "Invalid value",
            Self::NotSupported => "Unsupported value",
            Self::Forbidden => "Forbidden",
            Self::TooLong => "Too long",
            Self::TooMany => "Too many",
            Self::TypeInvalid => "Invalid value",
            Self::Internal => "Internal error",
        }
    }
}

impl FieldError {
    fn new(
        kind: FieldErrorKind,
        field: impl Into<String>,
        value: Option<String>,
        detail: impl Into<String>,
    ) -> Self {
        // A path has the keys of maps in it, which may be as long as a value.
        let field = printed::bounded(field.into(), VALUE_BYTES_MAX);
        Self { kind, field, value, detail: printed::bounded(detail.into(), DETAIL_BYTES_MAX) }
    }

    /// `field: Required value: detail`.
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Required, field, None, detail)
    }

    /// `field: Invalid value: "value": detail`.
    pub fn invalid(
        field: impl Into<String>,
        value: impl Printed,
        detail: impl Into<String>,
    ) -> Self {
        Self::new(FieldErrorKind::Invalid, field, Some(value.printed()), detail)
    }

    /// `field: Unsupported value: "value": supported values: "a", "b"`.
    pub fn not_supported(
        field: impl Into<String>,
        value: impl Printed,
        supported: &[&str],
    ) -> Self {
        let mut names: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        names.sort();
        let detail = format!("supported values: {}", names.join(", "));
        Self::new(FieldErrorKind::NotSupported, field, Some(value.printed()), detail)
    }

    /// `field: Duplicate value: "value"`.
    pub fn duplicate(field: impl Into<String>, value: impl Printed) -> Self {
        Self::new(FieldErrorKind::Duplicate, field, Some(value.printed()), "")
    }

    /// `field: Forbidden: detail`.
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(FieldErrorKind::Forbidden, field, None, detail)
    }

    /// `field: Not found: "value"`.
    pub fn not_found(field: impl Into<String>, value: impl Printed) -> Self {
        Self::new(FieldErrorKind::NotFound, field, Some(value.printed()), "")
    }

    /// `field: Too long: may not be more than max bytes`.
    pub fn too_long(field: impl Into<String>, max_bytes: usize) -> Self {
        let detail = format!("may not be more than {max_bytes} bytes");
        Self::new(FieldErrorKind::TooLong, field, None, detail)
    }

    /// `field: Too many: actual: must have at most max items`.
    pub fn too_many(field: impl Into<String>, actual: usize, max: usize) -> Self {
        let detail = format!("must have at most {max} items");
        Self::new(FieldErrorKind::TooMany, field, Some(actual.printed()), detail)
    }

    /// The text after the field name, as a Status cause carries it.
    pub fn body(&self) -> String {
        let mut text = String::from(self.kind.title());
        if let Some(value) = &self.value {
            text.push_str(": ");
            text.push_str(value);
        }
        if !self.detail.is_empty() {
            text.push_str(": ");
            text.push_str(&self.detail);
        }
        text
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.field, self.body())
    }
}
