//! `$(NAME)` references in commands, arguments, environment values and `subPathExpr`.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::cell::RefCell;
use std::collections::BTreeSet;

/// An expansion that is longer than its bound.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the expanded text is longer than {0} bytes")]
pub struct TooLong(pub usize);

/// Replaces every `$(NAME)` that `lookup` knows; `$$` is a dollar sign, unknown names stay as written.
/// The result has at most `max_bytes`: values may hold the results of other expansions, so that
/// short texts can name long ones.
pub fn expand<'v>(
    input: &str,
    max_bytes: usize,
    lookup: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, TooLong> {
    let mut output = Bounded { text: String::new(), max_bytes };
    let mut rest = input;
    // Without a closing parenthesis none is looked for again: the work stays linear.
    let mut closed = true;
    while let Some(position) = rest.find('$') {
        output.push(&rest[..position])?;
        rest = &rest[position + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            output.push("$")?;
            rest = after;
        } else if let Some(after) = rest.strip_prefix('(') {
            match closed.then(|| after.find(')')).flatten() {
                Some(end) => {
                    let name = &after[..end];
                    match lookup(name) {
                        Some(value) => output.push(value)?,
                        None => {
                            output.push("$(")?;
                            output.push(name)?;
                            output.push(")")?;
                        }
                    }
                    rest = &after[end + 1..];
                }
                None => {
                    closed = false;
                    output.push("$(")?;
                    rest = after;
                }
            }
        } else {
            output.push("$")?;
        }
    }
    output.push(rest)?;
    Ok(output.text)
}

struct Bounded {
    text: String,
    max_bytes: usize,
}

impl Bounded {
    fn push(&mut self, piece: &str) -> Result<(), TooLong> {
        if piece.len() > self.max_bytes - self.text.len() {
            return Err(TooLong(self.max_bytes));
        }
        self.text.push_str(piece);
        Ok(())
    }
}

/// An expression whose names do not all have values, or whose values are too long.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExpandError {
    /// Names that have no value, or an empty one.
    #[error("missing value for {}", .0.iter().map(String::as_str).collect::<Vec<_>>().join(", "))]
    Missing(BTreeSet<String>),
    /// The result is too long.
    #[error(transparent)]
    TooLong(#[from] TooLong),
}

/// As [`expand`], where every name has to have a value (upstream `ExpandContainerVolumeMounts`).
pub fn expand_all<'v>(
    input: &str,
    max_bytes: usize,
    lookup: impl Fn(&str) -> Option<&'v str>,
) -> Result<String, ExpandError> {
    let missing = RefCell::new(BTreeSet::new());
    let expanded = expand(input, max_bytes, |name| {
        let value = lookup(name).filter(|value| !value.is_empty());
        if value.is_none() {
            missing.borrow_mut().insert(name.to_owned());
        }
        value
    })?;
    match missing.into_inner() {
        missing if missing.is_empty() => Ok(expanded),
        missing => Err(ExpandError::Missing(missing)),
    }
}

#[cfg(test)]
mod tests {
    use super::{TooLong, expand, expand_all};

    const BOUND: usize = 1 << 10;

    #[test]
    fn names_without_a_value_are_listed() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        };
        let expand = |input| expand_all(input, BOUND, lookup).map_err(|error| error.to_string());
        assert_eq!(expand("$(A)/$$(B)").as_deref(), Ok("1/$(B)"));
        assert_eq!(expand("$(NOSUCH)/a").unwrap_err(), "missing value for NOSUCH");
        let several = expand("$(C)/$(A)/$(B)/$(C)/$(EMPTY)").unwrap_err();
        assert_eq!(several, "missing value for B, C, EMPTY");
    }

    #[test]
    fn references() {
        let lookup = |name: &str| match name {
            "A" => Some("1"),
            "B" => Some("$(A)"),
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
            ("$(A$(A$$(A", "$(A$(A$(A"),
            ("a$", "a$"),
            ("", ""),
        ];
        for (input, expected) in cases {
            assert_eq!(expand(input, BOUND, lookup).as_deref(), Ok(expected), "{input}");
        }
    }

    #[test]
    fn expansion_stops_at_its_bound() {
        let long = "x".repeat(BOUND / 2);
        let lookup = |_: &str| Some(long.as_str());
        assert_eq!(expand("$(A)$(A)", BOUND, lookup).map(|text| text.len()), Ok(BOUND));
        assert_eq!(expand("$(A)$(A)x", BOUND, lookup), Err(TooLong(BOUND)));
        assert_eq!(expand("$(A)x$(A)", BOUND, lookup), Err(TooLong(BOUND)));
    }

    #[test]
    fn open_parentheses_take_linear_time() {
        let input = "$(".repeat(1 << 20);
        let begun = std::time::Instant::now();
        assert_eq!(expand(&input, input.len(), |_| None).as_deref(), Ok(&*input));
        assert!(
            begun.elapsed() < std::time::Duration::from_secs(5),
            "it took {:?}",
            begun.elapsed()
        );
    }
}
