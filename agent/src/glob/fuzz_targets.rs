//! Entry points for fuzzing: matching agrees with a table of all prefixes.

use super::*;

/// Matches the second line of a text against the pattern in its first one.
pub fn glob(bytes: &[u8]) {
    let lines = String::from_utf8_lossy(bytes);
    let (pattern, text) = lines.split_once('\n').unwrap_or((&lines, ""));
    let matched = matches(pattern, text);
    let fits = pattern.len() <= MAX_GLOB_BYTES && text.len() <= MAX_GLOB_BYTES;
    let expected = fits && tokens(pattern).is_some_and(|tokens| by_table(&tokens, text));
    assert_eq!(matched, expected, "{pattern:?} for {text:?}");
    // Every text matches itself with its characters escaped.
    let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
    if escaped.len() <= MAX_GLOB_BYTES {
        assert!(matches(&escaped, text), "{text:?}");
    }
}

/// Returns whether the whole text matches, by the prefixes of it that each prefix of the pattern
/// matches.
fn by_table(tokens: &[Token], text: &str) -> bool {
    let text: Vec<char> = text.chars().collect();
    let mut reached = vec![false; text.len() + 1];
    reached[0] = true;
    for token in tokens {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match token {
                Token::Any => reached[at] || (at > 0 && next[at - 1]),
                one => at > 0 && reached[at - 1] && one.takes(text[at - 1]),
            };
        }
        reached = next;
    }
    reached[text.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_patterns_is_matched() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/glob"), glob);
    }
}
