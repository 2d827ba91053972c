//! The number of records of each bucket, and of each share in it.

use std::collections::HashMap;

/// Counts by prefix: `bucket/` and `bucket/share/`.
#[derive(Default)]
pub(super) struct Counts(HashMap<Box<str>, usize>);

impl Counts {
    /// The number of records whose keys start with a prefix of one of these forms.
    pub(super) fn of(&self, prefix: &str) -> usize {
        self.0.get(prefix).copied().unwrap_or(0)
    }

    /// Counts a new record.
    pub(super) fn add(&mut self, key: &str) {
        for prefix in prefixes(key) {
            match self.0.get_mut(prefix) {
                Some(count) => *count += 1,
                None => drop(self.0.insert(prefix.into(), 1)),
            }
        }
    }

    /// Counts a record that is gone.
    pub(super) fn remove(&mut self, key: &str) {
        for prefix in prefixes(key) {
            if let Some(count) = self.0.get_mut(prefix) {
                *count -= 1;
                if *count == 0 {
                    self.0.remove(prefix);
                }
            }
        }
    }
}

/// The prefixes of a key that end with its first two slashes.
fn prefixes(key: &str) -> impl Iterator<Item = &str> {
    key.match_indices('/').take(2).map(|(at, _)| &key[..=at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_counted_by_bucket_and_share() {
        let mut counts = Counts::default();
        for key in ["core.pods/a/x", "core.pods/a/y", "core.pods/ab/x", "core.nodes//n"] {
            counts.add(key);
        }
        counts.remove("core.pods/a/y");
        assert_eq!((counts.of("core.pods/"), counts.of("core.pods/a/")), (2, 1));
        assert_eq!((counts.of("core.pods/ab/"), counts.of("core.nodes/")), (1, 1));
        counts.remove("core.pods/ab/x");
        assert_eq!((counts.of("core.pods/ab/"), counts.of("core.secrets/")), (0, 0));
        assert_eq!(counts.0.len(), 4);
    }
}
