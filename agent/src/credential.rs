//! Which of the credentials in pull secrets fit an image, by the rules of the kubelet's keyring.

use crate::objects::Payload;

/// A user name and password (or identity token) for registries.
#[derive(Clone, PartialEq, Eq)]
pub struct Credential {
    /// Where it is good: a host pattern with an optional port and path, as the secret names it.
    pub location: String,
    /// User name.
    pub username: String,
    /// Password or token.
    pub password: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credential").field("location", &self.location).finish_non_exhaustive()
    }
}

/// The registry that short names mean, as `docker login` writes it.
const DEFAULT_REGISTRY: &str = "index.docker.io";

/// Credentials in a `kubernetes.io/dockerconfigjson` (or the older `dockercfg`) secret.
pub fn in_secret(secret: &Payload) -> Vec<Credential> {
    use base64::Engine;
    let read = |key: &str| {
        let bytes = secret.data.get(key)?;
        serde_json::from_slice::<serde_json::Value>(bytes).ok()
    };
    let entries = read(".dockerconfigjson").map(|config| config["auths"].clone());
    let Some(entries) = entries.or_else(|| read(".dockercfg")) else { return Vec::new() };
    let entries = entries.as_object().cloned().unwrap_or_default();
    let mut found = Vec::new();
    for (location, entry) in entries {
        let text = |key: &str| entry[key].as_str().map(ToOwned::to_owned);
        let pair = text("username").zip(text("password")).or_else(|| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
            let decoded = String::from_utf8(bytes).ok()?;
            let (username, password) = decoded.split_once(':')?;
            Some((username.to_owned(), password.to_owned()))
        });
        if let Some((username, password)) = pair {
            found.push(Credential { location, username, password });
        }
    }
    found
}

/// The credentials that fit `registry/repository`, the most specific location first.
pub fn fitting(credentials: &[Credential], registry: &str, repository: &str) -> Vec<Credential> {
    let registry = if registry == "docker.io" { DEFAULT_REGISTRY } else { registry };
    let mut found: Vec<(String, Credential)> = credentials
        .iter()
        .map(|credential| (normal(&credential.location), credential.clone()))
        .filter(|(location, _)| fits(location, registry, repository))
        .collect();
    found.sort_by(|(a, _), (b, _)| b.cmp(a));
    found.into_iter().map(|(_, credential)| credential).collect()
}

/// `host[:port][/path]`: without scheme, and without the version of the registry protocol.
fn normal(location: &str) -> String {
    let rest = location.split_once("://").map_or(location, |(_, rest)| rest);
    let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = match path.split_once('/') {
        Some(("v1" | "v2", path)) => path,
        _ if matches!(path, "v1" | "v2") => "",
        _ => path,
    };
    let host = if host == "docker.io" { DEFAULT_REGISTRY } else { host };
    format!("{host}/{path}").trim_end_matches('/').to_owned()
}

fn fits(location: &str, registry: &str, repository: &str) -> bool {
    let (host, path) = location.split_once('/').unwrap_or((location, ""));
    let (host, port) = host_and_port(host);
    let (wanted_host, wanted_port) = host_and_port(registry);
    let parts: Vec<&str> = host.split('.').collect();
    let wanted: Vec<&str> = wanted_host.split('.').collect();
    port == wanted_port
        && parts.len() == wanted.len()
        && parts.iter().zip(&wanted).all(|(pattern, part)| glob(pattern, part))
        && repository.starts_with(path)
}

fn host_and_port(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        // The colons of an IPv6 address are followed by its bracket.
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (text, ""),
    }
}

/// `*` stands for any characters, `?` for one.
fn glob(pattern: &str, text: &str) -> bool {
    let Some(first) = pattern.chars().next() else { return text.is_empty() };
    let rest = &pattern[first.len_utf8()..];
    match first {
        '*' => {
            let ends = text.char_indices().map(|(at, _)| at).chain([text.len()]);
            ends.into_iter().any(|at| glob(rest, &text[at..]))
        }
        _ => text
            .chars()
            .next()
            .is_some_and(|c| (first == '?' || first == c) && glob(rest, &text[c.len_utf8()..])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(location: &str) -> Credential {
        Credential { location: location.into(), username: "u".into(), password: "p".into() }
    }

    #[test]
    fn secrets_of_both_kinds() {
        let json = br#"{"auths": {"r.example": {"auth": "dTpw"},
            "s": {"username": "a", "password": "b"}}}"#;
        let old = br#"{"r.example": {"auth": "dTpw"}}"#;
        let read = |key: &str, json: &[u8]| {
            let data = [(key.to_owned(), json.to_vec())].into_iter().collect();
            let found = in_secret(&Payload { data }).into_iter();
            found.map(|c| format!("{} {} {}", c.location, c.username, c.password)).collect()
        };
        let new: Vec<String> = read(".dockerconfigjson", json);
        assert_eq!(new, ["r.example u p", "s a b"]);
        let old: Vec<String> = read(".dockercfg", old);
        assert_eq!(old, ["r.example u p"]);
        let none: Vec<String> = read(".dockerconfigjson", b"{");
        assert!(none.is_empty());
    }

    #[test]
    fn locations_that_fit() {
        for (location, registry, repository, expected) in [
            ("https://index.docker.io/v1/", "docker.io", "library/nginx", true),
            ("docker.io", "docker.io", "library/nginx", true),
            ("r.example", "docker.io", "library/nginx", false),
            ("r.example", "r.example", "a/b", true),
            ("https://r.example/v2/", "r.example", "a/b", true),
            ("r.example/a", "r.example", "a/b", true),
            ("r.example/c", "r.example", "a/b", false),
            ("r.example", "r.example:5000", "a", false),
            ("127.0.0.1:5000", "127.0.0.1:5000", "a", true),
            ("*.example", "r.example", "a", true),
            ("*.example", "q.r.example", "a", false),
            ("r?.ex*le", "r1.example", "a", true),
        ] {
            let found = !fitting(&[credential(location)], registry, repository).is_empty();
            assert_eq!(found, expected, "{location} for {registry}/{repository}");
        }
    }

    #[test]
    fn the_most_specific_location_comes_first() {
        let known =
            [credential("r.example"), credential("r.example/a/b"), credential("r.example/a")];
        let found = fitting(&known, "r.example", "a/b");
        let order: Vec<&str> = found.iter().map(|c| c.location.as_str()).collect();
        assert_eq!(order, ["r.example/a/b", "r.example/a", "r.example"]);
    }
}
