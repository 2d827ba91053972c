//! What the kernel holds for each frontend: endpoints in numbered slots, and the code that
//! selects the chain which picks one of them.

use std::collections::HashMap;

use ipnet::IpNet;

use crate::protocol::Protocol;

use super::plan::{Endpoint, Frontend, Pool, Target, When};

/// Up to this many endpoints each gets one slot, and every endpoint exactly its share.
const EXACT: usize = 32;
/// Beyond, endpoints are dealt out over so many slots; shares then differ slightly.
const WIDE: [usize; 2] = [512, 4096];
/// The most endpoints that share the fewer slots.
const SHARING: usize = WIDE[0] / 4;

/// Returns how many slots so many endpoints take.
pub fn slots(endpoints: usize) -> usize {
    match endpoints {
        0..=EXACT => endpoints,
        _ if endpoints <= SHARING => WIDE[0],
        _ => WIDE[1],
    }
}

/// Returns how many endpoints take at most so many slots; at least one.
pub fn endpoints_within(slots: usize) -> usize {
    match slots {
        _ if slots >= WIDE[1] => WIDE[1],
        _ if slots >= WIDE[0] => SHARING,
        _ => slots.clamp(1, EXACT),
    }
}

/// Names the chain that handles a packet.
///
/// Bits 0–6: how an endpoint is picked ([`Pick`]); 7–23: affinity in seconds; then flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u32);

impl Code {
    const MASQUERADE: u32 = 1 << 24;
    const RANGES: u32 = 1 << 26;
    const NODE_PORT: u32 = 1 << 27;
    const OUTSIDE: u32 = 1 << 28;

    /// How an endpoint is picked.
    pub fn pick(self) -> Pick {
        match self.0 & 0x7f {
            0 => Pick::Reject,
            127 => Pick::Drop,
            n if n as usize <= EXACT => Pick::Random(n),
            n => Pick::Random(WIDE[(n as usize - EXACT - 1).min(1)] as u32),
        }
    }

    /// How long a client stays with its endpoint, in seconds.
    pub fn affinity(self) -> Option<u32> {
        Some(self.0 >> 7 & 0x1_ffff).filter(|seconds| *seconds > 0)
    }

    /// Connections from elsewhere are masqueraded.
    pub fn masquerade(self) -> bool {
        self.0 & Self::MASQUERADE != 0
    }

    /// Only some clients are let in.
    pub fn ranges(self) -> bool {
        self.0 & Self::RANGES != 0
    }

    /// The frontend is a node port.
    pub fn is_node_port(self) -> bool {
        self.0 & Self::NODE_PORT != 0
    }

    /// These are the endpoints for connections from elsewhere.
    pub fn is_outside(self) -> bool {
        self.0 & Self::OUTSIDE != 0
    }

    fn new(frontend: Frontend, pool: &Pool, affinity: Option<u32>) -> Self {
        let count = pool.endpoints.len();
        let pick = match pool.empty {
            When::Reject if count == 0 => 0,
            When::Drop if count == 0 => 127,
            _ if count <= EXACT => count as u32,
            _ if count <= SHARING => EXACT as u32 + 1,
            _ => EXACT as u32 + 2,
        };
        let affinity = if count > 0 { affinity.unwrap_or(0) } else { 0 };
        let node_port = matches!(frontend, Frontend::NodePort { .. });
        Self(pick | affinity << 7 | if node_port { Self::NODE_PORT } else { 0 })
    }
}

/// How a chain picks an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// There is none; the client is told.
    Reject,
    /// There is none here; the packet is dropped.
    Drop,
    /// One of so many slots.
    Random(u32),
}

/// What the kernel holds for one frontend.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Installed {
    /// Code and slots for everybody, or for pods and the node.
    pub inside: Option<View>,
    /// Code and slots for connections from elsewhere, where they differ.
    pub outside: Option<View>,
    /// The networks of clients that are let in.
    pub ranges: Vec<IpNet>,
}

/// Code and slots of one view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct View {
    /// The chain.
    pub code: Code,
    /// Endpoints by slot.
    pub slots: Vec<Endpoint>,
    /// The different endpoints, as many as were placed.
    pub endpoints: Vec<Endpoint>,
}

/// A frontend that changes in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Which one.
    pub frontend: Frontend,
    /// What the kernel has; default when nothing.
    pub before: Installed,
    /// What it shall have; default when nothing.
    pub after: Installed,
}

impl Change {
    /// The most map elements that it removes and adds.
    pub fn elements(&self) -> usize {
        let of = |installed: &Installed| {
            let views = installed.views().map(|view| 1 + view.slots.len()).sum::<usize>();
            views + installed.ranges.len()
        };
        of(&self.before) + of(&self.after)
    }

    /// Returns whether connections or clients that the kernel knows may have to be forgotten.
    pub fn concerns_clients(&self) -> bool {
        self.frontend.protocol() == Protocol::Udp
            || self.before.views().any(|view| view.code.affinity().is_some())
    }
}

impl Installed {
    /// Places a target's endpoints, keeping those that `before` has where they are so that only
    /// few elements change.
    pub fn place(frontend: Frontend, target: &Target, before: &Self) -> Self {
        let ranges = target.source_ranges.clone().unwrap_or_default();
        let place = |pool: &Pool, before: Option<&View>| {
            let code = Code::new(frontend, pool, target.affinity);
            let old = before.map(|view| view.endpoints.as_slice()).unwrap_or_default();
            let endpoints = arrange(old, &pool.endpoints);
            View { code, slots: deal(&endpoints, code), endpoints }
        };
        let mut inside = place(&target.inside, before.inside.as_ref());
        let mut outside = target.outside.as_ref().map(|pool| place(pool, before.outside.as_ref()));
        if target.masquerade && !target.inside.endpoints.is_empty() {
            inside.code.0 |= Code::MASQUERADE;
        }
        if let Some(view) = &mut outside {
            view.code.0 |= Code::OUTSIDE;
        }
        if target.source_ranges.is_some() {
            for view in std::iter::once(&mut inside).chain(&mut outside) {
                view.code.0 |= Code::RANGES;
            }
        }
        Self { inside: Some(inside), outside, ranges }
    }

    /// Every view with code and slots.
    pub fn views(&self) -> impl Iterator<Item = &View> {
        self.inside.iter().chain(&self.outside)
    }

    /// Whether a connection may be with this endpoint.
    pub fn has_endpoint(&self, endpoint: Endpoint) -> bool {
        self.views().any(|view| view.endpoints.contains(&endpoint))
    }
}

/// Orders the wanted endpoints so that those present before keep their place: gaps are filled
/// with new ones first, then from the end.
fn arrange(before: &[Endpoint], wanted: &[Endpoint]) -> Vec<Endpoint> {
    let mut missing: HashMap<Endpoint, ()> = wanted.iter().map(|e| (*e, ())).collect();
    let mut places: Vec<Option<Endpoint>> =
        before.iter().map(|e| missing.remove(e).map(|()| *e)).collect();
    let mut new = wanted.iter().filter(|e| missing.contains_key(e)).copied();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = new.next();
    }
    places.extend(new.map(Some));
    let mut arranged: Vec<Option<Endpoint>> = places;
    let mut at = 0;
    while at < arranged.len() {
        if arranged[at].is_none() {
            arranged.swap_remove(at);
        } else {
            at += 1;
        }
    }
    let ceiling = WIDE[WIDE.len() - 1];
    arranged.into_iter().flatten().take(ceiling).collect()
}

/// Fills the slots of the code's chain.
fn deal(endpoints: &[Endpoint], code: Code) -> Vec<Endpoint> {
    match code.pick() {
        Pick::Random(slots) => endpoints.iter().cycle().take(slots as usize).copied().collect(),
        Pick::Reject | Pick::Drop => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(numbers: &[u8]) -> Vec<Endpoint> {
        numbers.iter().map(|n| (std::net::IpAddr::from([10, 0, 0, *n]), 80)).collect()
    }

    #[test]
    fn endpoints_that_stay_keep_their_slot() {
        for (before, wanted, expected) in [
            (&[][..], &[1, 2, 3][..], &[1, 2, 3][..]),
            (&[1, 2, 3], &[1, 3], &[1, 3]),
            (&[1, 2, 3], &[2, 3, 4], &[4, 2, 3]),
            (&[3, 1], &[1, 2, 3], &[3, 1, 2]),
            (&[1, 2, 3, 4], &[4], &[4]),
            (&[1], &[], &[]),
        ] {
            assert_eq!(
                arrange(&endpoints(before), &endpoints(wanted)),
                endpoints(expected),
                "{before:?} → {wanted:?}"
            );
        }
    }

    #[test]
    fn many_endpoints_share_slots() {
        let frontend =
            Frontend::NodePort { ipv6: false, protocol: crate::Protocol::Tcp, port: 30_000 };
        for (count, slots) in [(1, 1), (32, 32), (33, 512), (128, 512), (129, 4096), (5000, 4096)] {
            let all = (0..count)
                .map(|n| (std::net::IpAddr::from([10, 0, (n >> 8) as u8, n as u8]), 80))
                .collect();
            let target = Target {
                inside: Pool { endpoints: all, empty: When::Reject },
                outside: None,
                masquerade: true,
                affinity: Some(86_400),
                source_ranges: None,
            };
            let view = Installed::place(frontend, &target, &Installed::default()).inside.unwrap();
            assert_eq!(view.slots.len(), slots, "{count}");
            assert_eq!(view.code.pick(), Pick::Random(slots as u32));
            assert_eq!(view.code.affinity(), Some(86_400));
            assert!(view.code.is_node_port() && view.code.masquerade());
            assert!(!view.code.ranges() && !view.code.is_outside());
            assert_eq!(super::slots(count), slots);
        }
        for (slots, fitting) in [(0, 1), (31, 31), (511, 32), (512, 128), (4096, 4096)] {
            assert_eq!(endpoints_within(slots), fitting);
            assert!(super::slots(fitting) <= slots.max(1));
        }
    }
}
