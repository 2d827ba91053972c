//! The share of the kernel's maps that each namespace may have. An element costs memory of the kernel
//! and time of a transaction, and a few kilobytes of objects can ask for a hundred thousand.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Service;

use super::frontends::slots;
use super::keys::ServiceKey;
use super::plan::{Frontend, Target};

/// Map elements of all Services together: some 50 MiB of the kernel and of this process.
const ELEMENTS_MAX: usize = 1 << 17;
/// Networks of clients in all frontends together: inserting one takes the longer the more there are.
const RANGES_MAX: usize = 1 << 12;
/// A namespace has at most the half of what others leave.
const NAMESPACE_PART: usize = 2;

/// The elements that a Service takes of the kernel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Elements of maps.
    pub elements: usize,
    /// Networks of clients.
    pub ranges: usize,
}

impl Cost {
    /// Returns whether it is no more than another one.
    pub fn is_within(self, other: Self) -> bool {
        self.elements <= other.elements && self.ranges <= other.ranges
    }

    /// Returns what it is more than another one.
    pub fn beyond(self, other: Self) -> Self {
        Self {
            elements: self.elements.saturating_sub(other.elements),
            ranges: self.ranges.saturating_sub(other.ranges),
        }
    }

    /// Sums what these frontends take.
    pub fn of<'a>(targets: impl IntoIterator<Item = &'a (Frontend, Target)>) -> Self {
        targets.into_iter().fold(Self::default(), |sum, (_, target)| {
            let pools = std::iter::once(&target.inside).chain(&target.outside);
            let elements: usize = pools.map(|pool| 1 + slots(pool.endpoints.len())).sum();
            let ranges = target.source_ranges.as_ref().map_or(0, Vec::len);
            Self { elements: sum.elements + elements, ranges: sum.ranges + ranges }
        })
    }
}

/// A Service that has fewer rules than it asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage {
    /// The Service.
    pub service: ServiceKey,
    /// The Service's uid.
    pub uid: Option<String>,
    /// The bound that was met.
    pub of: Bounded,
}

/// The thing that is used up: a share of the kernel's maps, as a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bounded {
    /// The share of one Service.
    Service,
    /// The share of a namespace.
    Namespace,
    /// The ports at which load balancers ask for a namespace's Services.
    HealthChecks,
}

impl Shortage {
    /// A shortage of this Service.
    pub fn of(key: &ServiceKey, service: &Service, of: Bounded) -> Self {
        Self { service: key.clone(), uid: service.metadata.uid.clone(), of }
    }
}

/// The sum of what all Services take.
#[derive(Debug, Default)]
pub struct Room {
    all: Cost,
    namespaces: HashMap<String, Cost>,
}

impl Room {
    /// Returns whether a Service of the namespace with this cost has room.
    pub fn fits(&self, namespace: &str, cost: Cost) -> bool {
        let mine = self.namespaces.get(namespace).copied().unwrap_or_default();
        let within = |max: usize, all: usize, mine: usize, more: usize| {
            more == 0 || mine + more <= max.saturating_sub(all - mine) / NAMESPACE_PART
        };
        within(ELEMENTS_MAX, self.all.elements, mine.elements, cost.elements)
            && within(RANGES_MAX, self.all.ranges, mine.ranges, cost.ranges)
    }

    /// Counts a Service.
    pub fn take(&mut self, namespace: &str, cost: Cost) {
        if cost == Cost::default() {
            return;
        }
        let mine = self.namespaces.entry(namespace.to_owned()).or_default();
        for sum in [mine, &mut self.all] {
            sum.elements += cost.elements;
            sum.ranges += cost.ranges;
        }
    }

    /// Counts a Service no longer.
    pub fn give_back(&mut self, namespace: &str, cost: Cost) {
        let Some(mine) = self.namespaces.get_mut(namespace) else { return };
        for sum in [&mut *mine, &mut self.all] {
            sum.elements -= cost.elements;
            sum.ranges -= cost.ranges;
        }
        if *mine == Cost::default() {
            self.namespaces.remove(namespace);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_leave_room_to_others() {
        let mut room = Room::default();
        let service = Cost { elements: 1 << 10, ranges: 0 };
        let mut fill = |namespace: &str| {
            let mut count = 0;
            while room.fits(namespace, service) {
                room.take(namespace, service);
                count += 1;
            }
            count
        };
        assert_eq!(["a", "b", "c", "a", "d"].map(&mut fill), [64, 32, 16, 0, 8]);
        // What comes free is for those that have less.
        room.give_back("a", service);
        assert!(room.fits("e", service) && !room.fits("a", service));
        // What takes nothing always fits.
        assert!(room.fits("a", Cost::default()));
        let ranges = Cost { elements: 1, ranges: RANGES_MAX / 2 };
        assert!(room.fits("e", ranges) && !room.fits("e", Cost { ranges: RANGES_MAX, ..ranges }));
    }
}
