//! No text makes the readers of selectors, quantities, schedules and numbers-or-percentages panic,
//! and what they read they write in a form that reads the same.

use serde_json::Value;

use crate::int_or_string::IntOrString;
use crate::quantity::Quantity;
use crate::schedule::Schedule;
use crate::selector::{FieldSelector, LabelSelector};

fn each(corpus: &str, parse: impl Fn(&str)) {
    let directory = format!("{}/corpus/{corpus}", env!("CARGO_MANIFEST_DIR"));
    fuzz::each(directory, |bytes| parse(&String::from_utf8_lossy(bytes)));
}

#[test]
fn quantities() {
    each("quantity", |text| {
        let Ok(quantity) = Quantity::parse(text) else { return };
        let written = quantity.to_string();
        let again = Quantity::parse(&written);
        assert_eq!(again.map(|again| again.to_string()), Ok(written.clone()), "{text} {written}");
        let _ = (quantity.value(), quantity.milli_value(), quantity.nano_value());
    });
}

#[test]
fn label_selectors() {
    each("label_selector", |text| {
        if let Ok(selector) = LabelSelector::parse(text) {
            selector.matches(&Default::default());
        }
    });
}

#[test]
fn field_selectors() {
    each("field_selector", |text| {
        if let Ok(selector) = FieldSelector::parse(text) {
            selector.matches(|_| Default::default());
        }
    });
}

#[test]
fn schedules() {
    each("schedule", |text| drop(Schedule::parse(text)));
}

#[test]
fn numbers_or_percentages() {
    each("int_or_string", |text| {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|_| text.into());
        let Some(bound) = IntOrString::from_json(&value) else { return };
        for total in [0, 1, 3, i64::from(i32::MAX)] {
            if let (Ok(down), Ok(up)) = (bound.scaled(total, false), bound.scaled(total, true)) {
                assert!(down <= up, "{text} of {total}");
            }
        }
    });
}
