//! Values as the sentence of an error has them: as JSON, texts as Go quotes them, and short
//! whatever the size of the value.

use std::io;

use serde_json::Value;

use crate::quote::quoted;

/// A value, or a field's path, in an error; a longer one is cut.
pub const VALUE_BYTES_MAX: usize = 1 << 10;

const CUT: &str = "...";

/// A value that an error can show.
pub trait Printed {
    /// Its text, at most [`VALUE_BYTES_MAX`] long.
    fn printed(&self) -> String;
}

impl Printed for str {
    fn printed(&self) -> String {
        // The quoted form is no shorter, so that one of more than the bound is cut below.
        bounded(quoted(start(self, VALUE_BYTES_MAX)), VALUE_BYTES_MAX)
    }
}

impl Printed for String {
    fn printed(&self) -> String {
        self.as_str().printed()
    }
}

impl Printed for Value {
    fn printed(&self) -> String {
        if let Self::String(text) = self {
            return text.printed();
        }
        let mut start = Start(Vec::new());
        // It fails when the bound is reached, and then the start is what is wanted.
        let _ = serde_json::to_writer(&mut start, self);
        bounded(String::from_utf8_lossy(&start.0).into_owned(), VALUE_BYTES_MAX)
    }
}

impl<T: Printed + ?Sized> Printed for &T {
    fn printed(&self) -> String {
        (**self).printed()
    }
}

macro_rules! numbers {
    ($($number:ty),*) => {$(
        impl Printed for $number {
            fn printed(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

numbers!(i32, i64, u16, u32, u64, usize);

/// Keeps what is written until there is more than the bound.
struct Start(Vec<u8>);

impl io::Write for Start {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // One byte too many, so that the text is seen to be too long.
        let room = VALUE_BYTES_MAX + 1 - self.0.len();
        let kept = &bytes[..bytes.len().min(room)];
        self.0.extend_from_slice(kept);
        if bytes.len() > room { Err(io::ErrorKind::WriteZero.into()) } else { Ok(bytes.len()) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The text, cut with an ellipsis at the end when it is longer than `max` bytes.
pub fn bounded(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(start(&text, max - CUT.len()).len());
        text.push_str(CUT);
        text.shrink_to_fit();
    }
    text
}

/// The characters of the text that fit into `max` bytes.
fn start(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::field_error::{DETAIL_BYTES_MAX, FieldError};

    #[test]
    fn small_values_are_printed_whole() {
        for (value, text) in [
            (json!(null), "null"),
            (json!("a\"\u{1}"), r#""a\"\x01""#),
            (json!([1, {"a": "b\n"}]), r#"[1,{"a":"b\n"}]"#),
        ] {
            assert_eq!(value.printed(), text);
        }
        let text = "x".repeat(VALUE_BYTES_MAX - 2);
        assert_eq!(text.printed(), format!("\"{text}\""));
        let list = json!(["x".repeat(VALUE_BYTES_MAX - 4)]);
        assert_eq!(list.printed(), list.to_string());
        assert_eq!(list.printed().len(), VALUE_BYTES_MAX);
    }

    #[test]
    fn large_values_are_cut() {
        let mut values: Vec<Value> = (0..8).map(|n| json!("x".repeat(n + 1_020))).collect();
        values.retain(|value| value.to_string().len() > VALUE_BYTES_MAX);
        values.extend([
            json!("é".repeat(600)),
            json!("\u{1}".repeat(300)),
            json!(vec!["漢字"; 100_000]),
            json!({"a": {"b".repeat(1_000_000): 1}}),
            json!(["é".repeat(511)]),
        ]);
        for value in values {
            let printed = value.printed();
            let at_most = VALUE_BYTES_MAX - 6..=VALUE_BYTES_MAX;
            assert!(at_most.contains(&printed.len()), "{}: {printed}", printed.len());
            assert!(printed.ends_with(CUT), "{printed}");
            let whole = match &value {
                Value::String(text) => quoted(text),
                value => value.to_string(),
            };
            assert!(whole.starts_with(&printed[..printed.len() - CUT.len()]), "{printed}");
        }
    }

    #[test]
    fn an_error_is_short_whatever_it_is_about() {
        let long = "x".repeat(1 << 20);
        let error = FieldError::invalid(long.as_str(), json!([long]), long.as_str());
        assert_eq!(error.field.len(), VALUE_BYTES_MAX);
        assert_eq!(error.detail.len(), DETAIL_BYTES_MAX);
        assert!(error.to_string().len() < 2 * VALUE_BYTES_MAX + DETAIL_BYTES_MAX + 30);
    }
}
