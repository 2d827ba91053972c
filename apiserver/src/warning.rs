//! `Warning` headers: how many and how long, and how they are written (RFC 7234, section 5.5).

use std::sync::{Mutex, PoisonError};

use http::{HeaderMap, HeaderValue};

/// Different warnings that one request collects at most.
const MAX_WARNINGS: usize = 64;
/// Characters of all warnings of one response (the bound that upstream plans: 4 KiB).
const MAX_WARNING_CHARS: usize = 4 << 10;
/// Characters of one warning where all together exceed [`MAX_WARNING_CHARS`].
const MAX_CHARS_OF_MANY: usize = 256;

/// The warnings that a request has collected.
#[derive(Debug, Default)]
pub(crate) struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    /// Adds a warning, unless it is there or there are [`MAX_WARNINGS`].
    pub(crate) fn add(&self, text: String) {
        let mut warnings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if warnings.len() < MAX_WARNINGS && !text.is_empty() && !warnings.contains(&text) {
            warnings.push(text);
        }
    }

    /// Adds a `Warning` header for each warning. Where all of them together are too long, each is
    /// cut to [`MAX_CHARS_OF_MANY`], and the last ones are left out.
    pub(crate) fn write(self, headers: &mut HeaderMap) {
        let warnings = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        let chars = |text: &String| text.chars().count();
        let are_many = warnings.iter().map(chars).sum::<usize>() > MAX_WARNING_CHARS;
        let longest = if are_many { MAX_CHARS_OF_MANY } else { MAX_WARNING_CHARS };
        let mut left = MAX_WARNING_CHARS;
        for warning in &warnings {
            let text: String = warning.chars().take(longest).collect();
            let Some(rest) = left.checked_sub(chars(&text)) else { return };
            left = rest;
            if let Ok(value) = HeaderValue::from_bytes(quoted(&text).as_bytes()) {
                headers.append("warning", value);
            }
        }
    }
}

/// `299 - "text"`, without control characters, which no header may have.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 8);
    quoted.push_str("299 - \"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() => quoted.push(' '),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn written(texts: impl IntoIterator<Item = String>) -> Vec<String> {
        let warnings = Warnings::default();
        texts.into_iter().for_each(|text| warnings.add(text));
        let mut headers = HeaderMap::new();
        warnings.write(&mut headers);
        let values = headers.get_all("warning").iter();
        values.map(|value| String::from_utf8(value.as_bytes().to_vec()).unwrap()).collect()
    }

    #[test]
    fn texts_are_quoted_and_unique() {
        let texts = ["a \"b\" \\", "", "é\r\nx", "a \"b\" \\"].map(str::to_owned);
        assert_eq!(written(texts), ["299 - \"a \\\"b\\\" \\\\\"", "299 - \"é  x\""]);
    }

    #[test]
    fn total_length_is_bounded() {
        let long = |n: usize| format!("{n:03}{}", "x".repeat(997));
        assert_eq!(written((0..4).map(long)).concat().len(), 4 * 1008);
        let cut = written((0..50_000).map(long));
        assert_eq!(cut.len(), MAX_WARNING_CHARS / MAX_CHARS_OF_MANY);
        assert!(cut.iter().all(|text| text.len() == MAX_CHARS_OF_MANY + 8));
    }
}
