//! Foreign firewalls: what another table drops cannot be overruled from ours, so rules that accept
//! pods' packets are put into its own chains.
//!
//! A chain needs them when it hangs at the forward or input hook and ends in a drop or reject, by
//! policy (docker, ufw) or by its last rule (firewalld). Forwarded packets of pods are accepted
//! altogether; of those to the node itself, only questions to the cluster's DNS and connections to
//! the API. Each inserted rule carries a comment, by which it is found again and removed.

pub mod chains;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use ipnet::{IpNet, Ipv4Net};

use crate::netlink::{NetlinkError, Socket};
use crate::nft::{self, Batch, Direction, Family, Rule, Verdict};
use crate::protocol::Protocol;

use chains::{BaseChain, Hook, OwnRule, Ruleset};

/// The beginning of our comments.
const COMMENT: &str = "coracle pods";
const DNS_PORT: u16 = 53;
/// Lists the tables of legacy `iptables`, which netlink does not show.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// The packets that firewalls have to let through.
#[derive(Debug, Clone)]
pub struct Openings {
    /// Addresses of pods.
    pub pods: Ipv4Net,
    /// The cluster's DNS.
    pub dns: Option<Ipv4Addr>,
    /// The addresses at which the API listens.
    pub api: Vec<SocketAddr>,
}

/// The findings of [`open`].
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chains that drop and have our rules now: `family table chain`.
    pub opened: Vec<String>,
    /// Chains that drop and took no rule, with the reason.
    pub closed: Vec<(String, String)>,
}

/// One rule of ours in a foreign chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opening {
    From(Ipv4Net),
    To(Ipv4Net),
    Serve { pods: Ipv4Net, at: Option<Ipv4Addr>, protocol: Protocol, port: u16 },
}

impl Openings {
    fn at(&self, hook: Hook) -> Vec<Opening> {
        let pods = self.pods.trunc();
        match hook {
            Hook::Forward => vec![Opening::From(pods), Opening::To(pods)],
            Hook::Input => {
                let dns = self.dns.into_iter().flat_map(|dns| {
                    [Protocol::Udp, Protocol::Tcp].map(|protocol| (dns, protocol, DNS_PORT))
                });
                let api = self.api.iter().filter_map(|api| match api.ip() {
                    // Pods do not reach the node's loopback.
                    IpAddr::V4(ip) if !ip.is_loopback() => Some((ip, Protocol::Tcp, api.port())),
                    IpAddr::V6(ip) if ip.is_unspecified() => {
                        Some((Ipv4Addr::UNSPECIFIED, Protocol::Tcp, api.port()))
                    }
                    _ => None,
                });
                dns.chain(api)
                    .map(|(address, protocol, port)| {
                        let at = Some(address).filter(|address| !address.is_unspecified());
                        Opening::Serve { pods, at, protocol, port }
                    })
                    .collect()
            }
        }
    }
}

impl Opening {
    /// The comment, which says everything about the rule.
    fn comment(self) -> String {
        match self {
            Self::From(pods) => format!("{COMMENT} from {pods}"),
            Self::To(pods) => format!("{COMMENT} to {pods}"),
            Self::Serve { pods, at, protocol, port } => {
                let at = at.map_or("*".to_owned(), |address| address.to_string());
                format!("{COMMENT} {pods} at {at}:{port}/{}", protocol.number())
            }
        }
    }

    fn write(self, rule: &mut Rule<'_, '_>, inet: bool) {
        if inet {
            rule.family_is(Family::Ipv4);
        }
        match self {
            Self::From(pods) => {
                rule.address_in(Direction::Source, IpNet::V4(pods));
            }
            Self::To(pods) => {
                rule.address_in(Direction::Destination, IpNet::V4(pods));
            }
            Self::Serve { pods, at, protocol, port } => {
                rule.address_in(Direction::Source, IpNet::V4(pods));
                if let Some(address) = at {
                    let address = IpNet::V4(Ipv4Net::from(address));
                    rule.address_in(Direction::Destination, address);
                }
                rule.protocol_is(protocol.number()).destination_port_is(port);
            }
        }
        rule.verdict(Verdict::Accept);
    }
}

/// Puts the openings into every foreign chain that needs them and has not exactly these.
pub fn open(socket: &Socket, openings: &Openings) -> Result<Report, NetlinkError> {
    let ruleset = Ruleset::read(socket)?;
    let mut report = Report::default();
    for chain in ruleset.dropping() {
        let name = chain.id.name();
        match open_chain(socket, &ruleset, chain, &openings.at(chain.hook)) {
            Ok(()) => report.opened.push(name),
            // Changed meanwhile: the notification about that leads here again.
            Err(error) if error.is_missing() => {}
            Err(error) => report.closed.push((name, error.to_string())),
        }
    }
    Ok(report)
}

fn open_chain(
    socket: &Socket,
    ruleset: &Ruleset,
    chain: &BaseChain,
    wanted: &[Opening],
) -> Result<(), NetlinkError> {
    let own = ruleset.own(&chain.id);
    let present: Vec<&str> = own.iter().map(|rule| rule.comment.as_str()).collect();
    let comments: Vec<String> = wanted.iter().map(|opening| opening.comment()).collect();
    let same = present.len() == comments.len()
        && present.iter().copied().collect::<BTreeSet<_>>()
            == comments.iter().map(String::as_str).collect();
    if same {
        return Ok(());
    }
    let mut batch = chain.id.batch();
    for rule in own {
        batch.delete_rule(&chain.id.chain, rule.handle);
    }
    for (opening, comment) in wanted.iter().zip(&comments) {
        batch.insert_rule(&chain.id.chain, comment, |rule| {
            opening.write(rule, chain.id.is_inet());
        });
    }
    nft::send(socket, batch)
}

/// Lists the chains that have rules of [`open`]: `family table chain`.
pub fn opened(socket: &Socket) -> Result<Vec<String>, NetlinkError> {
    let ruleset = Ruleset::read(socket)?;
    let chains = ruleset.all_own().filter(|(_, rules)| !rules.is_empty());
    Ok(chains.map(|(id, _)| id.name()).collect())
}

/// Removes every rule that [`open`] inserted.
pub fn close(socket: &Socket) -> Result<(), NetlinkError> {
    remove(socket, |_| true)
}

/// Removes the rules about this process's own ports, which serve nothing once it has ended.
pub fn close_input(socket: &Socket) -> Result<(), NetlinkError> {
    remove(socket, |rule| rule.comment.contains(" at "))
}

fn remove(socket: &Socket, which: impl Fn(&OwnRule) -> bool) -> Result<(), NetlinkError> {
    for (id, rules) in Ruleset::read(socket)?.all_own() {
        let mut batch: Batch = id.batch();
        for rule in rules.iter().filter(|rule| which(rule)) {
            batch.delete_rule(&id.chain, rule.handle);
        }
        match nft::send(socket, batch) {
            Err(error) if !error.is_missing() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Returns whether this namespace has filter rules of legacy `iptables`, which cannot be read or
/// changed through nf_tables.
pub fn has_legacy_filter() -> bool {
    let tables = std::fs::read_to_string(LEGACY_TABLES).unwrap_or_default();
    tables.lines().any(|table| table == "filter")
}
