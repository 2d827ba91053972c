//! Label selectors: what they are, where they come from and what they match.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use super::parser;
use crate::field_error::{ErrorList, FieldError};
use crate::names;

/// A conjunction of requirements; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    matches_nothing: bool,
}

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Requirement {
    key: String,
    operator: Operator,
    values: BTreeSet<String>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// `key in (a,b)`
    In,
    /// `key notin (a,b)`
    NotIn,
    /// `key=a`
    Equals,
    /// `key==a`
    DoubleEquals,
    /// `key!=a`
    NotEquals,
    /// `key`
    Exists,
    /// `!key`
    DoesNotExist,
    /// `key>1`
    GreaterThan,
    /// `key<1`
    LessThan,
}

/// Why a selector is not one, in upstream's words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub(super) String);

impl LabelSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches no object.
    pub fn nothing() -> Self {
        Self { requirements: Vec::new(), matches_nothing: true }
    }

    /// Reads the form of `kubectl -l`: `app=nginx,tier in (a,b),!canary`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut requirements = parser::parse(text)?;
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, matches_nothing: false })
    }

    /// Reads a `metav1.LabelSelector` in JSON. Null matches nothing and an empty object matches
    /// everything, as upstream has it.
    pub fn from_json(value: &Value) -> Result<Self, SelectorError> {
        if value.is_null() {
            return Ok(Self::nothing());
        }
        let mut requirements = Vec::new();
        if let Some(labels) = value["matchLabels"].as_object() {
            for (key, value) in labels {
                let value = value.as_str().unwrap_or_default().to_owned();
                requirements.push(Requirement::new(key, Operator::In, [value], None)?);
            }
        }
        for expression in value["matchExpressions"].as_array().into_iter().flatten() {
            let values = expression["values"].as_array().into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned);
            let operator = Operator::from_api(expression["operator"].as_str().unwrap_or_default())?;
            let key = expression["key"].as_str().unwrap_or_default();
            requirements.push(Requirement::new(key, operator, values, None)?);
        }
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        Ok(Self { requirements, matches_nothing: false })
    }

    /// A selector of exact labels, without checks (Services, ReplicationControllers).
    pub fn from_labels<'a>(labels: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let requirements = labels
            .into_iter()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                operator: Operator::Equals,
                values: BTreeSet::from([value.clone()]),
            })
            .collect();
        Self { requirements, matches_nothing: false }
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.matches_with(|key| labels.get(key).map(String::as_str))
    }

    /// As [`LabelSelector::matches`], for labels in JSON (`metadata.labels`; null has none).
    pub fn matches_json(&self, labels: &Value) -> bool {
        self.matches_with(|key| labels.get(key).and_then(Value::as_str))
    }

    /// As [`LabelSelector::matches`], with labels behind a look-up, which is asked for the keys of a
    /// parsed selector in ascending order.
    pub fn matches_with<'a>(&self, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> bool {
        !self.matches_nothing && self.requirements.iter().all(|r| r.matches(lookup(&r.key)))
    }

    /// Whether it selects everything.
    pub fn is_everything(&self) -> bool {
        self.requirements.is_empty() && !self.matches_nothing
    }

    /// The requirements, sorted by key.
    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl Operator {
    fn from_api(name: &str) -> Result<Self, SelectorError> {
        match name {
            "In" => Ok(Self::In),
            "NotIn" => Ok(Self::NotIn),
            "Exists" => Ok(Self::Exists),
            "DoesNotExist" => Ok(Self::DoesNotExist),
            _ => Err(SelectorError(format!("{name:?} is not a valid label selector operator"))),
        }
    }
}

impl Requirement {
    /// A checked requirement. `path` names the field in errors; the string form has none, which
    /// Go prints as `<nil>`.
    pub(super) fn new(
        key: &str,
        operator: Operator,
        values: impl IntoIterator<Item = String>,
        path: Option<&str>,
    ) -> Result<Self, SelectorError> {
        let values: BTreeSet<String> = values.into_iter().collect();
        let prefix = path.map(|p| format!("{p}.")).unwrap_or_default();
        let mut errors = ErrorList::new();
        let messages = names::label_key(key);
        if !messages.is_empty() {
            let field = path.map_or_else(|| "<nil>".to_owned(), |p| format!("{p}.key"));
            errors.push(FieldError::invalid(field, key, messages.join("; ")));
        }
        let list = || Value::from(values.iter().cloned().collect::<Vec<_>>());
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                let detail = "for 'in', 'notin' operators, values set can't be empty";
                errors.push(FieldError::invalid(format!("{prefix}values"), list(), detail));
            }
            Operator::Equals | Operator::DoubleEquals | Operator::NotEquals
                if values.len() != 1 =>
            {
                let detail = "exact-match compatibility requires one single value";
                errors.push(FieldError::invalid(format!("{prefix}values"), list(), detail));
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                let detail = "values set must be empty for exists and does not exist";
                errors.push(FieldError::invalid(format!("{prefix}values"), list(), detail));
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    let detail = "for 'Gt', 'Lt' operators, exactly one value is required";
                    errors.push(FieldError::invalid(format!("{prefix}values"), list(), detail));
                }
                for (index, value) in values.iter().enumerate() {
                    if value.parse::<i64>().is_err() {
                        let field = format!("{prefix}values[{index}]");
                        let detail = "for 'Gt', 'Lt' operators, the value must be an integer";
                        errors.push(FieldError::invalid(field, value.clone(), detail));
                    }
                }
            }
            _ => {}
        }
        for (index, value) in values.iter().enumerate() {
            let messages = names::label_value(value);
            if !messages.is_empty() {
                let field = format!("{prefix}values[{index}][{key}]");
                errors.push(FieldError::invalid(field, value.clone(), messages.join("; ")));
            }
        }
        match &*errors {
            [] => Ok(Self { key: key.to_owned(), operator, values }),
            [one] => Err(SelectorError(one.to_string())),
            many => {
                let texts: Vec<String> = many.iter().map(FieldError::to_string).collect();
                Err(SelectorError(format!("[{}]", texts.join(", "))))
            }
        }
    }

    /// The label's key.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// The comparison.
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// The values compared with.
    pub fn values(&self) -> &BTreeSet<String> {
        &self.values
    }

    fn matches(&self, value: Option<&str>) -> bool {
        match self.operator {
            Operator::In | Operator::Equals | Operator::DoubleEquals => {
                value.is_some_and(|v| self.values.contains(v))
            }
            Operator::NotIn | Operator::NotEquals => value.is_none_or(|v| !self.values.contains(v)),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
                    (Some(value), Some(bound)) if self.operator == Operator::GreaterThan => {
                        value > bound
                    }
                    (Some(value), Some(bound)) => value < bound,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let values = self.values.iter().cloned().collect::<Vec<_>>().join(",");
        match self.operator {
            Operator::In => write!(f, "{key} in ({values})"),
            Operator::NotIn => write!(f, "{key} notin ({values})"),
            Operator::Equals => write!(f, "{key}={values}"),
            Operator::DoubleEquals => write!(f, "{key}=={values}"),
            Operator::NotEquals => write!(f, "{key}!={values}"),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{values}"),
            Operator::LessThan => write!(f, "{key}<{values}"),
        }
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.requirements.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            requirement.fmt(f)?;
        }
        Ok(())
    }
}

/// A `metav1.LabelSelector` in JSON as `kubectl get -o wide` shows it
/// (upstream `metav1.FormatLabelSelector`).
pub fn format_json(selector: &Value) -> String {
    match LabelSelector::from_json(selector) {
        Ok(parsed) if parsed.requirements.is_empty() => "<none>".to_owned(),
        Ok(mut parsed) => {
            for requirement in &mut parsed.requirements {
                // matchLabels print as equality there.
                let single = requirement.values.len() == 1;
                let from_labels = selector["matchLabels"].get(&requirement.key).is_some();
                if single && from_labels && requirement.operator == Operator::In {
                    requirement.operator = Operator::Equals;
                }
            }
            parsed.to_string()
        }
        Err(_) => "<error>".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn labels(text: &str) -> BTreeMap<String, String> {
        text.split(',')
            .filter(|t| !t.is_empty())
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .collect()
    }

    #[test]
    fn matching() {
        for (selector, object, expected) in [
            ("", "x=y", true),
            ("x=y", "x=y", true),
            ("x==y", "x=y", true),
            ("x=y,z=w", "x=y,z=w", true),
            ("x!=y,z!=w", "x=z,z=a", true),
            ("x!=y", "", true),
            ("x=", "x=", true),
            ("x=", "x=1", false),
            ("notin in (a,b)", "notin=a", true),
            ("x in (y,z)", "x=z", true),
            ("x in (y,z)", "x=w", false),
            ("x notin (y,z)", "x=w", true),
            ("x notin (y,z)", "", true),
            ("x", "x=", true),
            ("!x", "x=", false),
            ("!x", "y=1", true),
            ("x>1", "x=2", true),
            ("x>1", "x=1", false),
            ("x<1", "x=0", true),
            (" x = y , z ", "x=y,z=1", true),
            ("x in (a,,b)", "x=", true),
        ] {
            let parsed = LabelSelector::parse(selector).unwrap();
            assert_eq!(parsed.matches(&labels(object)), expected, "{selector:?} on {object:?}");
        }
    }

    #[test]
    fn errors() {
        for (selector, error) in [
            ("x=y,", "found '', expected: identifier after ','"),
            (",x", "found ',', expected: !, identifier, or 'end of string'"),
            ("x=y z", "found 'z', expected: ',' or 'end of string'"),
            (
                "x y",
                "unable to parse requirement: found 'y', expected: in, notin, =, ==, !=, gt, lt",
            ),
            ("x in a", "unable to parse requirement: found 'a' expected: '('"),
            ("x in (a", "unable to parse requirement: found '', expected: ',' or ')'"),
            (
                "x in ()",
                "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
            ),
            (
                "x=-a",
                "unable to parse requirement: values[0][x]: Invalid value: \"-a\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
            ),
            (
                "x>a",
                "unable to parse requirement: values[0]: Invalid value: \"a\": for 'Gt', 'Lt' operators, the value must be an integer",
            ),
        ] {
            assert_eq!(
                LabelSelector::parse(selector).unwrap_err().to_string(),
                error,
                "{selector}"
            );
        }
    }

    #[test]
    fn from_api_objects() {
        let selector = json!({"matchLabels": {"app": "nginx"},
            "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["b", "a"]}]});
        let parsed = LabelSelector::from_json(&selector).unwrap();
        assert!(parsed.matches(&labels("app=nginx")));
        assert!(!parsed.matches(&labels("app=nginx,tier=a")));
        assert_eq!(format_json(&selector), "app=nginx,tier notin (a,b)");
        assert_eq!(format_json(&json!({})), "<none>");
        assert!(!LabelSelector::from_json(&Value::Null).unwrap().matches(&labels("")));
        assert_eq!(
            LabelSelector::from_json(&json!({"matchExpressions": [{"key": "a", "operator": "x"}]}))
                .unwrap_err()
                .to_string(),
            "\"x\" is not a valid label selector operator"
        );
    }
}
