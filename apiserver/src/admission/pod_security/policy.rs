//! What the labels of a namespace ask for.

use std::fmt;

use api::{ErrorList, FieldError};

const PREFIX: &str = "pod-security.kubernetes.io/";

/// How much is forbidden, the less first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// As of which minor version of Kubernetes 1; none is the latest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version(Option<u32>);

/// A level as of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standard {
    pub(super) level: Level,
    pub(super) version: Version,
}

/// What is refused and what is warned of; nobody reads an audit log here, so `audit` is only
/// checked for mistakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    pub(super) enforce: Standard,
    pub(super) warn: Standard,
}

impl Policy {
    /// Reads labels; one that is not understood counts as the strictest where it enforces, and as
    /// none where it warns.
    pub(super) fn of<'a>(label: impl Fn(&str) -> Option<&'a str>) -> (Self, ErrorList) {
        let mut errors = ErrorList::new();
        let mut mode = |mode: &str, fallback: Level| {
            let (level, version) = (format!("{PREFIX}{mode}"), format!("{PREFIX}{mode}-version"));
            let level = label(&level).map(|text| {
                Level::parse(text).unwrap_or_else(|| {
                    errors.push(not_understood(&level, text, LEVELS));
                    fallback
                })
            });
            let version = label(&version).map(|text| {
                Version::parse(text).unwrap_or_else(|| {
                    errors.push(not_understood(&version, text, VERSIONS));
                    Version(None)
                })
            });
            (level, version)
        };
        let enforce = mode("enforce", Level::Restricted);
        mode("audit", Level::Privileged);
        let warn = mode("warn", Level::Privileged);
        // Who enforces and does not say of what to warn is warned of what would be refused.
        let warn = match warn.0 {
            None if enforce.0.is_some() => (enforce.0, warn.1.or(enforce.1)),
            _ => warn,
        };
        let standard = |(level, version): (Option<Level>, Option<Version>)| Standard {
            level: level.unwrap_or(Level::Privileged),
            version: version.unwrap_or(Version(None)),
        };
        (Self { enforce: standard(enforce), warn: standard(warn) }, errors)
    }

    /// Whether anything can be refused or warned of.
    pub(super) fn asks_for_something(&self) -> bool {
        [self.enforce, self.warn].iter().any(|standard| standard.level != Level::Privileged)
    }
}

const LEVELS: &str = "must be one of privileged, baseline, restricted";
const VERSIONS: &str = "must be \"latest\" or \"v1.x\"";

fn not_understood(label: &str, text: &str, detail: &str) -> FieldError {
    FieldError::invalid(format!("metadata.labels[{label}]"), text, detail)
}

impl Level {
    fn parse(text: &str) -> Option<Self> {
        match text {
            "privileged" => Some(Self::Privileged),
            "baseline" => Some(Self::Baseline),
            "restricted" => Some(Self::Restricted),
            _ => None,
        }
    }
}

impl Version {
    fn parse(text: &str) -> Option<Self> {
        if text == "latest" {
            return Some(Self(None));
        }
        let minor = text.strip_prefix("v1.")?;
        let plain =
            minor.bytes().all(|b| b.is_ascii_digit()) && (minor == "0" || !minor.starts_with('0'));
        minor.parse().ok().filter(|_| plain).map(|minor| Self(Some(minor)))
    }

    /// Whether what came with 1.`minor` counts.
    pub(super) fn has(self, minor: u32) -> bool {
        self.0.is_none_or(|known| known >= minor)
    }
}

impl fmt::Display for Standard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        match self.version.0 {
            Some(minor) => write!(f, "{level}:v1.{minor}"),
            None => write!(f, "{level}:latest"),
        }
    }
}

#[cfg(test)]
impl Standard {
    pub(super) fn latest(level: Level) -> Self {
        Self { level, version: Version(None) }
    }

    pub(super) fn of_minor(level: Level, minor: u32) -> Self {
        Self { level, version: Version(Some(minor)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Labels without their prefix, with their values.
    type Labels = &'static [(&'static str, &'static str)];

    fn policy(labels: &[(&str, &str)]) -> (String, String, Vec<String>) {
        let (policy, errors) = Policy::of(|label| {
            let name = label.strip_prefix(PREFIX)?;
            labels.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
        });
        let errors = errors.iter().map(ToString::to_string).collect();
        (policy.enforce.to_string(), policy.warn.to_string(), errors)
    }

    #[test]
    fn labels_say_level_and_version_of_each_mode() {
        let cases: [(Labels, &str, &str); 5] = [
            (&[], "privileged:latest", "privileged:latest"),
            (&[("enforce", "baseline")], "baseline:latest", "baseline:latest"),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.24"), ("warn", "restricted")],
                "baseline:v1.24",
                "restricted:latest",
            ),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.24")],
                "baseline:v1.24",
                "baseline:v1.24",
            ),
            (
                &[("warn", "restricted"), ("warn-version", "latest")],
                "privileged:latest",
                "restricted:latest",
            ),
        ];
        for (labels, enforce, warn) in cases {
            assert_eq!(policy(labels), (enforce.into(), warn.into(), vec![]), "{labels:?}");
        }
    }

    #[test]
    fn mistakes_are_named_and_enforce_what_is_strictest() {
        let (enforce, warn, errors) =
            policy(&[("enforce", "strict"), ("warn", "x"), ("audit-version", "v1.02")]);
        assert_eq!((enforce.as_str(), warn.as_str()), ("restricted:latest", "privileged:latest"));
        assert_eq!(
            errors,
            [
                "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": \
                 must be one of privileged, baseline, restricted",
                "metadata.labels[pod-security.kubernetes.io/audit-version]: Invalid value: \
                 \"v1.02\": must be \"latest\" or \"v1.x\"",
                "metadata.labels[pod-security.kubernetes.io/warn]: Invalid value: \"x\": must be \
                 one of privileged, baseline, restricted",
            ]
        );
    }
}
