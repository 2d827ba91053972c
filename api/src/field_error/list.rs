//! The errors of one object: a bounded list.

use std::ops::Deref;

use super::FieldError;

/// Errors that one answer names; the ones after them are dropped.
pub const ERRORS_MAX: usize = 100;

/// Errors of one object, in field order: the first [`ERRORS_MAX`] of them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ErrorList(Vec<FieldError>);

impl ErrorList {
    /// No error.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds an error at the end, unless the list is full.
    pub fn push(&mut self, error: FieldError) {
        if self.0.len() < ERRORS_MAX {
            self.0.push(error);
        }
    }
}

impl Deref for ErrorList {
    type Target = [FieldError];

    fn deref(&self) -> &[FieldError] {
        &self.0
    }
}

impl Extend<FieldError> for ErrorList {
    /// Takes no more from the iterator than there is room for.
    fn extend<I: IntoIterator<Item = FieldError>>(&mut self, errors: I) {
        let room = ERRORS_MAX - self.0.len();
        self.0.extend(errors.into_iter().take(room));
    }
}

impl FromIterator<FieldError> for ErrorList {
    fn from_iter<I: IntoIterator<Item = FieldError>>(errors: I) -> Self {
        let mut list = Self::new();
        list.extend(errors);
        list
    }
}

impl From<Vec<FieldError>> for ErrorList {
    fn from(mut errors: Vec<FieldError>) -> Self {
        errors.truncate(ERRORS_MAX);
        Self(errors)
    }
}

impl From<FieldError> for ErrorList {
    fn from(error: FieldError) -> Self {
        Self(vec![error])
    }
}

impl IntoIterator for ErrorList {
    type Item = FieldError;
    type IntoIter = std::vec::IntoIter<FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a> IntoIterator for &'a ErrorList {
    type Item = &'a FieldError;
    type IntoIter = std::slice::Iter<'a, FieldError>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<const N: usize> PartialEq<[FieldError; N]> for ErrorList {
    fn eq(&self, other: &[FieldError; N]) -> bool {
        self.0 == other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn many() -> impl Iterator<Item = FieldError> {
        (0..5_000).map(|number| FieldError::required(format!("f{number}"), ""))
    }

    #[test]
    fn no_more_than_a_hundred_errors_are_kept() {
        let mut pushed = ErrorList::new();
        many().for_each(|error| pushed.push(error));
        let mut extended = ErrorList::from(FieldError::required("f0", ""));
        extended.extend(many().skip(1));
        for list in [&pushed, &extended, &many().collect(), &many().collect::<Vec<_>>().into()] {
            assert_eq!(list.len(), ERRORS_MAX);
            assert_eq!(list[0].field, "f0");
            assert_eq!(list[ERRORS_MAX - 1].field, "f99");
        }
        extended.extend(many());
        assert_eq!(extended, pushed);
    }
}
