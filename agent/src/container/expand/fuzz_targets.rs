//! Entry points for fuzzing: expansion returns what upstream's returns, within its bound.

use std::collections::BTreeMap;

use super::*;

/// Bound of an expansion.
const BOUND_BYTES: usize = 4096;

/// Expands the last line of a text; the lines before it are values: `NAME=value`.
pub fn expansion(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (values, input) = text.rsplit_once('\n').unwrap_or(("", &text));
    let values: BTreeMap<&str, &str> =
        values.lines().filter_map(|line| line.split_once('=')).collect();
    let lookup = |name: &str| values.get(name).copied();
    let expected = upstream(input, lookup);
    match expand(input, BOUND_BYTES, lookup) {
        Ok(expanded) => assert_eq!(expanded, expected, "{input:?}"),
        Err(TooLong(bound)) => assert!(expected.len() > bound, "{input:?}"),
    }
    if let Ok(all) = expand_all(input, BOUND_BYTES, lookup) {
        assert_eq!(all, expected, "{input:?}");
    }
}

/// Upstream's `expansion.Expand`, step by step, without a bound.
fn upstream<'v>(input: &str, lookup: impl Fn(&str) -> Option<&'v str>) -> String {
    let mut output = String::new();
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        output.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let closed = after.strip_prefix('(').and_then(|name| name.split_once(')'));
        rest = if let Some((name, beyond)) = closed {
            match lookup(name) {
                Some(value) => output.push_str(value),
                None => output.push_str(&format!("$({name})")),
            }
            beyond
        } else if let Some(beyond) = after.strip_prefix('$') {
            output.push('$');
            beyond
        } else {
            output.push('$');
            let taken = after.chars().next().map_or(0, char::len_utf8);
            output.push_str(&after[..taken]);
            &after[taken..]
        };
    }
    output + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_references_is_expanded() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/expansion"), expansion);
    }
}
