//! Allocation of pod addresses: first in, first out, with a quarantine.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;

/// A released address rests this long: the old link vanishes asynchronously, and peers may still
/// send to it.
const QUARANTINE: Duration = Duration::from_secs(5);

/// The free and used addresses of the pod range.
#[derive(Debug)]
pub struct Addresses {
    range: Ipv4Net,
    next: u32,
    used: HashSet<Ipv4Addr>,
    resting: HashMap<Ipv4Addr, Instant>,
}

impl Addresses {
    /// All addresses of the range, starting after `last`. `None` when the range is too small.
    pub fn new(range: Ipv4Net, last: Option<Ipv4Addr>) -> Option<Self> {
        (range.prefix_len() <= 29).then(|| {
            let range = range.trunc();
            let next = last
                .filter(|last| range.contains(last))
                .map_or(u32::from(range.network()) + 2, |last| u32::from(last).saturating_add(1));
            Self { range, next, used: HashSet::new(), resting: HashMap::new() }
        })
    }

    /// The node's own address in the range.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.range.network()) + 1)
    }

    /// Marks an address as used (an adopted pod). Those outside the range are ignored.
    pub fn reserve(&mut self, address: Ipv4Addr) {
        self.used.insert(address);
    }

    /// Every address that is in use or prepared for use.
    pub fn in_use(&self) -> impl Iterator<Item = Ipv4Addr> + '_ {
        self.used.iter().copied()
    }

    /// The next free address; one still in quarantine only when there is no other.
    pub fn allocate(&mut self, now: Instant) -> Option<Ipv4Addr> {
        self.resting.retain(|_, since| now.saturating_duration_since(*since) < QUARANTINE);
        let address = self.search(|addresses, address| {
            !addresses.used.contains(&address) && !addresses.resting.contains_key(&address)
        });
        let address = address.or_else(|| {
            self.resting.iter().min_by_key(|(address, since)| (**since, **address)).map(|(a, _)| *a)
        })?;
        self.resting.remove(&address);
        self.used.insert(address);
        self.next = u32::from(address).saturating_add(1);
        Some(address)
    }

    /// Gives an address back.
    pub fn release(&mut self, address: Ipv4Addr, now: Instant) {
        if self.used.remove(&address) && self.range.contains(&address) {
            self.resting.insert(address, now);
        }
    }

    fn search(&self, free: impl Fn(&Self, Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
        let first = u32::from(self.range.network()) + 2;
        let last = u32::from(self.range.broadcast()) - 1;
        let start = self.next.clamp(first, last + 1);
        (start..=last).chain(first..start).map(Ipv4Addr::from).find(|a| free(self, *a))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(range: &str) -> Addresses {
        Addresses::new(range.parse().unwrap(), None).unwrap()
    }

    #[test]
    fn skips_network_gateway_and_broadcast() {
        let mut a = addresses("10.0.0.0/29");
        let now = Instant::now();
        let got: Vec<u8> = std::iter::from_fn(|| a.allocate(now)).map(|x| x.octets()[3]).collect();
        assert_eq!(got, [2, 3, 4, 5, 6]);
        assert_eq!(a.gateway(), Ipv4Addr::new(10, 0, 0, 1));
        assert!(Addresses::new("10.0.0.0/30".parse().unwrap(), None).is_none());
    }

    #[test]
    fn released_addresses_come_back_last_and_late() {
        let mut a = addresses("10.0.0.0/29");
        let now = Instant::now();
        let first = a.allocate(now).unwrap();
        a.release(first, now);
        let later: Vec<_> = std::iter::from_fn(|| a.allocate(now)).collect();
        assert_eq!(later.len(), 5);
        assert_eq!(later[4], first, "taken out of quarantine only when nothing else is left");
        a.release(later[0], now);
        a.release(first, now + Duration::from_secs(1));
        assert_eq!(a.allocate(now + Duration::from_secs(2)), Some(later[0]), "oldest first");
    }

    #[test]
    fn continues_after_the_last_address_and_wraps() {
        let last = Some(Ipv4Addr::new(10, 0, 0, 6));
        let mut a = Addresses::new("10.0.0.0/29".parse().unwrap(), last).unwrap();
        a.reserve(Ipv4Addr::new(10, 0, 0, 2));
        assert_eq!(a.allocate(Instant::now()), Some(Ipv4Addr::new(10, 0, 0, 3)));
    }
}
