//! The file that points kubectl at this cluster.

use std::fs;
use std::io;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::PkiError;
use super::files::{self, Owner};

/// One cluster, one user and the context that joins them.
#[derive(Clone)]
pub struct Kubeconfig {
    /// The name of the cluster and of the context.
    pub cluster: String,
    /// The name of the user entry.
    pub user: String,
    /// `https://127.0.0.1:6443`.
    pub server: String,
    /// The certificate authority of the server.
    pub authority_pem: String,
    /// The client certificate.
    pub certificate_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl Kubeconfig {
    fn cluster_entry(&self) -> Value {
        json!({ "name": self.cluster, "cluster": {
            "certificate-authority-data": STANDARD.encode(&self.authority_pem),
            "server": self.server,
        }})
    }

    fn user_entry(&self) -> Value {
        json!({ "name": self.user, "user": {
            "client-certificate-data": STANDARD.encode(&self.certificate_pem),
            "client-key-data": STANDARD.encode(&self.key_pem),
        }})
    }

    fn context_entry(&self) -> Value {
        json!({ "name": self.cluster, "context": { "cluster": self.cluster, "user": self.user } })
    }

    /// The whole file, YAML.
    pub fn to_yaml(&self) -> String {
        yaml(&merged(Map::new(), self))
    }

    /// Writes the file with mode 0600, unless it says the same already.
    pub fn write(&self, path: &Path) -> Result<(), PkiError> {
        let text = self.to_yaml();
        if fs::read_to_string(path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        write(path, &text, None)
    }
}

/// Adds the cluster to the kubeconfig at `path` (`~/.kube/config`), keeping whatever else is in
/// there, and makes it the current context. The file stays its owner's; a new one belongs to the
/// owner of the directory.
pub fn merge_into(path: &Path, config: &Kubeconfig) -> Result<(), PkiError> {
    let damaged = |why: String| PkiError::Kubeconfig(path.to_owned(), why);
    let old = match fs::read_to_string(path) {
        Ok(text) if text.trim().is_empty() => Map::new(),
        Ok(text) => match serde_saphyr::from_str::<Value>(&text) {
            Ok(Value::Object(map)) => map,
            Ok(_) => return Err(damaged("it is not a mapping".to_owned())),
            Err(error) => return Err(damaged(error.to_string())),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(error) => return Err(PkiError::Read(path.to_owned(), error)),
    };
    write(path, &yaml(&merged(old, config)), files::owner_of(path))
}

fn write(path: &Path, text: &str, owner: Option<Owner>) -> Result<(), PkiError> {
    if let Some(dir) = path.parent() {
        files::create_dirs_as(dir, owner)
            .map_err(|error| PkiError::CreateDir(dir.to_owned(), error))?;
    }
    files::replace_as(path, text.as_bytes(), owner)
        .map_err(|error| PkiError::Write(path.to_owned(), error))
}

fn merged(mut file: Map<String, Value>, config: &Kubeconfig) -> Value {
    file.insert("apiVersion".to_owned(), json!("v1"));
    file.insert("kind".to_owned(), json!("Config"));
    file.entry("preferences").or_insert_with(|| json!({}));
    for (list, entry) in [
        ("clusters", config.cluster_entry()),
        ("contexts", config.context_entry()),
        ("users", config.user_entry()),
    ] {
        let slot = file.entry(list).or_insert_with(|| json!([]));
        if !slot.is_array() {
            *slot = json!([]);
        }
        if let Value::Array(entries) = slot {
            match entries.iter_mut().find(|e| e["name"] == entry["name"]) {
                Some(old) => *old = entry,
                None => entries.push(entry),
            }
        }
    }
    file.insert("current-context".to_owned(), json!(config.cluster));
    Value::Object(file)
}

/// JSON is YAML, and kubectl rewrites the file in block style at its first `config set`; but people
/// read this file, so it is block style from the start.
fn yaml(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (at, (key, value)) in map.iter().enumerate() {
                // The first key of a list entry stands behind its dash.
                if at > 0 || !text.ends_with("- ") {
                    text.push_str(&indent);
                }
                text.push_str(&scalar(&Value::String(key.clone())));
                text.push(':');
                nested(value, depth, text);
            }
        }
        Value::Array(entries) if !entries.is_empty() => {
            for entry in entries {
                text.push_str(&indent);
                text.push_str("- ");
                match entry {
                    Value::Object(map) if !map.is_empty() => block(entry, depth + 1, text),
                    _ => {
                        text.push_str(&scalar(entry));
                        text.push('\n');
                    }
                }
            }
        }
        _ => {
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
}

fn nested(value: &Value, depth: usize, text: &mut String) {
    match value {
        Value::Object(map) if !map.is_empty() => {
            text.push('\n');
            block(value, depth + 1, text);
        }
        Value::Array(entries) if !entries.is_empty() => {
            text.push('\n');
            block(value, depth, text);
        }
        _ => {
            text.push(' ');
            text.push_str(&scalar(value));
            text.push('\n');
        }
    }
}

/// A plain word where YAML lets it stand bare, else JSON, which YAML reads too.
fn scalar(value: &Value) -> String {
    match value {
        Value::String(s) if is_plain(s) => s.clone(),
        other => other.to_string(),
    }
}

fn is_plain(s: &str) -> bool {
    let safe = |c: char| c.is_ascii_alphanumeric() || "-_./:+=@".contains(c);
    s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.chars().all(safe)
        && !s.ends_with(':')
        && !["true", "false", "null", "yes", "no", "on", "off", "y", "n"]
            .contains(&s.to_ascii_lowercase().as_str())
}
