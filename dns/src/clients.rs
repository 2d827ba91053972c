//! The clients that are answered, and the bounds on what one of them may take.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use nix::ifaddrs::getifaddrs;

/// The node's addresses are read no more often than this, and only for a client that is none of them.
const READ_INTERVAL: Duration = Duration::from_secs(1);

/// The clients that are answered: pods, and the node itself at any of its addresses.
#[derive(Debug)]
pub struct Clients {
    pods: IpNet,
    own: Mutex<(Option<Instant>, HashSet<IpAddr>)>,
}

impl Clients {
    /// Pods are the addresses of `pods`.
    pub fn new(pods: IpNet) -> Self {
        Self { pods, own: Mutex::default() }
    }

    /// Returns whether queries from `address` are answered.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if self.pods.contains(&address) || address.is_loopback() {
            return true;
        }
        let mut own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let (read, addresses) = &mut *own;
        if addresses.contains(&address) {
            return true;
        }
        let now = Instant::now();
        if read.is_some_and(|read| now.saturating_duration_since(read) < READ_INTERVAL) {
            return false;
        }
        *read = Some(now);
        *addresses = own_addresses();
        addresses.contains(&address)
    }
}

fn own_addresses() -> HashSet<IpAddr> {
    let interfaces = getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
    });
    addresses.collect()
}

/// The shares of something limited that each client holds.
#[derive(Debug)]
pub struct Shares {
    held: Mutex<HashMap<IpAddr, usize>>,
    each_max: usize,
}

/// A client's claim; given back when dropped.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    client: IpAddr,
}

impl Shares {
    /// A client may hold up to `each_max` shares.
    pub fn new(each_max: usize) -> Arc<Self> {
        Arc::new(Self { held: Mutex::default(), each_max })
    }

    /// Returns a share, or `None` if the client holds as many as it may.
    pub fn take(self: &Arc<Self>, client: IpAddr) -> Option<Share> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let count = held.entry(client).or_default();
        if *count >= self.each_max {
            return None;
        }
        *count += 1;
        Some(Share { shares: Arc::clone(self), client })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = held.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn pods_and_the_node_are_answered() {
        let clients = Clients::new("10.44.0.0/16".parse().unwrap());
        let answered = |text: &str| clients.contains(text.parse().unwrap());
        assert!(answered("10.44.3.1") && answered("127.0.0.1") && answered("::ffff:10.44.3.1"));
        assert!(!answered("10.45.0.1") && !answered("203.0.113.9"));
        for own in own_addresses() {
            assert!(Clients::new("10.44.0.0/16".parse().unwrap()).contains(own), "{own}");
        }
    }

    #[test]
    fn one_client_takes_its_share_only() {
        let (a, b) = ("10.44.0.1".parse().unwrap(), "10.44.0.2".parse().unwrap());
        let shares = Shares::new(2);
        let first = shares.take(a).unwrap();
        let _second = shares.take(a).unwrap();
        assert!(shares.take(a).is_none());
        assert!(shares.take(b).is_some());
        drop(first);
        assert!(shares.take(a).is_some());
        assert_eq!(shares.held.lock().unwrap().len(), 1);
    }
}
