//! Digests as file names.

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
