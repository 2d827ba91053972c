//! Which of the credentials in pull secrets fit an image, by the rules of the kubelet's keyring.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use serde_json::Value;

use crate::glob;
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

/// Most credentials that are read of the pull secrets of one pod.
pub const MAX_CREDENTIALS: usize = 4096;
/// Longest location, user name or password; tokens of cloud registries have a few thousand bytes.
const MAX_CREDENTIAL_BYTES: usize = 64 << 10;
/// Most credentials that are tried for one image.
const MAX_TRIED_CREDENTIALS: usize = 32;

/// Credentials in a `kubernetes.io/dockerconfigjson` (or the older `dockercfg`) secret; those that
/// are too long are left out.
pub fn in_secret(secret: &Payload) -> Vec<Credential> {
    use base64::Engine;
    let read = |key: &str| {
        let bytes = secret.data.get(key)?;
        serde_json::from_slice::<Value>(bytes).ok()
    };
    let auths = |mut config: Value| config.get_mut("auths").map_or(Value::Null, Value::take);
    let entries = read(".dockerconfigjson").map(auths);
    let Some(entries) = entries.or_else(|| read(".dockercfg")) else { return Vec::new() };
    let Value::Object(entries) = entries else { return Vec::new() };
    let mut found = Vec::new();
    for (location, entry) in entries.into_iter().take(MAX_CREDENTIALS) {
        let text = |key: &str| entry[key].as_str().map(ToOwned::to_owned);
        let pair = text("username").zip(text("password")).or_else(|| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text("auth")?).ok()?;
            let decoded = String::from_utf8(bytes).ok()?;
            let (username, password) = decoded.split_once(':')?;
            Some((username.to_owned(), password.to_owned()))
        });
        let fits = |text: &str| text.len() <= MAX_CREDENTIAL_BYTES;
        if let Some((username, password)) = pair
            && [&location, &username, &password].into_iter().all(|text| fits(text))
        {
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
    let tried = found.into_iter().take(MAX_TRIED_CREDENTIALS);
    tried.map(|(_, credential)| credential).collect()
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
        && parts.iter().zip(&wanted).all(|(pattern, part)| glob::matches(pattern, part))
        && repository.starts_with(path)
}

fn host_and_port(text: &str) -> (&str, &str) {
    match text.rsplit_once(':') {
        // The colons of an IPv6 address are followed by its bracket.
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ => (text, ""),
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
        for broken in [&b"{"[..], b"\"auths\"", b"[]", b"5", br#"{"auths": 5}"#] {
            let none: Vec<String> = read(".dockerconfigjson", broken);
            assert!(none.is_empty());
        }
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
            ("r[0-9].example", "r1.example", "a", true),
            ("r[.example", "r[.example", "a", false),
            ("r.*", "r.example", "a", true),
            ("*", "r.example", "a", false),
            ("*:5000", "localhost:5000", "a", true),
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

    #[test]
    fn adversarial_locations_end_soon() {
        let location = format!("{}b:5000", "*a".repeat(120));
        let known = vec![credential(&location); MAX_CREDENTIALS];
        let begun = std::time::Instant::now();
        let registry = format!("{}:5000", "a".repeat(250));
        assert!(fitting(&known, &registry, "x").is_empty());
        assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
    }

    #[test]
    fn entries_of_a_secret_are_bounded() {
        let entry = serde_json::json!({"username": "u", "password": "p"});
        let long = serde_json::json!({"username": "u", "password": "p".repeat(100_000)});
        let mut entries: serde_json::Map<String, serde_json::Value> =
            (0..5_000).map(|n| (format!("r{n:04}.example"), entry.clone())).collect();
        entries.insert("a.example".into(), long);
        let json = serde_json::json!({"auths": entries}).to_string();
        let data = [(".dockerconfigjson".to_owned(), json.into_bytes())].into_iter().collect();
        let found = in_secret(&Payload { data });
        assert_eq!(found.len(), MAX_CREDENTIALS - 1);
        assert_eq!(found[0].location, "r0000.example");
        let same = vec![credential("r.example"); 100];
        assert_eq!(fitting(&same, "r.example", "a").len(), MAX_TRIED_CREDENTIALS);
    }
}
