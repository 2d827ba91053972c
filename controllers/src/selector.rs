//! Matching of label selectors as objects carry them.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels as metadata holds them.
pub type Labels = BTreeMap<String, String>;

/// Whether `selector` names no requirement, so that it would match everything.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Whether `selector` matches `labels`. An unknown operator matches nothing.
pub fn matches(selector: &LabelSelector, labels: Option<&Labels>) -> bool {
    let value = |key: &str| labels.and_then(|labels| labels.get(key));
    if let Some(wanted) = &selector.match_labels
        && !matches_map(wanted, labels)
    {
        return false;
    }
    selector.match_expressions.iter().flatten().all(|requirement| {
        let listed =
            |found: &String| requirement.values.iter().flatten().any(|value| value == found);
        match requirement.operator.as_str() {
            "In" => value(&requirement.key).is_some_and(listed),
            "NotIn" => !value(&requirement.key).is_some_and(listed),
            "Exists" => value(&requirement.key).is_some(),
            "DoesNotExist" => value(&requirement.key).is_none(),
            _ => false,
        }
    })
}

/// Whether `labels` hold every entry of `wanted`.
pub fn matches_map(wanted: &Labels, labels: Option<&Labels>) -> bool {
    wanted.iter().all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_matches_as_upstream() {
        let labels: Labels = [("app".to_owned(), "nginx".to_owned())].into();
        let table = [
            (r#"{}"#, true),
            (r#"{"matchLabels":{"app":"nginx"}}"#, true),
            (r#"{"matchLabels":{"app":"nginx","tier":"web"}}"#, false),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"In","values":["a","nginx"]}]}"#,
                true,
            ),
            (
                r#"{"matchExpressions":[{"key":"app","operator":"NotIn","values":["nginx"]}]}"#,
                false,
            ),
            (r#"{"matchExpressions":[{"key":"tier","operator":"NotIn","values":["web"]}]}"#, true),
            (r#"{"matchExpressions":[{"key":"app","operator":"Exists"}]}"#, true),
            (r#"{"matchExpressions":[{"key":"tier","operator":"Exists"}]}"#, false),
            (r#"{"matchExpressions":[{"key":"tier","operator":"DoesNotExist"}]}"#, true),
        ];
        for (text, expected) in table {
            let selector: LabelSelector = serde_json::from_str(text).unwrap();
            assert_eq!(matches(&selector, Some(&labels)), expected, "{text}");
        }
    }
}
