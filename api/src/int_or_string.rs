//! Numbers that may also be percentages (upstream `k8s.io/apimachinery/pkg/util/intstr`).

use serde_json::Value;

/// A JSON number or text, such as `1` or `"25%"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A percentage or a name.
    String(String),
}

/// The text is no percentage.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PercentError {
    /// It does not end in `%`.
    #[error("invalid value for IntOrString: invalid type: string is not a percentage")]
    NotAPercentage,
    /// What stands before `%` is no number.
    #[error("invalid value for IntOrString: invalid value {0:?}: not a number")]
    NotANumber(String),
    /// The value is absent.
    #[error("nil value for IntOrString")]
    Absent,
}

impl IntOrString {
    /// Reads JSON; `None` for anything but a number or a string.
    pub fn from_json(value: &Value) -> Option<Self> {
        match value {
            Value::Number(number) => number.as_i64().map(Self::Int),
            Value::String(text) => Some(Self::String(text.clone())),
            _ => None,
        }
    }

    /// The percentage, when it is one.
    pub fn percent(&self) -> Option<i64> {
        match self {
            Self::Int(_) => None,
            Self::String(text) => text.strip_suffix('%')?.parse().ok(),
        }
    }

    /// The number, or the percentage of `total` rounded up or down
    /// (upstream `GetScaledValueFromIntOrPercent`).
    pub fn scaled(&self, total: i64, round_up: bool) -> Result<i64, PercentError> {
        match self {
            Self::Int(number) => Ok(*number),
            Self::String(text) => {
                let digits = text.strip_suffix('%').ok_or(PercentError::NotAPercentage)?;
                let percent: i64 =
                    digits.parse().map_err(|_| PercentError::NotANumber(text.clone()))?;
                let product = i128::from(percent) * i128::from(total);
                let scaled = if round_up {
                    product.div_euclid(100) + i128::from(product.rem_euclid(100) != 0)
                } else {
                    product.div_euclid(100)
                };
                Ok(i64::try_from(scaled).unwrap_or(i64::MAX))
            }
        }
    }
}

impl From<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString> for IntOrString {
    fn from(value: &k8s_openapi::apimachinery::pkg::util::intstr::IntOrString) -> Self {
        use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString as Typed;
        match value {
            Typed::Int(number) => Self::Int(i64::from(*number)),
            Typed::String(text) => Self::String(text.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scaling() {
        for (text, total, up, expected) in [
            ("25%", 3, true, Ok(1)),
            ("25%", 3, false, Ok(0)),
            ("25%", 10, true, Ok(3)),
            ("25%", 10, false, Ok(2)),
            ("100%", 7, false, Ok(7)),
            ("0%", 7, true, Ok(0)),
            ("3", 7, true, Err(PercentError::NotAPercentage)),
            ("x%", 7, true, Err(PercentError::NotANumber("x%".into()))),
        ] {
            assert_eq!(IntOrString::String(text.into()).scaled(total, up), expected, "{text}");
        }
        assert_eq!(IntOrString::Int(4).scaled(1, true), Ok(4));
    }
}
