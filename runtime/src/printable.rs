//! Texts of others, made fit for a terminal, a log line and a status.

use std::borrow::Cow;

/// The end of a text that was cut.
const ELLIPSIS: &str = "...";

/// Returns the text with its control characters escaped, except for tabs and the ends of lines.
pub fn printable(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| is_unprintable(c) && c != '\n' && c != '\t';
    if !text.contains(is_bad) {
        return Cow::Borrowed(text);
    }
    let mut clean = String::with_capacity(text.len());
    for c in text.chars() {
        if is_bad(c) { clean.extend(c.escape_default()) } else { clean.push(c) }
    }
    Cow::Owned(clean)
}

/// Returns the beginning of the text as one line of at most `max_bytes`, control characters escaped.
/// The work is bounded by `max_bytes`, however long the text is.
pub fn line(text: &str, max_bytes: usize) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if is_unprintable(c) {
            line.extend(c.escape_default())
        } else {
            line.push(c)
        }
        if line.len() > max_bytes {
            break;
        }
    }
    cut(line, max_bytes)
}

/// Cuts a text that is longer than `max_bytes`, at the boundary of a character.
pub fn cut(mut text: String, max_bytes: usize) -> String {
    if text.len() <= max_bytes {
        return text;
    }
    let mut end = max_bytes.saturating_sub(ELLIPSIS.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    if max_bytes >= ELLIPSIS.len() {
        text.push_str(ELLIPSIS);
    }
    text.shrink_to_fit();
    text
}

/// Returns the text of an error with its causes, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// Returns whether a terminal acts on the character, hides it, or shows text in another order because
/// of it.
fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_escaped() {
        assert_eq!(printable("a\tb\nc é"), "a\tb\nc é");
        assert_eq!(printable("\x1b[2Ja\u{9b}\u{202e}\r"), "\\u{1b}[2Ja\\u{9b}\\u{202e}\\r");
        assert_eq!(line("a\nb\x07", 100), "a\\nb\\u{7}");
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(line("abcdef", 6), "abcdef");
        assert_eq!(line("abcdefg", 6), "abc...");
        assert_eq!(line("aééééé", 8), "aéé...");
        assert_eq!(line(&"\x1b".repeat(1 << 20), 1024).len(), 1024);
        assert_eq!(cut("abc".into(), 2), "");
        assert_eq!(cut("abcé".into(), 3), "...");
    }
}
