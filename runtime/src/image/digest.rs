//! Digests: their check, and their form as file names.

use std::fmt;

use ring::digest::{Algorithm, Context, SHA256, SHA384, SHA512};

use super::unpack::hex;

/// Digest algorithms and the hexadecimal digits of their digests.
static ALGORITHMS: [(&str, usize, &Algorithm); 3] =
    [("sha256", 64, &SHA256), ("sha384", 96, &SHA384), ("sha512", 128, &SHA512)];

/// A digest that can be checked: `algorithm:digits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Digest(String);

/// A text that is no digest, or one by an algorithm that is not known.
#[derive(Debug, thiserror::Error)]
#[error("invalid digest {0:?}")]
pub(super) struct InvalidDigest(String);

impl Digest {
    /// Reads `algorithm:digits`, in lower case as the image format has it.
    pub(super) fn parse(text: &str) -> Result<Self, InvalidDigest> {
        let is_digit = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        let is_valid = text.split_once(':').is_some_and(|(algorithm, digits)| {
            ALGORITHMS.iter().any(|(name, length, _)| (*name, *length) == (algorithm, digits.len()))
                && digits.bytes().all(is_digit)
        });
        if is_valid { Ok(Self(text.to_owned())) } else { Err(InvalidDigest(text.to_owned())) }
    }

    fn algorithm(&self) -> (&'static str, &'static Algorithm) {
        let name = self.0.split(':').next().unwrap_or_default();
        let known = ALGORITHMS.iter().find(|(known, ..)| *known == name);
        known.map(|(name, _, algorithm)| (*name, *algorithm)).expect("it was parsed")
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes a digest of bytes as they come.
#[derive(Clone)]
pub(super) struct Digester {
    name: &'static str,
    context: Context,
}

impl Digester {
    /// Begins one by the algorithm of `like`.
    pub(super) fn new(like: &Digest) -> Self {
        let (name, algorithm) = like.algorithm();
        Self { name, context: Context::new(algorithm) }
    }

    /// Returns the digest of `bytes` by SHA-256.
    pub(super) fn sha256_of(bytes: &[u8]) -> String {
        format!("sha256:{}", hex(ring::digest::digest(&SHA256, bytes).as_ref()))
    }

    /// Adds bytes.
    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// Returns the digest, `algorithm:digits`.
    pub(super) fn finish(self) -> String {
        format!("{}:{}", self.name, hex(self.context.finish().as_ref()))
    }
}

/// Hexadecimal digits and algorithm name of a digest that becomes a file name, in bytes.
const MIN_DIGEST_DIGITS: usize = 32;
const MAX_DIGEST_DIGITS: usize = 128;
const MAX_ALGORITHM_BYTES: usize = 32;

/// A digest as a file name: the hexadecimal part of one by SHA-256, `algorithm-…` of any other. What
/// is no digest has a name that no digest has.
pub(super) fn digest_name(digest: &str) -> String {
    let (algorithm, hex) = digest.split_once(':').unwrap_or(("sha256", digest));
    let is_hex = hex.len() >= MIN_DIGEST_DIGITS
        && hex.len() <= MAX_DIGEST_DIGITS
        && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_name = !algorithm.is_empty()
        && algorithm.len() <= MAX_ALGORITHM_BYTES
        && algorithm.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    match (is_name && is_hex, algorithm) {
        (true, "sha256") if hex.len() == 64 => hex.to_owned(),
        (true, algorithm) if algorithm != "sha256" => format!("{algorithm}-{hex}"),
        _ => {
            let sum = ring::digest::digest(&ring::digest::SHA256, digest.as_bytes());
            format!("invalid-{}", super::unpack::hex(sum.as_ref()))
        }
    }
}

/// The digest with this file name.
pub(super) fn named_digest(name: &str) -> String {
    match name.split_once('-') {
        Some((algorithm, hex)) => format!("{algorithm}:{hex}"),
        None => format!("sha256:{name}"),
    }
}
