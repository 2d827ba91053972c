//! The connections that may be open at the same time: so many in all, so many from one address, and
//! none for long without a request.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Connections open at the same time, on all addresses of the API together.
const CONNECTIONS_MAX: usize = 4096;
/// Of the process' descriptors, one in so many is for connections.
const DESCRIPTORS_PART: usize = 2;
/// Connections from one address of another machine or of a pod.
const CONNECTIONS_PER_ADDRESS_MAX: usize = 256;
/// One address of another machine gets at most one part in so many of the connections.
const ADDRESS_PART: usize = 4;
/// Longest time that a connection may take until its first request, from the end of its handshake.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest time that a connection is kept without a request (upstream's). Pings of HTTP/2 are none.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// The connections to the API.
#[derive(Debug)]
pub struct Connections {
    max: usize,
    per_address_max: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    count: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Those without a request so far, the oldest first.
    silent: BTreeMap<u64, CancellationToken>,
    next_number: u64,
}

/// A place for one connection, given back on drop.
#[derive(Debug)]
pub(crate) struct Place {
    connections: Arc<Connections>,
    address: IpAddr,
    number: u64,
    /// Cancelled when the connection has to make room.
    pub(crate) evicted: CancellationToken,
}

impl Connections {
    /// Room for as many connections as a process with so many descriptors can have.
    pub fn new(descriptors: u64) -> Arc<Self> {
        let descriptors = usize::try_from(descriptors).unwrap_or(usize::MAX);
        let max = CONNECTIONS_MAX.min(descriptors / DESCRIPTORS_PART);
        let per_address_max = CONNECTIONS_PER_ADDRESS_MAX.min(max / ADDRESS_PART);
        Arc::new(Self { max, per_address_max, open: Mutex::default() })
    }

    /// A place for a connection from `address`; `None` when that has too many. Processes of this
    /// machine (`local`) have no bound of their own. When all places are taken, the oldest
    /// connection that has sent no request makes room; without one, only this machine gets a place
    /// among those that are kept for it.
    pub(crate) fn admit(self: &Arc<Self>, address: IpAddr, local: bool) -> Option<Place> {
        let mut open = self.lock();
        let own = open.by_address.get(&address).copied().unwrap_or(0);
        if !local && own >= self.per_address_max {
            return None;
        }
        let kept = if local { 0 } else { self.max / ADDRESS_PART };
        if open.count + kept >= self.max {
            let (_, oldest) = open.silent.pop_first()?;
            oldest.cancel();
        }
        let number = open.next_number;
        open.next_number += 1;
        open.count += 1;
        *open.by_address.entry(address).or_default() += 1;
        let evicted = CancellationToken::new();
        open.silent.insert(number, evicted.clone());
        Some(Place { connections: self.clone(), address, number, evicted })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        // Nothing that holds the lock panics.
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Notes that the connection has sent a request.
    pub(crate) fn speaks(&self) {
        self.connections.lock().silent.remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.count -= 1;
        open.silent.remove(&self.number);
        if let Some(own) = open.by_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                open.by_address.remove(&self.address);
            }
        }
    }
}

/// The use that is made of a connection.
#[derive(Debug)]
struct Use {
    /// Requests that are being answered, until the last byte of the answer.
    open: usize,
    /// True once there has been a request.
    spoke: bool,
    /// The time of the last change of these.
    since: Instant,
}

impl Use {
    /// Returns when the connection is idle for too long, if no other request comes. Counted from
    /// `now` while one is being answered.
    fn idle_from(&self, now: Instant) -> Instant {
        let since = if self.open > 0 { now } else { self.since };
        since + if self.spoke { IDLE_TIMEOUT } else { FIRST_REQUEST_TIMEOUT }
    }
}

/// Counts the requests of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<Use>>);

/// A request that is being answered.
pub(crate) struct Ongoing(Activity);

impl Activity {
    /// A connection that has just been made.
    pub(crate) fn new() -> Self {
        let now = Use { open: 0, spoke: false, since: Instant::now() };
        Self(Arc::new(Mutex::new(now)))
    }

    /// Begins a request, which lasts until the guard is dropped.
    pub(crate) fn begin(&self) -> Ongoing {
        let mut now = self.lock();
        *now = Use { open: now.open + 1, spoke: true, since: Instant::now() };
        drop(now);
        Ongoing(self.clone())
    }

    /// Waits until the connection has been without a request for too long. It looks when that could
    /// be the case at the earliest: waking it with each request costs more than the request's lock.
    pub(crate) async fn idle(&self) {
        loop {
            let now = Instant::now();
            let due = self.lock().idle_from(now);
            if due <= now {
                return;
            }
            tokio::time::sleep_until(due).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Use> {
        // Nothing that holds the lock panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ongoing {
    fn drop(&mut self) {
        let mut now = self.0.lock();
        *now = Use { open: now.open - 1, spoke: true, since: Instant::now() };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    const LAN: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    fn other(n: u8) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, n))
    }

    #[test]
    fn one_address_does_not_take_every_place() {
        let connections = Connections::new(1024);
        let held: Vec<Place> = std::iter::from_fn(|| connections.admit(LAN, false)).collect();
        assert_eq!(held.len(), 128, "a quarter of half of the descriptors");
        assert!(connections.admit(other(2), false).is_some());
        drop(held);
        let open = connections.lock();
        assert!(open.count == 0 && open.by_address.is_empty() && open.silent.is_empty());
    }

    #[test]
    fn silent_connections_make_room() {
        let connections = Connections::new(1024);
        let held: Vec<Place> =
            (0..200).map(|n| connections.admit(other(n), false).unwrap()).collect();
        let more: Vec<Place> =
            (0..184).map(|n| connections.admit(other(n), false).unwrap()).collect();
        assert!(held.iter().chain(&more).all(|place| !place.evicted.is_cancelled()));
        // 384 of 512 places are for others than this machine.
        let newest = connections.admit(other(0), false).unwrap();
        assert!(held[0].evicted.is_cancelled() && !held[1].evicted.is_cancelled());
        for place in held.iter().chain(&more).chain([&newest]) {
            place.speaks();
        }
        assert!(connections.admit(other(0), false).is_none(), "all of them speak");
        assert!(connections.admit(HERE, true).is_some());
    }

    #[test]
    fn connection_is_idle_after_its_last_request() {
        let activity = Activity::new();
        let made = activity.lock().since;
        let later = made + Duration::from_secs(1000);
        assert_eq!(activity.lock().idle_from(later), made + FIRST_REQUEST_TIMEOUT);
        let requests = [activity.begin(), activity.begin()];
        for request in requests {
            assert_eq!(activity.lock().idle_from(later), later + IDLE_TIMEOUT);
            drop(request);
        }
        let ended = activity.lock().since;
        assert!(ended > made);
        assert_eq!(activity.lock().idle_from(later), ended + IDLE_TIMEOUT);
    }

    #[tokio::test]
    async fn connection_with_a_request_stays() {
        let activity = Activity::new();
        let long_ago = Instant::now() - 2 * IDLE_TIMEOUT;
        let request = activity.begin();
        activity.lock().since = long_ago;
        let idle = tokio::time::timeout(Duration::from_millis(50), activity.idle());
        assert!(idle.await.is_err());
        drop(request);
        activity.lock().since = long_ago;
        activity.idle().await;
    }
}
