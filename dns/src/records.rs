//! The names of the cluster: each Service contributes records, names map to records.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use crate::name::Name;

/// Data of one record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Data {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A port of a Service.
    Port {
        /// Its share among equals.
        weight: u16,
        /// The port number.
        port: u16,
        /// The host that has it.
        target: Name,
    },
    /// The name of an address.
    Pointer(Name),
    /// Another name, inside or outside of the cluster.
    Alias(Name),
}

/// What one Service contributes.
pub type Contribution = Vec<(Name, Data)>;

/// A name of the cluster: records of its own, or only names below it.
#[derive(Debug, Default)]
struct Node {
    records: Vec<Data>,
    /// Names with records at or below this one.
    uses: usize,
}

/// Every name of the cluster.
#[derive(Debug, Default)]
pub struct Records {
    names: HashMap<Box<[u8]>, Node>,
    synced: bool,
}

impl Records {
    /// Whether everything that exists was listed once; before, no answer is reliable.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Says that everything was listed.
    pub fn set_synced(&mut self) {
        self.synced = true;
    }

    /// The records of a lower-case wire name: `None` when neither it nor a name below it exists.
    pub fn get(&self, wire: &[u8]) -> Option<&[Data]> {
        self.names.get(wire).map(|node| node.records.as_slice())
    }

    /// Replaces what a Service contributed; linear in what differs.
    pub fn apply(&mut self, difference: &Difference) {
        for (name, added) in &difference.added {
            self.each_level(name, |node| node.uses += added.len());
            if let Some(node) = self.names.get_mut(name.wire()) {
                if node.records.is_empty() {
                    // Nearly every name has no more.
                    node.records.reserve_exact(added.len());
                }
                node.records.extend(added.iter().cloned());
            }
        }
        for (name, removed) in &difference.removed {
            if let Some(node) = self.names.get_mut(name.wire()) {
                let mut counts = count(removed.iter());
                node.records.retain(|data| !take(&mut counts, data));
                node.records.shrink_to_fit();
            }
            self.each_level(name, |node| node.uses -= removed.len());
            for level in name.levels() {
                if self.names.get(level).is_some_and(|node| node.uses == 0) {
                    self.names.remove(level);
                }
            }
        }
        if self.names.capacity() > 4 * self.names.len() {
            self.names.shrink_to_fit();
        }
    }

    fn each_level(&mut self, name: &Name, mut change: impl FnMut(&mut Node)) {
        for level in name.levels() {
            match self.names.get_mut(level) {
                Some(node) => change(node),
                None => change(self.names.entry(level.into()).or_default()),
            }
        }
    }
}

/// Counts how often each occurs.
fn count<'d, T: Hash + Eq + 'd>(all: impl Iterator<Item = &'d T>) -> HashMap<&'d T, usize> {
    let mut counts = HashMap::new();
    for one in all {
        *counts.entry(one).or_default() += 1;
    }
    counts
}

/// Takes one of its kind away; returns whether there was one.
fn take<T: Hash + Eq>(counts: &mut HashMap<&T, usize>, one: &T) -> bool {
    match counts.get_mut(one) {
        Some(left) if *left > 0 => {
            *left -= 1;
            true
        }
        _ => false,
    }
}

/// The records that a Service contributes from now on, and those no longer, by name.
#[derive(Debug, Default)]
pub struct Difference {
    added: HashMap<Name, Vec<Data>>,
    removed: HashMap<Name, Vec<Data>>,
}

impl Difference {
    /// Returns how `after` differs from `before`.
    pub fn between(before: Contribution, after: Contribution) -> Self {
        let mut difference = Self::default();
        let mut kept = count(before.iter());
        let (same, added): (Vec<_>, Vec<_>) =
            after.into_iter().partition(|record| take(&mut kept, record));
        let mut same = count(same.iter());
        let removed: Vec<bool> = before.iter().map(|record| !take(&mut same, record)).collect();
        for (name, data) in added {
            difference.added.entry(name).or_default().push(data);
        }
        for ((name, data), removed) in before.into_iter().zip(removed) {
            if removed {
                difference.removed.entry(name).or_default().push(data);
            }
        }
        difference
    }

    /// Returns whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A headless Service of very many addresses.
    fn addresses(count: u32) -> Contribution {
        let name = Name::parse("many.x.svc.cluster.local").unwrap();
        (0..count).map(|n| (name.clone(), Data::Address(IpAddr::V4(n.into())))).collect()
    }

    #[test]
    fn replacement_of_many_records_is_linear() {
        let mut records = Records::default();
        let (before, mut after) = (addresses(40_000), addresses(40_000));
        records.apply(&Difference::between(Vec::new(), before.clone()));
        after.reverse();
        after.truncate(20_000);
        let started = std::time::Instant::now();
        records.apply(&Difference::between(before, after.clone()));
        records.apply(&Difference::between(after, Vec::new()));
        // A search for each record among all would take minutes in this build.
        assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
        assert!(records.names.is_empty());
    }

    #[test]
    fn difference_counts_equal_records() {
        let record =
            |last: u8| (Name::parse("a.b").unwrap(), Data::Address([10, 0, 0, last].into()));
        let before = vec![record(1), record(1), record(2)];
        let after = vec![record(1), record(3)];
        let difference = Difference::between(before.clone(), after.clone());
        let mut records = Records::default();
        records.apply(&Difference::between(Vec::new(), before));
        records.apply(&difference);
        let wire = record(1).0;
        assert_eq!(records.get(wire.wire()).unwrap(), [record(1).1, record(3).1]);
        assert!(Difference::between(after.clone(), after).is_empty());
    }
}
