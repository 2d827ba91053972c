//! `$(NAME)` references in commands, arguments, environment values and `subPathExpr`.

use std::cell::RefCell;
use std::collections::BTreeSet;

/// Replaces every `$(NAME)` that `lookup` knows; `$$` is a dollar sign, unknown names stay as written.
pub fn expand(input: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut output = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(position) = rest.find('$') {
        output.push_str(&rest[..position]);
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push('$');
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(') {
            match after.find(')') {
                Some(end) => {
                    let name = &after[..end];
                    match lookup(name) {
                        Some(value) => output.push_str(&value),
                        None => {
                            output.push_str("$(");
                            output.push_str(name);
                            output.push(')');
                        }
                    }
                    rest = &after[end + 1..];
                }
                None => {
                    output.push_str("$(");
                    rest = after;
                }
            }
        } else {
            output.push('$');
        }
    }
    output.push_str(rest);
    output
}

/// Names that have no value, or an empty one.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("missing value for {}", .0.iter().map(String::as_str).collect::<Vec<_>>().join(", "))]
pub struct Missing(BTreeSet<String>);

/// As [`expand`], where every name has to have a value (upstream `ExpandContainerVolumeMounts`).
pub fn expand_all(input: &str, lookup: impl Fn(&str) -> Option<String>) -> Result<String, Missing> {
    let missing = RefCell::new(BTreeSet::new());
    let expanded = expand(input, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    });
    match missing.into_inner() {
        missing if missing.is_empty() => Ok(expanded),
        missing => Err(Missing(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::{expand, expand_all};

    #[test]
    fn names_without_a_value_are_told() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        let expand = |input| expand_all(input, lookup).map_err(|missing| missing.to_string());
        assert_eq!(expand("$(A)/$$(B)").as_deref(), Ok("1/$(B)"));
        assert_eq!(expand("$(NOSUCH)/a").unwrap_err(), "missing value for NOSUCH");
        let several = expand("$(C)/$(A)/$(B)/$(C)/$(EMPTY)").unwrap_err();
        assert_eq!(several, "missing value for B, C, EMPTY");
    }

    #[test]
    fn references() {
        let lookup = |name: &str| match name {
            "A" => Some("1".to_owned()),
            "B" => Some("$(A)".to_owned()),
            _ => None,
        };
        let cases = [
            ("$(A)-$(A)", "1-1"),
            ("$(B)", "$(A)"),
            ("$(C)", "$(C)"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$A", "$A"),
            ("$(A", "$(A"),
            ("a$", "a$"),
            ("", ""),
        ];
        for (input, expected) in cases {
            assert_eq!(expand(input, lookup), expected, "{input}");
        }
    }
}
