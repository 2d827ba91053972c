//! The files of the page, compressed when they were built and embedded as they are.

use std::io::Read;

use bytes::Bytes;
use flate2::read::GzDecoder;
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};

use crate::body::{self, Body};

/// One file of the page.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    /// A digest of the content.
    etag: &'static str,
    /// The name changes with the content, so a browser may keep it for ever.
    immutable: bool,
    gzip: &'static [u8],
}

// `ASSETS`, sorted by path, and `SOURCES`, the digest of what it was built from; written by
// `dashboard/pack.mjs`.
include!("../../../dashboard/dist/assets.rs");

/// The page that a path without a file name stands for.
const INDEX: &str = "index.html";

/// What a browser may do with the page: load everything from here, nothing from elsewhere, run no
/// inline script or style, and show it in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'self'; form-action 'none'; \
    frame-ancestors 'none'";

const SECURITY_HEADERS: [(HeaderName, &str); 7] = [
    (http::header::CONTENT_SECURITY_POLICY, POLICY),
    (http::header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (http::header::X_FRAME_OPTIONS, "DENY"),
    (http::header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    ),
];

/// Answers with a file; `None` if there is none under this path (relative to `/ui/`).
pub(super) fn answer(path: &str, request: &HeaderMap) -> Option<Response<Body>> {
    let wanted = if path.is_empty() { INDEX } else { path };
    let at = ASSETS.binary_search_by(|asset| asset.path.cmp(wanted)).ok()?;
    let asset = &ASSETS[at];
    let known = request
        .get(IF_NONE_MATCH)
        .and_then(|tag| tag.to_str().ok())
        .is_some_and(|tags| tags.split(',').any(|tag| tag.trim() == asset.etag));
    let mut response = if known {
        let mut response = Response::new(Body::default());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        content(asset, takes_gzip(request))?
    };
    let headers = response.headers_mut();
    headers.insert(ETAG, HeaderValue::from_static(asset.etag));
    headers.insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    let caching = if asset.immutable { "public, max-age=31536000, immutable" } else { "no-cache" };
    headers.insert(CACHE_CONTROL, HeaderValue::from_static(caching));
    for (name, value) in SECURITY_HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Some(response)
}

fn content(asset: &Asset, compressed: bool) -> Option<Response<Body>> {
    let bytes = if compressed {
        Bytes::from_static(asset.gzip)
    } else {
        let mut plain = Vec::new();
        GzDecoder::new(asset.gzip).read_to_end(&mut plain).ok()?;
        plain.into()
    };
    let mut response = Response::new(body::full(bytes));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    if compressed {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    Some(response)
}

/// Whether the client takes the files as they are kept, as every browser does.
fn takes_gzip(request: &HeaderMap) -> bool {
    let accepted = request.get(ACCEPT_ENCODING).and_then(|v| v.to_str().ok()).unwrap_or("");
    accepted.split(',').any(|item| {
        let (coding, weight) = item.split_once(';').unwrap_or((item, ""));
        let refused = weight.trim().trim_start_matches("q=").parse::<f32>() == Ok(0.0);
        coding.trim().eq_ignore_ascii_case("gzip") && !refused
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::{Path, PathBuf};

    use http_body_util::BodyExt;

    use super::*;

    fn request(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
        pairs.collect()
    }

    #[tokio::test]
    async fn every_file_carries_the_headers_and_unpacks() {
        assert!(ASSETS.is_sorted_by_key(|asset| asset.path));
        for asset in ASSETS {
            let response = answer(asset.path, &request(&[])).expect("it is there");
            for (name, value) in SECURITY_HEADERS {
                assert_eq!(response.headers()[&name], value, "{}", asset.path);
            }
            assert!(response.headers().get(CONTENT_ENCODING).is_none());
            let plain = response.into_body().collect().await.expect("it is whole").to_bytes();
            assert!(!plain.is_empty(), "{}", asset.path);
        }
    }

    #[test]
    fn the_page_is_what_the_root_stands_for_and_scripts_are_kept_for_ever() {
        let page = answer("", &request(&[])).expect("the page");
        assert_eq!(page.headers()[CONTENT_TYPE], "text/html; charset=utf-8");
        assert_eq!(page.headers()[CACHE_CONTROL], "no-cache");
        let script = ASSETS.iter().find(|asset| asset.path.ends_with(".js")).expect("a script");
        let kept = answer(script.path, &request(&[])).expect("the script");
        assert!(kept.headers()[CACHE_CONTROL].to_str().is_ok_and(|v| v.contains("immutable")));
        for stranger in ["nothing.js", "../Cargo.toml", "assets", "/index.html"] {
            assert!(answer(stranger, &request(&[])).is_none(), "{stranger}");
        }
    }

    #[test]
    fn the_coding_is_the_clients_choice() {
        let taken = |header: &'static str| takes_gzip(&request(&[("accept-encoding", header)]));
        for header in ["gzip, deflate, br, zstd", "gzip", "br;q=0, GZIP;q=0.5"] {
            assert!(taken(header), "{header}");
        }
        for header in ["identity", "br", "gzip;q=0", ""] {
            assert!(!taken(header), "{header}");
        }
        let page = answer("", &request(&[("accept-encoding", "gzip")])).expect("the page");
        assert_eq!(page.headers()[CONTENT_ENCODING], "gzip");
    }

    #[test]
    fn what_a_browser_has_is_not_sent_again() {
        let page = answer("", &request(&[])).expect("the page");
        let mut again = HeaderMap::new();
        again.insert(IF_NONE_MATCH, page.headers()[ETAG].clone());
        let answer = answer("", &again).expect("the page");
        assert_eq!(answer.status(), StatusCode::NOT_MODIFIED);
    }

    /// DESIGN: what the first visit loads is at most 60 kB.
    #[test]
    fn the_first_load_is_small() {
        let index = ASSETS.iter().find(|asset| asset.path == INDEX).expect("the page");
        let mut html = String::new();
        GzDecoder::new(index.gzip).read_to_string(&mut html).expect("it unpacks");
        let first: usize = ASSETS
            .iter()
            .filter(|asset| asset.path == INDEX || html.contains(asset.path))
            .map(|asset| asset.gzip.len())
            .sum();
        assert!(first <= 60_000, "{first} bytes");
    }

    /// The committed files are those of the committed sources: `make dashboard` writes them.
    #[test]
    fn the_embedded_files_are_current() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard");
        let mut files = BTreeMap::new();
        let mut pending = vec![PathBuf::from("src")];
        for single in ["index.html", "package-lock.json", "pack.mjs", "vite.config.ts"] {
            files.insert(PathBuf::from(single), std::fs::read(root.join(single)));
        }
        while let Some(dir) = pending.pop() {
            for entry in std::fs::read_dir(root.join(&dir)).expect("the sources are there") {
                let path = dir.join(entry.expect("it can be listed").file_name());
                if root.join(&path).is_dir() {
                    pending.push(path);
                } else {
                    files.insert(path.clone(), std::fs::read(root.join(&path)));
                }
            }
        }
        let mut context = ring::digest::Context::new(&ring::digest::SHA256);
        for (path, content) in files {
            context.update(path.to_str().expect("names are ASCII").as_bytes());
            context.update(&[0]);
            context.update(&content.expect("the sources can be read"));
            context.update(&[0]);
        }
        let digest: String =
            context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            digest, SOURCES,
            "the page has changed since it was built: run `make dashboard`"
        );
    }
}
