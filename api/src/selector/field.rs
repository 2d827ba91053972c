//! Field selectors: `metadata.name=x,status.phase!=Running` (upstream `fields.ParseSelector`).

/// Bytes of a field selector.
const FIELD_SELECTOR_BYTES_MAX: usize = 8 << 10;
/// Requirements of a field selector, each of which is compared with each object.
const FIELD_REQUIREMENTS_MAX: usize = 64;

/// A conjunction of requirements on fields.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

/// One field that must (or must not) have one value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldRequirement {
    /// The field, for example `spec.nodeName`.
    pub field: String,
    /// The value compared with.
    pub value: String,
    /// True for `=` and `==`, false for `!=`.
    pub equals: bool,
}

/// Why a text is no field selector, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldSelectorError {
    /// A term without an operator.
    #[error("invalid selector: '{selector}'; can't understand '{term}'")]
    Term {
        /// The whole text.
        selector: String,
        /// The term.
        term: String,
    },
    /// A backslash before something else than `\`, `,` or `=`.
    #[error("invalid field selector: invalid escape sequence: {0}")]
    Escape(String),
    /// A `,` or `=` in a value without a backslash.
    #[error("invalid field selector: unescaped character in value: {0}")]
    Unescaped(char),
    /// Longer than [`FIELD_SELECTOR_BYTES_MAX`].
    #[error("invalid field selector: it is longer than {FIELD_SELECTOR_BYTES_MAX} bytes")]
    TooLong,
    /// More than [`FIELD_REQUIREMENTS_MAX`] terms.
    #[error("invalid field selector: it has more than {FIELD_REQUIREMENTS_MAX} requirements")]
    TooMany,
}

impl FieldSelector {
    /// Reads a selector; the empty text selects everything.
    pub fn parse(text: &str) -> Result<Self, FieldSelectorError> {
        if text.len() > FIELD_SELECTOR_BYTES_MAX {
            return Err(FieldSelectorError::TooLong);
        }
        let mut requirements = Vec::new();
        for term in terms(text).into_iter().filter(|t| !t.is_empty()) {
            let Some((field, equals, value)) = split(term) else {
                return Err(FieldSelectorError::Term {
                    selector: text.to_owned(),
                    term: term.to_owned(),
                });
            };
            let value = unescape(value)?;
            if requirements.len() == FIELD_REQUIREMENTS_MAX {
                return Err(FieldSelectorError::TooMany);
            }
            requirements.push(FieldRequirement { field: field.to_owned(), value, equals });
        }
        requirements.sort_by(|a, b| a.field.cmp(&b.field));
        Ok(Self { requirements })
    }

    /// Whether an object is selected; `lookup` gives the value of a field (a field that the kind
    /// does not know has been refused before).
    pub fn matches(&self, lookup: impl Fn(&str) -> Option<String>) -> bool {
        self.requirements.iter().all(|requirement| {
            let value = lookup(&requirement.field).unwrap_or_default();
            (value == requirement.value) == requirement.equals
        })
    }

    /// The requirements, sorted by field.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty()
    }
}

/// Splits at commas that have no backslash before them.
fn terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (index, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..index]);
                start = index + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split(term: &str) -> Option<(&str, bool, &str)> {
    for index in term.char_indices().map(|(index, _)| index) {
        let rest = &term[index..];
        for (operator, equals) in [("!=", false), ("==", true), ("=", true)] {
            if let Some(value) = rest.strip_prefix(operator) {
                return Some((&term[..index], equals, value));
            }
        }
    }
    None
}

fn unescape(text: &str) -> Result<String, FieldSelectorError> {
    let mut value = String::with_capacity(text.len());
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\\' | ',' | '=' if escaped => {
                value.push(c);
                escaped = false;
            }
            _ if escaped => return Err(FieldSelectorError::Escape(format!("\\{c}"))),
            '\\' => escaped = true,
            ',' | '=' => return Err(FieldSelectorError::Unescaped(c)),
            _ => value.push(c),
        }
    }
    if escaped {
        return Err(FieldSelectorError::Escape("\\".to_owned()));
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn matching() {
        let lookup = |field: &str| match field {
            "metadata.name" => Some("x".to_owned()),
            "status.phase" => Some("a,b=c".to_owned()),
            _ => None,
        };
        for (text, expected) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name==x", true),
            ("metadata.name!=x", false),
            ("metadata.name!=y,status.phase=a\\,b\\=c", true),
            ("spec.nodeName=", true),
            ("spec.nodeName!=", false),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(lookup), expected, "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("foo", "invalid selector: 'foo'; can't understand 'foo'"),
            ("a=b\\x", "invalid field selector: invalid escape sequence: \\x"),
            ("a=b=c", "invalid field selector: unescaped character in value: ="),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), error);
        }
    }

    #[test]
    fn length_and_number_are_bounded() {
        let many = |count: usize| vec!["metadata.name!=x"; count].join(",");
        assert!(FieldSelector::parse(&many(FIELD_REQUIREMENTS_MAX)).is_ok());
        let refused = FieldSelector::parse(&many(FIELD_REQUIREMENTS_MAX + 1));
        assert_eq!(refused, Err(FieldSelectorError::TooMany));
        let long = format!("metadata.name={}", "x".repeat(FIELD_SELECTOR_BYTES_MAX));
        assert_eq!(FieldSelector::parse(&long), Err(FieldSelectorError::TooLong));
    }
}
