//! What `--registry-mirror` and `--plain-http-registry` say of registries.

use std::collections::BTreeMap;
use std::str::FromStr;

/// `REGISTRY=MIRROR`: a mirror to ask before the registry itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    registry: String,
    /// `host[:port]`.
    mirror: String,
    plain_http: bool,
}

impl FromStr for Mirror {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected REGISTRY=[http://|https://]HOST[:PORT]";
        let (registry, mirror) = text.split_once('=').ok_or(FORM)?;
        let (scheme, mirror) = mirror.split_once("://").unwrap_or(("https", mirror));
        let mirror = mirror.trim_end_matches('/');
        let plain_http = match scheme {
            "http" => true,
            "https" => false,
            _ => return Err(FORM),
        };
        if registry.is_empty() || mirror.is_empty() || mirror.contains('/') {
            return Err(FORM);
        }
        Ok(Self { registry: registry.to_owned(), mirror: mirror.to_owned(), plain_http })
    }
}

/// Mirrors by registry, and all who speak plain HTTP.
pub fn resolve(
    mirrors: &[Mirror],
    plain_http: &[String],
) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
    let mut by_registry: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut plain_http = plain_http.to_vec();
    for mirror in mirrors {
        by_registry.entry(mirror.registry.clone()).or_default().push(mirror.mirror.clone());
        if mirror.plain_http {
            plain_http.push(mirror.mirror.clone());
        }
    }
    (by_registry, plain_http)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mirrors_with_and_without_scheme() {
        let mirrors: Vec<Mirror> =
            ["docker.io=http://127.0.0.1:5000", "docker.io=m.example", "q.io=https://m.example/"]
                .iter()
                .map(|text| text.parse().unwrap())
                .collect();
        let (by_registry, plain) = resolve(&mirrors, &["p.example:80".to_owned()]);
        assert_eq!(by_registry["docker.io"], ["127.0.0.1:5000", "m.example"]);
        assert_eq!(by_registry["q.io"], ["m.example"]);
        assert_eq!(plain, ["p.example:80", "127.0.0.1:5000"]);
    }

    #[test]
    fn what_is_no_mirror_is_refused() {
        for bad in ["docker.io", "=m", "docker.io=", "docker.io=ftp://m", "docker.io=http://m/p"] {
            assert!(bad.parse::<Mirror>().is_err(), "{bad}");
        }
    }
}
