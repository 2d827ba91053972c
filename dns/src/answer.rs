//! Answers a query from the cluster's records; pure.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use ipnet::IpNet;

use crate::name::{Name, labels, reverse_address, within};
use crate::records::{Data, Records};
use crate::wire::{Owner, Query, Rcode, Reply, Section, kind, write_address};

/// Seconds that answers may be kept; negative ones too.
pub const TTL: u32 = 30;
/// Spec 1.1.0 §2.2
const VERSION_TTL: u32 = 28_800;
const VERSION: &str = "1.1.0";
/// As many aliases are followed, one after the other.
const MAX_ALIASES: usize = 8;

/// What becomes of a query.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// This answer.
    Reply(Vec<u8>),
    /// The name is not the cluster's: ask the machine's resolvers.
    Forward,
    /// An alias of a name that is not the cluster's, by way of others where there are several:
    /// answer with the aliases and what the machine's resolvers say of the last name.
    Chase(Vec<Name>),
}

/// The zone's fixed parts.
#[derive(Debug)]
pub struct Zone {
    /// The cluster's domain.
    pub domain: Name,
    /// Addresses whose reverse names stay inside.
    pub own_networks: Vec<IpNet>,
    /// Addresses of this server.
    pub servers: Vec<IpAddr>,
    host_master: Name,
    name_server: Name,
    version: Name,
    /// Changes the order of addresses from answer to answer.
    turn: AtomicUsize,
}

impl Zone {
    /// The zone of a cluster; `None` when the names would get too long.
    pub fn new(domain: Name, own_networks: Vec<IpNet>, servers: Vec<IpAddr>) -> Option<Self> {
        Some(Self {
            host_master: domain.prepend(["hostmaster"])?,
            name_server: domain.prepend(["ns", "dns"])?,
            version: domain.prepend(["dns-version"])?,
            domain,
            own_networks,
            servers,
            turn: AtomicUsize::new(0),
        })
    }

    /// Answers a query. `udp` limits the size to what the client takes.
    pub fn answer(&self, query: &Query<'_>, records: &Records, udp: bool) -> Outcome {
        let limit = query.limit(udp);
        if !query.is_internet() || matches!(query.kind, kind::AXFR | kind::IXFR) {
            return Outcome::Reply(query.failure(Rcode::Refused));
        }
        let mut lower = [0u8; 256];
        let name = &mut lower[..query.name().len()];
        name.copy_from_slice(query.name());
        name.make_ascii_lowercase();
        let name = &*name;

        let Some(before) = within(name, self.domain.wire()) else {
            return self.answer_reverse(query, name, records, limit);
        };
        if name == self.version.wire() {
            return self.answer_version(query, limit);
        }
        if !records.is_synced() {
            return Outcome::Reply(query.failure(Rcode::ServFail));
        }
        if name == self.domain.wire() {
            return self.answer_apex(query, limit);
        }
        if name == self.name_server.wire() {
            let servers: Vec<Data> = self.servers.iter().map(|ip| Data::Address(*ip)).collect();
            return self.answer_from(query, &servers, records, limit);
        }
        if let Some(found) = records.get(name) {
            return self.answer_from(query, found, records, limit);
        }
        match pod_address(&name[..before]) {
            Some(address) => self.answer_from(query, &[Data::Address(address)], records, limit),
            None => self.negative(query, Rcode::NxDomain, limit),
        }
    }

    fn answer_reverse(
        &self,
        query: &Query<'_>,
        name: &[u8],
        records: &Records,
        limit: usize,
    ) -> Outcome {
        let Some(address) = reverse_address(name) else { return Outcome::Forward };
        let server = self.servers.contains(&address);
        let inside = self.own_networks.iter().any(|network| network.contains(&address));
        match records.get(name) {
            Some(found) if !found.is_empty() => self.answer_from(query, found, records, limit),
            // Clients such as nslookup ask for the server's own name first.
            _ if server => {
                let own = self.domain.prepend(["kube-dns", "kube-system", "svc"]);
                let found: Vec<Data> = own.into_iter().map(Data::Pointer).collect();
                self.answer_from(query, &found, records, limit)
            }
            _ if inside && !records.is_synced() => Outcome::Reply(query.failure(Rcode::ServFail)),
            _ if inside => self.negative(query, Rcode::NxDomain, limit),
            _ => Outcome::Forward,
        }
    }

    fn answer_from(
        &self,
        query: &Query<'_>,
        found: &[Data],
        records: &Records,
        limit: usize,
    ) -> Outcome {
        let mut reply = Reply::new(query, Rcode::NoError, true);
        if let Some(target) = alias(found) {
            if query.kind == kind::CNAME || query.kind == kind::ANY {
                write(&mut reply, Section::Answer, Owner::Question, found.iter(), limit);
                return Outcome::Reply(reply.finish(limit));
            }
            let targets = follow(target, records);
            let last = targets.last().unwrap_or(target);
            let Some(before) = within(last.wire(), self.domain.wire()) else {
                return Outcome::Chase(targets);
            };
            write_aliases(&mut reply, &targets);
            let address = pod_address(&last.wire()[..before]).map(Data::Address);
            let wanted = records.get(last.wire()).unwrap_or(address.as_slice());
            let mut matching =
                wanted.iter().filter(|data| is_asked_for(data, query.kind)).peekable();
            if matching.peek().is_none() {
                self.write_authority(&mut reply);
            }
            write(&mut reply, Section::Answer, Owner::Name(last.wire()), matching, limit);
            return Outcome::Reply(reply.finish(limit));
        }
        // Everybody would use the first address; begin with another one each time.
        let first = match found.len() {
            0 => 0,
            length => self.turn.fetch_add(1, Ordering::Relaxed) % length,
        };
        let matching =
            || found[first..].iter().chain(&found[..first]).filter(|d| is_asked_for(d, query.kind));
        write(&mut reply, Section::Answer, Owner::Question, matching(), limit);
        if reply.has_no_answer() {
            return self.negative(query, Rcode::NoError, limit);
        }
        if query.kind == kind::SRV {
            let mut seen: HashSet<&Name> = HashSet::new();
            for data in matching() {
                let Data::Port { target, .. } = data else { continue };
                if reply.is_full(limit) {
                    break;
                }
                if !seen.insert(target) {
                    continue;
                }
                let hosts = records.get(target.wire()).unwrap_or_default();
                let hosts = hosts.iter().filter(|data| matches!(data, Data::Address(_)));
                write(&mut reply, Section::Additional, Owner::Name(target.wire()), hosts, limit);
            }
        }
        Outcome::Reply(reply.finish(limit))
    }

    /// No such name, or no such record: with the SOA, so that it may be remembered (RFC 2308).
    fn negative(&self, query: &Query<'_>, code: Rcode, limit: usize) -> Outcome {
        let mut reply = Reply::new(query, code, true);
        self.write_authority(&mut reply);
        Outcome::Reply(reply.finish(limit))
    }

    fn write_authority(&self, reply: &mut Reply<'_>) {
        let owner = Owner::Name(self.domain.wire());
        reply.record(Section::Authority, owner, kind::SOA, TTL, |data| self.write_soa(data));
    }

    fn answer_apex(&self, query: &Query<'_>, limit: usize) -> Outcome {
        let mut reply = Reply::new(query, Rcode::NoError, true);
        if matches!(query.kind, kind::SOA | kind::ANY) {
            let section = Section::Answer;
            reply.record(section, Owner::Question, kind::SOA, TTL, |data| self.write_soa(data));
        }
        if matches!(query.kind, kind::NS | kind::ANY) {
            reply.record(Section::Answer, Owner::Question, kind::NS, TTL, |data| {
                data.extend_from_slice(self.name_server.wire());
            });
        }
        if reply.has_no_answer() {
            return self.negative(query, Rcode::NoError, limit);
        }
        Outcome::Reply(reply.finish(limit))
    }

    /// Spec 1.1.0 §2.2
    fn answer_version(&self, query: &Query<'_>, limit: usize) -> Outcome {
        if !matches!(query.kind, kind::TXT | kind::ANY) {
            return self.negative(query, Rcode::NoError, limit);
        }
        let mut reply = Reply::new(query, Rcode::NoError, true);
        reply.record(Section::Answer, Owner::Question, kind::TXT, VERSION_TTL, |data| {
            data.push(VERSION.len() as u8);
            data.extend_from_slice(VERSION.as_bytes());
        });
        Outcome::Reply(reply.finish(limit))
    }

    fn write_soa(&self, data: &mut Vec<u8>) {
        data.extend_from_slice(self.name_server.wire());
        data.extend_from_slice(self.host_master.wire());
        // Nobody transfers this zone, so its serial number never moves.
        for number in [1, 7200, 1800, 86_400, TTL] {
            data.extend_from_slice(&u32::to_be_bytes(number));
        }
    }
}

/// What these records of a name are an alias of.
fn alias(found: &[Data]) -> Option<&Name> {
    found.iter().find_map(|data| match data {
        Data::Alias(target) => Some(target),
        _ => None,
    })
}

/// The names that an alias leads to, each an alias of the next. A circle ends where it closes.
fn follow(first: &Name, records: &Records) -> Vec<Name> {
    let mut names = vec![first.clone()];
    while names.len() < MAX_ALIASES {
        let next = names.last().and_then(|name| alias(records.get(name.wire())?));
        match next {
            Some(next) if !names.contains(next) => names.push(next.clone()),
            _ => break,
        }
    }
    names
}

/// Appends the alias that the question is, and those of the names that it leads to.
pub fn write_aliases(reply: &mut Reply<'_>, targets: &[Name]) {
    let mut owner = Owner::Question;
    for target in targets {
        reply.record(Section::Answer, owner, kind::CNAME, TTL, |data| {
            data.extend_from_slice(target.wire());
        });
        owner = Owner::Name(target.wire());
    }
}

fn is_asked_for(data: &Data, asked: u16) -> bool {
    asked == kind::ANY || asked == record_kind(data)
}

fn record_kind(data: &Data) -> u16 {
    match data {
        Data::Address(IpAddr::V4(_)) => kind::A,
        Data::Address(IpAddr::V6(_)) => kind::AAAA,
        Data::Port { .. } => kind::SRV,
        Data::Pointer(_) => kind::PTR,
        Data::Alias(_) => kind::CNAME,
    }
}

fn write<'d>(
    reply: &mut Reply<'_>,
    section: Section,
    owner: Owner<'_>,
    records: impl Iterator<Item = &'d Data>,
    limit: usize,
) {
    for record in records {
        if reply.is_full(limit) {
            return;
        }
        reply.record(section, owner, record_kind(record), TTL, |bytes| match record {
            Data::Address(address) => write_address(bytes, *address),
            Data::Port { weight, port, target } => {
                bytes.extend_from_slice(&[0, 0]);
                bytes.extend_from_slice(&weight.to_be_bytes());
                bytes.extend_from_slice(&port.to_be_bytes());
                bytes.extend_from_slice(target.wire());
            }
            Data::Pointer(name) | Data::Alias(name) => bytes.extend_from_slice(name.wire()),
        });
    }
}

/// `a-b-c-d.<namespace>.pod`: the name itself says the address (CoreDNS's insecure mode).
fn pod_address(before: &[u8]) -> Option<IpAddr> {
    let [address, _, pod] = labels(before)[..] else { return None };
    if pod != b"pod" {
        return None;
    }
    let text = std::str::from_utf8(address).ok()?;
    text.replace('-', ".")
        .parse::<std::net::Ipv4Addr>()
        .map(IpAddr::V4)
        .or_else(|_| text.replace('-', ":").parse().map(IpAddr::V6))
        .ok()
}

#[cfg(test)]
mod tests;
