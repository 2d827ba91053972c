//! The refusals of registries, as much of them as may be shown.
//!
//! An image's name leads the node to any address, those that only the node reaches among them. So
//! nothing of a body is shown but the words of a well-formed document of registry errors.

use reqwest::{StatusCode, Url};
use serde::Deserialize;

use super::RegistryError;
use crate::printable::line;

/// Bytes of a registry's own words in an error.
const MAX_WORDS_BYTES: usize = 256;

/// <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#error-codes>
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Error>,
}

#[derive(Deserialize)]
struct Error {
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// Returns the error for a response without success, in the words of containerd.
pub(super) fn read(status: StatusCode, method: &str, url: &Url, body: &[u8]) -> RegistryError {
    let words = words(body);
    match status {
        StatusCode::NOT_FOUND => RegistryError::NotFound,
        StatusCode::UNAUTHORIZED => RegistryError::Denied(match words {
            Some(words) => format!("server message: {words}: authorization failed"),
            None => "authorization failed".to_owned(),
        }),
        _ => {
            let text = format!("unexpected status from {method} request to {url}: {status}");
            RegistryError::Refused(match words {
                Some(words) => format!("{text} - Server message: {words}"),
                None => text,
            })
        }
    }
}

/// Codes and messages of a document of registry errors.
fn words(body: &[u8]) -> Option<String> {
    let document: Errors = serde_json::from_slice(body).ok()?;
    let is_code = |code: &str| {
        !code.is_empty() && code.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    if document.errors.is_empty() || !document.errors.iter().all(|error| is_code(&error.code)) {
        return None;
    }
    let one = |error: &Error| {
        let code = error.code.to_ascii_lowercase().replace('_', " ");
        match error.message.as_deref() {
            None | Some("") => code,
            Some(message) => format!("{code}: {message}"),
        }
    };
    let all: Vec<String> = document.errors.iter().map(one).collect();
    Some(line(&all.join(", "), MAX_WORDS_BYTES))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn text(status: u16, body: &str) -> String {
        let url = Url::parse("http://127.0.0.1:5059/v2/x/manifests/latest").unwrap();
        read(StatusCode::from_u16(status).unwrap(), "GET", &url, body.as_bytes()).to_string()
    }

    const PLAIN: &str = "unexpected status from GET request to \
                         http://127.0.0.1:5059/v2/x/manifests/latest: 403 Forbidden";

    #[test]
    fn bodies_are_not_shown() {
        for body in [
            "aws-secret-key=1",
            "{\"secret\": \"s\"}",
            "{\"errors\": []}",
            "{\"errors\": [{\"message\": \"secret\"}]}",
            "{\"errors\": [{\"code\": \"a secret\"}]}",
            "",
        ] {
            assert_eq!(text(403, body), PLAIN, "{body}");
        }
    }

    #[test]
    fn words_of_registries_are_shown() {
        let body = r#"{"errors": [{"code": "DENIED", "message": "not\n\u001b[31mthis"}, {"code": "TOOMANYREQUESTS", "detail": "secret"}]}"#;
        let words = "denied: not\\n\\u{1b}[31mthis, toomanyrequests";
        assert_eq!(text(403, body), format!("{PLAIN} - Server message: {words}"));
        assert_eq!(text(401, body), format!("server message: {words}: authorization failed"));
        assert_eq!(text(401, "x"), "authorization failed");
        assert_eq!(text(404, body), "not found");
    }

    #[test]
    fn words_of_registries_are_cut() {
        let long = format!(r#"{{"errors": [{{"code": "A", "message": "{}"}}]}}"#, "m".repeat(7000));
        assert_eq!(text(500, &long).len(), text(500, "").len() + " - Server message: ".len() + 256);
    }
}
