//! Entry points for fuzzing: credentials of a pull secret stay within their bounds, and those that fit an
//! image come most specific first.

use super::*;

/// Images whose credentials are looked for.
const IMAGES: [(&str, &str); 4] = [
    ("docker.io", "library/nginx"),
    ("registry.example.com", "team/app"),
    ("registry.example.com:5000", "team/app"),
    ("[2001:db8::1]:5000", "a"),
];

/// Reads a pull secret as one of each kind.
pub fn credentials(bytes: &[u8]) {
    for key in [".dockerconfigjson", ".dockercfg"] {
        let data = [(key.to_owned(), bytes.to_vec())].into_iter().collect();
        let found = in_secret(&Payload { data });
        assert!(found.len() <= MAX_CREDENTIALS);
        for credential in &found {
            for text in [&credential.location, &credential.username, &credential.password] {
                assert!(text.len() <= MAX_CREDENTIAL_BYTES);
            }
        }
        for (registry, repository) in IMAGES {
            let fitting = fitting(&found, registry, repository);
            assert!(fitting.len() <= MAX_TRIED_CREDENTIALS);
            assert!(fitting.iter().all(|credential| found.contains(credential)));
            let locations = fitting.iter().map(|credential| normal(&credential.location));
            assert!(locations.is_sorted_by(|a, b| a >= b), "{fitting:?}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_pull_secrets_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/credentials"), credentials);
    }
}
