//! Text as Go's `%q` writes it, and so Kubernetes in its messages.

/// Returns whether Go prints the character as it is (`unicode.IsPrint`): letters, marks, numbers,
/// punctuation, symbols and the ASCII space.
pub fn is_printable(c: char) -> bool {
    if c.is_ascii() {
        return matches!(c, ' '..='~');
    }
    // Rust's debug form draws the line at the same place, except that it escapes a mark at the
    // beginning of a text.
    c.escape_debug().nth(1).is_none() || format!("-{c}").escape_debug().count() == 2
}

/// The text in double quotes, with escapes for what is not printable.
pub fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        let code = u32::from(c);
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if is_printable(c) => quoted.push(c),
            '\u{7}' => quoted.push_str("\\a"),
            '\u{8}' => quoted.push_str("\\b"),
            '\u{b}' => quoted.push_str("\\v"),
            '\u{c}' => quoted.push_str("\\f"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            c if c.is_ascii() => quoted.push_str(&format!("\\x{code:02x}")),
            _ if code > 0xffff => quoted.push_str(&format!("\\U{code:08x}")),
            _ => quoted.push_str(&format!("\\u{code:04x}")),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_as_by_go() {
        for (text, expected) in [
            ("a b", r#""a b""#),
            ("\"\\'", r#""\"\\'""#),
            ("\n\t\r\u{7}\u{8}\u{b}\u{c}", r#""\n\t\r\a\b\v\f""#),
            ("\u{0}\u{1}\u{7f}", r#""\x00\x01\x7f""#),
            ("é漢😀", r#""é漢😀""#),
            ("\u{301}e\u{301}", "\"\u{301}e\u{301}\""),
            ("\u{80}\u{a0}\u{ad}\u{200b}\u{2028}", r#""\u0080\u00a0\u00ad\u200b\u2028""#),
            ("\u{e000}\u{10ffff}", r#""\ue000\U0010ffff""#),
        ] {
            assert_eq!(quoted(text), expected);
        }
    }
}
