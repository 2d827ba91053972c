//! Entry points for fuzzing: no text makes the readers of selectors, quantities, schedules and
//! numbers-or-percentages panic, and what they read they write in a form that reads the same.

use serde_json::Value;

pub use crate::schema::fuzz_targets::{body_json, body_protobuf, body_yaml, strategic};

use crate::int_or_string::IntOrString;
use crate::quantity::Quantity;
use crate::schedule::Schedule;
use crate::selector::{FieldSelector, LabelSelector};

/// Reads a quantity, and reads what it is written as: the same amount, written as before.
pub fn quantity(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let Ok(quantity) = Quantity::parse(&text) else { return };
    let read_again = |text: &str| Quantity::parse(text).expect("what is written can be read");
    let (written, mut again) = (quantity.to_string(), read_again(&quantity.to_string()));
    // As upstream: with more than 18 digits, which this form may have one more of, it is capped.
    if quantity.value().unsigned_abs() < i64::MAX.unsigned_abs() {
        assert_eq!(again.nano_value(), quantity.nano_value(), "{text} {written}");
    }
    if again.to_string() != written {
        // As upstream: a number of bytes that is no multiple of 1024 is written without a suffix, and
        // read as a decimal number (2562.5Ki, 2624000, 2624k).
        again = read_again(&again.to_string());
    }
    let stable = again.to_string();
    assert_eq!(read_again(&stable).to_string(), stable, "{text} {written}");
    let _ = (quantity.value(), quantity.milli_value());
}

/// Reads a label selector and matches it.
pub fn label_selector(bytes: &[u8]) {
    if let Ok(selector) = LabelSelector::parse(&String::from_utf8_lossy(bytes)) {
        selector.matches(&Default::default());
    }
}

/// Reads a field selector and matches it.
pub fn field_selector(bytes: &[u8]) {
    if let Ok(selector) = FieldSelector::parse(&String::from_utf8_lossy(bytes)) {
        selector.matches(|_| Default::default());
    }
}

/// Reads the schedule of a CronJob.
pub fn schedule(bytes: &[u8]) {
    drop(Schedule::parse(&String::from_utf8_lossy(bytes)));
}

/// Reads a number or percentage and scales it.
pub fn int_or_string(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let value: Value = serde_json::from_str(&text).unwrap_or_else(|_| text.as_ref().into());
    let Some(bound) = IntOrString::from_json(&value) else { return };
    for total in [0, 1, 3, i64::from(i32::MAX)] {
        if let (Ok(down), Ok(up)) = (bound.scaled(total, false), bound.scaled(total, true)) {
            assert!(down <= up, "{text} of {total}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn each(corpus: &str, parse: impl Fn(&[u8])) {
        fuzz::each(format!("{}/corpus/{corpus}", env!("CARGO_MANIFEST_DIR")), parse);
    }

    #[test]
    fn corpus_of_quantities_is_read() {
        each("quantity", quantity);
    }

    #[test]
    fn corpus_of_label_selectors_is_read() {
        each("label_selector", label_selector);
    }

    #[test]
    fn corpus_of_field_selectors_is_read() {
        each("field_selector", field_selector);
    }

    #[test]
    fn corpus_of_schedules_is_read() {
        each("schedule", schedule);
    }

    #[test]
    fn corpus_of_numbers_or_percentages_is_read() {
        each("int_or_string", int_or_string);
    }
}
