//! Which representation a client accepts.

use http::HeaderMap;
use http::header::{ACCEPT, ACCEPT_ENCODING};

use crate::error::ApiError;

/// Media types that responses can have.
pub(crate) const MEDIA_TYPES: [&str; 3] =
    ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// How a response is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Encoding {
    Json,
    Yaml,
}

/// What of an object a response shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// The object or list itself.
    Whole,
    /// `meta.k8s.io` Table of this version.
    Table(&'static str),
    /// `PartialObjectMetadata`, or its list, of this version.
    Metadata(&'static str),
    /// Aggregated discovery of this version.
    Discovery(&'static str),
}

/// The representation that was agreed upon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    pub(crate) encoding: Encoding,
    pub(crate) form: Form,
}

/// One media range of an Accept header.
struct Range<'a> {
    media_type: &'a str,
    quality: f32,
    parameters: Vec<(&'a str, &'a str)>,
}

impl Range<'_> {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(k, _)| *k == name).map(|(_, v)| *v)
    }

    fn encoding(&self) -> Option<Encoding> {
        match self.media_type {
            "*/*" | "application/*" | "application/json" => Some(Encoding::Json),
            "application/yaml" | "application/x-yaml" | "text/yaml" => Some(Encoding::Yaml),
            _ => None,
        }
    }

    fn form(&self) -> Option<Form> {
        let version = |known: &[&'static str]| {
            let wanted = self.parameter("v")?;
            known.iter().find(|k| **k == wanted).copied()
        };
        match self.parameter("as") {
            None => Some(Form::Whole),
            Some("Table") => version(&["v1", "v1beta1"]).map(Form::Table),
            Some("PartialObjectMetadata" | "PartialObjectMetadataList") => {
                version(&["v1", "v1beta1"]).map(Form::Metadata)
            }
            Some("APIGroupDiscoveryList") => version(&["v2", "v2beta1"]).map(Form::Discovery),
            Some(_) => None,
        }
    }
}

fn ranges(header: &str) -> Vec<Range<'_>> {
    let mut ranges: Vec<Range<'_>> = header
        .split(',')
        .filter_map(|part| {
            let mut pieces = part.split(';').map(str::trim);
            let media_type = pieces.next().filter(|m| !m.is_empty())?;
            let parameters: Vec<_> = pieces
                .filter_map(|p| p.split_once('='))
                .map(|(k, v)| (k.trim(), v.trim()))
                .collect();
            let quality = parameters
                .iter()
                .find(|(k, _)| *k == "q")
                .and_then(|(_, v)| v.parse().ok())
                .unwrap_or(1.0);
            Some(Range { media_type, quality, parameters })
        })
        .collect();
    ranges.sort_by(|a, b| b.quality.total_cmp(&a.quality));
    ranges
}

/// Picks the first representation in the client's order that the server can give; `allowed` says
/// which forms make sense for this request.
pub(crate) fn accepted(
    headers: &HeaderMap,
    allowed: impl Fn(&Form) -> bool,
) -> Result<Accepted, ApiError> {
    let header = headers.get(ACCEPT).and_then(|h| h.to_str().ok()).unwrap_or("");
    if header.trim().is_empty() {
        return Ok(Accepted { encoding: Encoding::Json, form: Form::Whole });
    }
    ranges(header)
        .iter()
        .find_map(|range| {
            let encoding = range.encoding()?;
            let form = range.form().filter(|form| allowed(form))?;
            Some(Accepted { encoding, form })
        })
        .ok_or_else(|| ApiError::not_acceptable(&MEDIA_TYPES))
}

/// Whether the Accept header lists this media type literally.
pub(crate) fn lists(headers: &HeaderMap, media_type: &str) -> bool {
    let header = headers.get(ACCEPT).and_then(|h| h.to_str().ok()).unwrap_or("");
    ranges(header).iter().any(|r| r.media_type.eq_ignore_ascii_case(media_type))
}

/// Whether the client takes gzip.
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let header = headers.get(ACCEPT_ENCODING).and_then(|h| h.to_str().ok()).unwrap_or("");
    ranges(header).iter().any(|r| r.media_type == "gzip" && r.quality > 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(accept: &str) -> Option<Accepted> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, accept.parse().expect("a test header parses"));
        accepted(&headers, |form| !matches!(form, Form::Discovery(_))).ok()
    }

    #[test]
    fn kubectls_headers_are_understood() {
        let table = pick(
            "application/json;as=Table;v=v1;g=meta.k8s.io,\
             application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json",
        );
        assert_eq!(table.map(|a| a.form), Some(Form::Table("v1")));
        let protobuf = pick("application/vnd.kubernetes.protobuf,application/json");
        assert_eq!(protobuf.map(|a| a.form), Some(Form::Whole));
        assert_eq!(pick("application/yaml").map(|a| a.encoding), Some(Encoding::Yaml));
        assert!(pick("application/vnd.kubernetes.protobuf").is_none());
        assert!(pick("application/json;as=Table;v=v9;g=meta.k8s.io").is_none());
        assert!(pick("application/vnd.kubernetes.protobuf, */*").is_some());
    }
}
