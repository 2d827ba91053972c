//! Sets of completion indexes, written as upstream writes them: `1,3-5,7`.

use std::collections::BTreeMap;
use std::fmt;

/// A set of completion indexes, kept as intervals: `0-2147483646` is a text that clients write.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes {
    /// The last index of each interval by its first one. Between two intervals an index is free.
    intervals: BTreeMap<i32, i32>,
}

impl Indexes {
    /// Reads `1,3-5,7`, leaving out what is not below `completions` and what is no number: a
    /// status that somebody else wrote must not stop the controller.
    pub fn parse(text: &str, completions: i32) -> Self {
        let mut set = Self::default();
        let highest = completions.saturating_sub(1);
        for interval in text.split(',').filter(|interval| !interval.is_empty()) {
            let (first, last) = interval.split_once('-').unwrap_or((interval, interval));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                set.insert_all(first.max(0), last.min(highest));
            }
        }
        set
    }

    /// How many there are.
    pub fn total(&self) -> i32 {
        narrow(self.intervals.iter().map(|(first, last)| size(*first, *last)).sum())
    }

    /// Whether `index` is one of them.
    pub fn has(&self, index: i32) -> bool {
        self.end_of(index).is_some()
    }

    /// Adds one.
    pub fn insert(&mut self, index: i32) {
        self.insert_all(index, index);
    }

    /// Adds those from `first` to `last`; each interval that they absorb is removed once.
    fn insert_all(&mut self, mut first: i32, mut last: i32) {
        if first > last {
            return;
        }
        while let Some((&known, &end)) = self.intervals.range(..=last.saturating_add(1)).next_back()
            && end.saturating_add(1) >= first
        {
            self.intervals.remove(&known);
            first = first.min(known);
            last = last.max(end);
        }
        self.intervals.insert(first, last);
    }

    /// The last index of the interval that `index` is in.
    fn end_of(&self, index: i32) -> Option<i32> {
        let (_, end) = self.intervals.range(..=index).next_back()?;
        (*end >= index).then_some(*end)
    }

    /// How many are in both sets.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut mine, mut theirs) = (self.intervals.iter(), other.intervals.iter());
        let (mut left, mut right) = (mine.next(), theirs.next());
        let mut common = 0;
        while let (Some((first, last)), Some((from, to))) = (left, right) {
            common += size(*first.max(from), *last.min(to));
            if last < to {
                left = mine.next();
            } else {
                right = theirs.next();
            }
        }
        narrow(common)
    }

    /// The `count` smallest indexes below `completions` that are in none of `taken`.
    pub fn first_free(completions: i32, count: usize, taken: &[&Self]) -> Vec<i32> {
        let mut free = Vec::new();
        let mut index = 0;
        while index < completions && free.len() < count {
            match taken.iter().find_map(|set| set.end_of(index)) {
                Some(end) => index = end,
                None => free.push(index),
            }
            let Some(next) = index.checked_add(1) else { break };
            index = next;
        }
        free
    }
}

/// Returns the number of indexes from `first` to `last`.
fn size(first: i32, last: i32) -> i64 {
    (i64::from(last) - i64::from(first) + 1).max(0)
}

fn narrow(count: i64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl FromIterator<i32> for Indexes {
    fn from_iter<T: IntoIterator<Item = i32>>(indexes: T) -> Self {
        let mut set = Self::default();
        indexes.into_iter().for_each(|index| set.insert(index));
        set
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in &self.intervals {
            match size(*first, *last) {
                1 => write!(f, "{separator}{first}")?,
                2 => write!(f, "{separator}{first},{last}")?,
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

    #[test]
    fn two_thousand_million_indexes_are_one_interval() {
        let all = Indexes::parse("0-2147483647", i32::MAX);
        assert_eq!((all.total(), all.to_string()), (i32::MAX, "0-2147483646".to_owned()));
        let some = Indexes::parse("5,7-9,2147483646", i32::MAX);
        assert_eq!((all.common(&some), some.common(&all)), (5, 5));
        assert!(all.has(2_147_483_646) && !all.has(i32::MAX));
        assert_eq!(Indexes::first_free(i32::MAX, 500, &[&all]), [0; 0]);
        assert_eq!(Indexes::first_free(i32::MAX, 3, &[&some]), [0, 1, 2]);
        let mut edge = Indexes::from_iter([i32::MAX, i32::MAX - 2]);
        assert_eq!(edge.to_string(), "2147483645,2147483647");
        edge.insert(i32::MAX - 1);
        assert_eq!(edge.to_string(), "2147483645-2147483647");
    }

    #[test]
    fn intervals_that_touch_become_one() {
        for (text, expected) in [
            ("3-5,1-2", "1-5"),
            ("0-1,4-5,2-3", "0-5"),
            ("2-3,8,0-9", "0-9"),
            ("0-9,2-3", "0-9"),
            ("4,2,0", "0,2,4"),
            ("5-3", ""),
        ] {
            assert_eq!(Indexes::parse(text, 10).to_string(), expected, "{text}");
        }
    }
}
