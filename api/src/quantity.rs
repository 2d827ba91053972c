//! Resource quantities: `100m`, `1.5Gi`, `2e3` (upstream `k8s.io/apimachinery/pkg/api/resource`).

use std::cmp::Ordering;
use std::fmt;
use std::iter::Sum;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde_json::Value;

const NANO: i128 = 1_000_000_000;
/// Upstream caps every quantity at the largest 64-bit integer.
const MAX_NANO: i128 = i64::MAX as i128 * NANO;

/// How a quantity prefers to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum Format {
    /// `m`, `k`, `M`, …
    #[default]
    DecimalSi,
    /// `Ki`, `Mi`, …
    BinarySi,
    /// `e3`, `e6`, …
    DecimalExponent,
}

/// A fixed-point number with the precision of 10⁻⁹. Its `Display` is Kubernetes' canonical form.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is not a quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text as a whole has the wrong shape.
    #[error(
        "quantities must match the regular expression \
         '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Format,
    /// The digits cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Number,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

const DECIMAL: [(&str, i32); 10] = [
    ("n", -9),
    ("u", -6),
    ("m", -3),
    ("", 0),
    ("k", 3),
    ("M", 6),
    ("G", 9),
    ("T", 12),
    ("P", 15),
    ("E", 18),
];
const BINARY: [(&str, u32); 6] =
    [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40), ("Pi", 50), ("Ei", 60)];

enum Scale {
    Ten(i32),
    Two(u32),
}

fn scale(suffix: &str) -> Option<(Scale, Format)> {
    if let Some((_, power)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((Scale::Ten(*power), Format::DecimalSi));
    }
    if let Some((_, power)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((Scale::Two(*power), Format::BinarySi));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let power: i32 = exponent.parse().ok()?;
    Some((Scale::Ten(power), Format::DecimalExponent))
}

/// Division that rounds away from zero, as upstream rounds what is below its precision.
fn divide_up(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    match value % divisor {
        0 => quotient,
        rest if rest > 0 => quotient + 1,
        _ => quotient - 1,
    }
}

fn multiply_ten(value: i128, power: i32) -> i128 {
    let factor = 10_i128.checked_pow(power.unsigned_abs());
    match (factor, power >= 0) {
        (Some(factor), true) => value.checked_mul(factor).unwrap_or(saturated(value)),
        (Some(factor), false) => divide_up(value, factor),
        (None, true) => saturated(value),
        (None, false) => value.signum(),
    }
}

fn saturated(value: i128) -> i128 {
    MAX_NANO * value.signum()
}

impl Quantity {
    /// Zero.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// Reads a quantity.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(number_end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() {
            return Err(QuantityError::Format);
        }
        if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
            return Err(QuantityError::Number);
        }
        if !suffix.is_empty() && suffix.bytes().any(|b| !b"eEinumkKMGTP+-0123456789".contains(&b)) {
            return Err(QuantityError::Format);
        }
        let (scale, format) = scale(suffix).ok_or(QuantityError::Suffix)?;

        // More digits than this are beyond the precision or beyond the cap in every scale.
        let whole = whole.trim_start_matches('0');
        let fraction = &fraction[..fraction.len().min(36)];
        let digits = format!("{whole}{fraction}");
        let mut nano = match digits.trim_start_matches('0') {
            "" => 0,
            significant if significant.len() > 37 => {
                if whole.len() > 19 {
                    MAX_NANO
                } else {
                    let kept: i128 =
                        significant[..37].parse().map_err(|_| QuantityError::Number)?;
                    let dropped = (significant.len() - 37) as i32;
                    apply(kept, dropped - fraction.len() as i32, &scale)
                }
            }
            significant => {
                let value: i128 = significant.parse().map_err(|_| QuantityError::Number)?;
                apply(value, -(fraction.len() as i32), &scale)
            }
        };
        if negative {
            nano = -nano;
        }
        // Upstream keeps short decimal numbers as they are, however large their suffix.
        let is_short = matches!(scale, Scale::Ten(_)) && whole.len() + fraction.len() <= 18;
        if !is_short || nano.abs() > 1000 * MAX_NANO {
            nano = nano.clamp(-MAX_NANO, MAX_NANO);
        }
        Ok(Self { nano, format })
    }

    /// Reads a quantity from JSON, where plain numbers are allowed too.
    pub fn from_json(value: &Value) -> Result<Self, QuantityError> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(QuantityError::Format),
        }
    }

    /// A whole number of units.
    pub const fn from_units(units: i64) -> Self {
        Self { nano: units as i128 * NANO, format: Format::DecimalSi }
    }

    /// A number of thousandths (CPU).
    pub const fn from_milli(milli: i64) -> Self {
        Self { nano: milli as i128 * (NANO / 1000), format: Format::DecimalSi }
    }

    /// A number of bytes, written with binary suffixes.
    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nano: bytes as i128 * NANO, format: Format::BinarySi }
    }

    /// The value in units, rounded up (bytes, counts).
    pub fn value(&self) -> i64 {
        clamp(divide_up(self.nano, NANO))
    }

    /// The value in bytes; the same as [`Quantity::value`].
    pub fn as_bytes(&self) -> i64 {
        self.value()
    }

    /// The value in thousandths, rounded up (CPU).
    pub fn milli_value(&self) -> i64 {
        clamp(divide_up(self.nano, NANO / 1000))
    }

    /// The value in nanounits, as usage metrics carry it.
    pub fn nano_value(&self) -> i128 {
        self.nano
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether it is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether it is a whole number of units.
    pub fn is_whole(&self) -> bool {
        self.nano % NANO == 0
    }

    fn format_decimal(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut mantissa = self.nano;
        let mut power = -9;
        while power < 18 && mantissa % 1000 == 0 {
            mantissa /= 1000;
            power += 3;
        }
        if self.format == Format::DecimalExponent {
            return match power {
                0 => write!(f, "{mantissa}"),
                _ => write!(f, "{mantissa}e{power}"),
            };
        }
        let suffix = DECIMAL.iter().find(|(_, p)| *p == power).map_or("", |(s, _)| s);
        write!(f, "{mantissa}{suffix}")
    }
}

fn apply(digits: i128, power: i32, scale: &Scale) -> i128 {
    match scale {
        Scale::Ten(ten) => multiply_ten(digits, power.saturating_add(9).saturating_add(*ten)),
        Scale::Two(two) => {
            let scaled = digits.checked_shl(*two).filter(|v| v >> two == digits);
            match scaled {
                Some(scaled) => multiply_ten(scaled, power + 9),
                // Long fractions: give up the digits that are below the precision first.
                None => {
                    let shorter = multiply_ten(digits, (power + 18).min(0));
                    let rest = power - (power + 18).min(0);
                    match shorter.checked_mul(1_i128 << two) {
                        Some(scaled) => multiply_ten(scaled, rest + 9),
                        None => saturated(digits),
                    }
                }
            }
        }
    }
}

fn clamp(value: i128) -> i64 {
    i64::try_from(value).unwrap_or(if value < 0 { i64::MIN } else { i64::MAX })
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        if self.format == Format::BinarySi && self.is_whole() {
            let mut units = self.nano / NANO;
            if units.unsigned_abs() >= 1024 {
                let mut step = 0;
                while step < BINARY.len() && units % 1024 == 0 {
                    units /= 1024;
                    step += 1;
                }
                let suffix = if step == 0 { "" } else { BINARY[step - 1].0 };
                return write!(f, "{units}{suffix}");
            }
        }
        self.format_decimal(f)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        Self::parse(text)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Add for Quantity {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano + other.nano).clamp(-MAX_NANO, MAX_NANO), format }
    }
}

impl Sub for Quantity {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        let format = if self.nano == 0 { other.format } else { self.format };
        Self { nano: (self.nano - other.nano).clamp(-MAX_NANO, MAX_NANO), format }
    }
}

impl Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(items: I) -> Self {
        items.fold(Self::ZERO, Add::add)
    }
}

/// Rewrites a JSON quantity in canonical form; leaves alone what does not parse.
pub fn canonicalize(value: &mut Value) {
    if let Ok(quantity) = Quantity::from_json(value) {
        *value = Value::String(quantity.to_string());
    }
}

/// Rewrites every value of a resource list (`limits`, `capacity`, `hard`, …) in canonical form,
/// rounded up to thousandths.
pub fn canonicalize_list(list: &mut Value) {
    for value in list.as_object_mut().into_iter().flat_map(|map| map.values_mut()) {
        if let Ok(quantity) = Quantity::from_json(value) {
            let nano = divide_up(quantity.nano, NANO / 1000) * (NANO / 1000);
            *value = Value::String(Quantity { nano, ..quantity }.to_string());
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn canonical_form() {
        let table = [
            ("0", "0"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("256m", "256m"),
            ("100Mi", "100Mi"),
            ("1024Mi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("1500", "1500"),
            ("1000", "1k"),
            ("1e3", "1e3"),
            ("12E", "12E"),
            ("1E3", "1e3"),
            ("100e-3", "100e-3"),
            (".5", "500m"),
            ("5.", "5"),
            ("+1", "1"),
            ("-1.5", "-1500m"),
            ("0.0000000001", "1n"),
            ("1.0000000001", "1000000001n"),
            ("9223372036854775808", "9223372036854775807"),
            ("100Ei", "9223372036854775807"),
            ("0.1Mi", "104857600m"),
            ("1100Ki", "1100Ki"),
        ];
        for (text, canonical) in table {
            assert_eq!(Quantity::parse(text).unwrap().to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn errors() {
        for (text, error) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 Gi", QuantityError::Format),
            ("1Qi", QuantityError::Format),
            ("1mm", QuantityError::Suffix),
            ("1.2.3", QuantityError::Number),
            ("1ki", QuantityError::Suffix),
        ] {
            assert_eq!(Quantity::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn values_and_arithmetic() {
        let cpu = Quantity::parse("256m").unwrap();
        assert_eq!((cpu.milli_value(), cpu.value()), (256, 1));
        assert_eq!(Quantity::parse("100Mi").unwrap().as_bytes(), 104_857_600);
        let sum: Quantity = ["100Mi", "156Mi"].iter().map(|t| Quantity::parse(t).unwrap()).sum();
        assert_eq!(sum.to_string(), "256Mi");
        assert_eq!((Quantity::from_units(2) - Quantity::from_milli(500)).to_string(), "1500m");
        assert!(Quantity::parse("1Gi").unwrap() > Quantity::parse("1G").unwrap());
        assert_eq!(Quantity::from_bytes(2048).to_string(), "2Ki");
    }
}
