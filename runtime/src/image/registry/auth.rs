//! Logins at registries: Basic, and tokens of the distribution project.

use reqwest::header::{HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Response, StatusCode, Url};
use serde::Deserialize;

use super::{Client, MAX_TOKEN_BYTES, RegistryError, speaks_plain_http, within};

/// The authentication that a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// The user name and password.
    Basic,
    /// A token of the server `realm`.
    Bearer {
        /// The URL of the token server.
        realm: String,
        /// The name of the registry there.
        service: Option<String>,
    },
}

impl Challenge {
    /// Returns what a response asks for; a token is preferred.
    pub(super) fn of(response: &Response) -> Option<Self> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        let all: Vec<Self> = headers.filter_map(Self::read).collect();
        let is_bearer = |challenge: &Self| matches!(challenge, Self::Bearer { .. });
        let best = all.iter().position(is_bearer).unwrap_or(0);
        all.into_iter().nth(best)
    }

    fn read(header: &HeaderValue) -> Option<Self> {
        let mut found = None;
        for challenge in http_auth::parser::ChallengeParser::new(header.to_str().ok()?).flatten() {
            if challenge.scheme.eq_ignore_ascii_case("basic") {
                found.get_or_insert(Self::Basic);
            }
            let parameter = |name: &str| {
                let mut all = challenge.params.iter();
                all.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, v)| v.to_unescaped())
            };
            if challenge.scheme.eq_ignore_ascii_case("bearer")
                && let Some(realm) = parameter("realm")
            {
                return Some(Self::Bearer { realm, service: parameter("service") });
            }
        }
        found
    }
}

/// The answer of a token server.
#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

impl Client<'_> {
    /// Returns what to send as `Authorization`; `None` where there is no login to send.
    pub(super) async fn answer(
        &self,
        challenge: &Challenge,
    ) -> Result<Option<HeaderValue>, RegistryError> {
        match challenge {
            // The registry's own URL is plain HTTP only where that is configured.
            Challenge::Basic => {
                let Some(login) = self.credentials else { return Ok(None) };
                let request = self
                    .http
                    .get(self.base.clone())
                    .basic_auth(&login.username, Some(&login.password))
                    .build()
                    .map_err(|e| RegistryError::Client(e.to_string()))?;
                Ok(request.headers().get(reqwest::header::AUTHORIZATION).cloned())
            }
            Challenge::Bearer { realm, service } => {
                let url = realm_url(realm, &self.base, self.plain_http)?;
                self.token(url, service.as_deref()).await.map(Some)
            }
        }
    }

    async fn token(&self, url: Url, service: Option<&str>) -> Result<HeaderValue, RegistryError> {
        let kind = if self.credentials.is_some() { "oauth" } else { "anonymous" };
        let failed = |text: String| format!("failed to fetch {kind} token: {text}");
        let scope = format!("repository:{}:pull", self.repository);
        let mut request = self.http.get(url.clone()).query(&[("scope", scope.as_str())]);
        if let Some(service) = service {
            request = request.query(&[("service", service)]);
        }
        if let Some(login) = self.credentials {
            request = request.basic_auth(&login.username, Some(&login.password));
        }
        let response =
            within(async { request.send().await.map_err(|error| super::failed(&url, error)) })
                .await
                // The token server is not the registry.
                .map_err(|error| RegistryError::Refused(failed(error.to_string())))?;
        if response.status() != StatusCode::OK {
            return Err(match self.refusal(response).await {
                RegistryError::NotFound => RegistryError::Denied(failed("not found".into())),
                other => RegistryError::Denied(failed(other.to_string())),
            });
        }
        let body = within(self.bounded(response, MAX_TOKEN_BYTES)).await?;
        let invalid = |text: &str| RegistryError::Corrupt(failed(text.to_owned()));
        let token: Token = serde_json::from_slice(&body)
            .map_err(|_| invalid("unable to decode token response"))?;
        let token = token.token.or(token.access_token).filter(|token| !token.is_empty());
        let token = token.ok_or_else(|| {
            invalid("authorization server did not include a token in the response")
        })?;
        let mut value = HeaderValue::try_from(format!("Bearer {token}"))
            .map_err(|_| invalid("the token is no value of a header"))?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The URL of a token server, if a login may go there: over HTTPS, or over plain HTTP where both the
/// registry and the token server speak that by configuration or on this machine.
fn realm_url(realm: &str, registry: &Url, plain_http: &[String]) -> Result<Url, RegistryError> {
    let refused = |why: &str| RegistryError::Refused(format!("token server {realm:?}: {why}"));
    let url = Url::parse(realm).map_err(|_| refused("invalid URL"))?;
    let host = match (url.host_str(), url.port()) {
        (Some(host), Some(port)) => format!("{host}:{port}"),
        (Some(host), None) => host.to_owned(),
        (None, _) => return Err(refused("invalid URL")),
    };
    let is_plain = registry.scheme() == "http"
        && url.scheme() == "http"
        && (speaks_plain_http(&host, plain_http) || url.origin() == registry.origin());
    if url.scheme() == "https" || is_plain { Ok(url) } else { Err(refused("it is not HTTPS")) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let read = |text: &'static str| Challenge::read(&HeaderValue::from_static(text));
        assert_eq!(read("Basic realm=\"x\""), Some(Challenge::Basic));
        assert_eq!(read("Digest realm=\"x\""), None);
        assert_eq!(read("Bearer"), None);
        assert_eq!(
            read("Basic realm=\"x\", bearer realm=\"https://a/t\",service=\"s\\\"\""),
            Some(Challenge::Bearer { realm: "https://a/t".into(), service: Some("s\"".into()) })
        );
    }

    #[test]
    fn logins_go_to_safe_token_servers_only() {
        let configured = ["plain.example:5000".to_owned(), "auth.example".to_owned()];
        let is_allowed = |registry: &str, realm: &str| {
            realm_url(realm, &Url::parse(registry).unwrap(), &configured).is_ok()
        };
        for realm in ["https://auth.other/token", "https://r.example/token"] {
            assert!(is_allowed("https://r.example/v2/", realm), "{realm}");
            assert!(is_allowed("http://127.0.0.1:5000/v2/", realm), "{realm}");
        }
        let bad = [
            "http://auth.example/t",
            "http://127.0.0.1:1/t",
            "http://r.example/t",
            "ftp://r.example/",
            "/t",
            "file:///etc/shadow",
        ];
        for realm in bad {
            assert!(!is_allowed("https://r.example/v2/", realm), "{realm}");
        }
        let plain = "http://plain.example:5000/v2/";
        for realm in ["http://plain.example:5000/t", "http://auth.example/t"] {
            assert!(is_allowed(plain, realm), "{realm}");
        }
        for realm in ["http://192.0.2.20:7000/token", "http://auth.example:81/t"] {
            assert!(!is_allowed(plain, realm), "{realm}");
        }
    }
}
