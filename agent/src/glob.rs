//! Shell patterns as Go's `path.Match` has them, matched in bounded time.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

/// Longest pattern and longest text; a DNS name has at most 253 bytes.
const MAX_GLOB_BYTES: usize = 255;

/// One element of a pattern.
enum Token {
    /// `*`: any characters.
    Any,
    /// `?`: one character.
    One,
    /// This character.
    Literal(char),
    /// `[a-z]` or `[^a-z]`: one character that is, or is not, in a range.
    Class { negated: bool, ranges: Vec<(char, char)> },
}

impl Token {
    fn takes(&self, c: char) -> bool {
        match self {
            Self::Any => false,
            Self::One => true,
            Self::Literal(literal) => *literal == c,
            Self::Class { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated
            }
        }
    }
}

/// Returns whether the whole text matches the pattern; a malformed or overlong one matches nothing.
///
/// Only the last `*` is ever tried again, so that the work is at most the product of both lengths.
pub fn matches(pattern: &str, text: &str) -> bool {
    if pattern.len() > MAX_GLOB_BYTES || text.len() > MAX_GLOB_BYTES {
        return false;
    }
    let Some(tokens) = tokens(pattern) else { return false };
    let text: Vec<char> = text.chars().collect();
    let (mut token, mut at) = (0, 0);
    // Where to go on when the characters after the last `*` do not fit.
    let mut retry: Option<(usize, usize)> = None;
    while at < text.len() {
        match tokens.get(token) {
            Some(Token::Any) => {
                retry = Some((token + 1, at));
                token += 1;
            }
            Some(next) if next.takes(text[at]) => {
                token += 1;
                at += 1;
            }
            _ => {
                let Some((after, taken)) = retry else { return false };
                retry = Some((after, taken + 1));
                (token, at) = (after, taken + 1);
            }
        }
    }
    tokens[token..].iter().all(|token| matches!(token, Token::Any))
}

/// Returns the elements of a pattern, or `None` where Go says `ErrBadPattern`.
fn tokens(pattern: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = pattern.chars().peekable();
    while let Some(c) = rest.next() {
        tokens.push(match c {
            '*' => Token::Any,
            '?' => Token::One,
            '\\' => Token::Literal(rest.next()?),
            '[' => {
                let negated = rest.next_if_eq(&'^').is_some();
                let mut ranges = Vec::new();
                while ranges.is_empty() || rest.peek() != Some(&']') {
                    let low = class_character(&mut rest)?;
                    let high = match rest.next_if_eq(&'-') {
                        Some(_) => class_character(&mut rest)?,
                        None => low,
                    };
                    ranges.push((low, high));
                }
                rest.next();
                Token::Class { negated, ranges }
            }
            c => Token::Literal(c),
        });
    }
    Some(tokens)
}

fn class_character(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match rest.next()? {
        '-' | ']' => None,
        '\\' => rest.next(),
        c => Some(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_go() {
        for (pattern, text, expected) in [
            ("abc", "abc", true),
            ("*", "abc", true),
            ("*c", "abc", true),
            ("a*", "a", true),
            ("a*", "abc", true),
            ("a*b?c*x", "abxbbxdbxebxczzx", true),
            ("a*b?c*x", "abxbbxdbxebxczzy", false),
            ("ab[c]", "abc", true),
            ("ab[b-d]", "abc", true),
            ("ab[e-g]", "abc", false),
            ("ab[^c]", "abc", false),
            ("ab[^e-g]", "abc", true),
            ("a\\*b", "a*b", true),
            ("a\\*b", "ab", false),
            ("a?b", "a\u{263a}b", true),
            ("a[^a]b", "a\u{263a}b", true),
            ("[\\]a]", "]", true),
            ("[\\-x]", "-", true),
            ("[]a]", "]", false),
            ("[-x]", "-", false),
            ("[x-]", "x", false),
            ("[a-b-c]", "a", false),
            ("[", "a", false),
            ("[^", "a", false),
            ("[^bc", "a", false),
            ("a[", "a", false),
            ("a\\", "a", false),
            ("*x", "xxx", true),
            ("", "", true),
            ("", "a", false),
            ("**", "", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} for {text}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let begun = std::time::Instant::now();
        for _ in 0..1_000 {
            let pattern = "*a".repeat(127) + "b";
            assert!(!matches(&pattern, &"a".repeat(MAX_GLOB_BYTES)));
        }
        assert!(begun.elapsed() < std::time::Duration::from_secs(5), "{:?}", begun.elapsed());
        let long = "*".repeat(MAX_GLOB_BYTES + 1);
        assert!(!matches(&long, "a"));
    }
}
