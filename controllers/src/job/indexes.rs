//! Sets of completion indexes, written as upstream writes them: `1,3-5,7`.

use std::collections::BTreeSet;
use std::fmt;

/// A set of completion indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(BTreeSet<i32>);

impl Indexes {
    /// Reads `1,3-5,7`, leaving out what is not below `completions` and what is no number: a
    /// status that somebody else wrote must not stop the controller.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut set = BTreeSet::new();
        for interval in text.split(',').filter(|interval| !interval.is_empty()) {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                set.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Self(set)
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    /// Whether `index` is one of them.
    pub fn has(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    /// Adds one.
    pub fn insert(&mut self, index: i32) {
        self.0.insert(index);
    }

    /// How many are in both sets.
    pub fn common(&self, other: &Self) -> i32 {
        i32::try_from(self.0.intersection(&other.0).count()).unwrap_or(i32::MAX)
    }

    /// The `count` smallest indexes below `completions` that are in none of `taken`.
    pub fn first_free(completions: i32, count: usize, taken: &[&Self]) -> Vec<i32> {
        let free = (0..completions).filter(|index| !taken.iter().any(|set| set.has(*index)));
        free.take(count).collect()
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        Self(indexes.into_iter().collect())
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while let Some(next) = rest.next_if(|next| *next == last + 1) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_read_and_written_as_upstream() {
        for (text, completions, expected) in [
            ("", 5, ""),
            ("0", 5, "0"),
            ("0,1", 5, "0,1"),
            ("0-2,4", 5, "0-2,4"),
            ("0,1,2,3", 9, "0-3"),
            ("1,3-9", 5, "1,3,4"),
            ("x,2,-", 5, "2"),
        ] {
            assert_eq!(Indexes::parse(text, completions).to_string(), expected, "{text}");
        }
    }

    #[test]
    fn the_smallest_free_indexes_come_first() {
        let done = Indexes::parse("0,2", 6);
        let active = Indexes::parse("3", 6);
        assert_eq!(Indexes::first_free(6, 2, &[&done, &active]), [1, 4]);
        assert_eq!(Indexes::first_free(4, 9, &[&done, &active]), [1]);
        assert_eq!((done.total(), done.common(&Indexes::parse("2,3", 6))), (2, 1));
    }
}
