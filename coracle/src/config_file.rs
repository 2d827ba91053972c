//! `--config FILE`: the flags of `up` as YAML. The file becomes arguments in front of those that
//! were typed, so that the same parser checks both and typed flags win.

use std::ffi::OsString;
use std::path::PathBuf;

use serde_json::Value;

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// It is no YAML mapping.
    #[error("{path}: {message}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// A value is neither a scalar nor a list of scalars.
    #[error("{path}: {key}: expected a string, number, boolean or list of them")]
    Value {
        /// The file.
        path: PathBuf,
        /// The flag.
        key: String,
    },
}

/// Puts the flags of the file that `--config` names in front of the typed ones.
pub fn expand(arguments: Vec<OsString>) -> Result<Vec<OsString>, ConfigError> {
    let Some(path) = config_path(&arguments) else { return Ok(arguments) };
    let text = std::fs::read_to_string(&path)
        .map_err(|source| ConfigError::Read { path: path.clone(), source })?;
    let flags = flags(&path, &text)?;
    let mut expanded: Vec<OsString> = arguments.iter().take(2).cloned().collect();
    expanded.extend(flags);
    expanded.extend(arguments.into_iter().skip(2));
    Ok(expanded)
}

fn config_path(arguments: &[OsString]) -> Option<PathBuf> {
    if arguments.get(1)? != "up" {
        return None;
    }
    let mut rest = arguments[2..].iter();
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|a| a.strip_prefix("--config=")) {
            return Some(path.into());
        }
    }
    None
}

fn flags(path: &std::path::Path, text: &str) -> Result<Vec<OsString>, ConfigError> {
    let parse_error = |message: String| ConfigError::Parse { path: path.to_owned(), message };
    let document: Value = serde_saphyr::from_str(text).map_err(|e| parse_error(e.to_string()))?;
    let Value::Object(entries) = document else {
        return Err(parse_error("expected a mapping of flags".into()));
    };
    let mut flags = Vec::new();
    for (key, value) in entries {
        let error = || ConfigError::Value { path: path.to_owned(), key: key.clone() };
        match value {
            Value::Null | Value::Bool(false) => {}
            Value::Bool(true) => flags.push(format!("--{key}").into()),
            Value::Array(values) => {
                for value in values {
                    flags.push(format!("--{key}={}", scalar(&value).ok_or_else(error)?).into());
                }
            }
            value => flags.push(format!("--{key}={}", scalar(&value).ok_or_else(error)?).into()),
        }
    }
    Ok(flags)
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_file_becomes_flags() {
        let got = flags(
            std::path::Path::new("c.yaml"),
            "data-dir: /srv/c\nlisten: [127.0.0.1:1, 127.0.0.1:2]\nno-change-cause: true\nnode-ip:\n",
        )
        .unwrap();
        assert_eq!(
            got,
            [
                "--data-dir=/srv/c",
                "--listen=127.0.0.1:1",
                "--listen=127.0.0.1:2",
                "--no-change-cause"
            ]
        );
    }

    #[test]
    fn nested_values_are_refused() {
        let error = flags(std::path::Path::new("c.yaml"), "data-dir: {a: b}").unwrap_err();
        assert_eq!(
            error.to_string(),
            "c.yaml: data-dir: expected a string, number, boolean or list of them"
        );
    }
}
