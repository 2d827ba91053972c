//! The foreign chains at the forward and input hooks, how they end, and our rules in them.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::collections::{BTreeMap, HashMap};

use crate::netlink::{DUMP, NetlinkError, Socket, Writer, attribute, attributes, nested};
use crate::nft::{Batch, Family};

use super::COMMENT;

/// Chains followed from a base chain's last rule to the next one's.
const MAX_JUMPS: usize = 8;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const GETCHAIN: u16 = 4;
const GETRULE: u16 = 7;
const ATTRIBUTE_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_POLICY: u16 = 5;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
const RULE_USERDATA: u16 = 7;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const IMMEDIATE_DATA: u16 = 2;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;
const VERDICT_CHAIN: u16 = 2;
const TARGET_NAME: u16 = 1;
/// The type of a comment in a rule's user data.
const USERDATA_COMMENT: u8 = 0;

const FAMILY_INET: u8 = 1;
const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const POLICY_DROP: u32 = 0;
const DROP: i32 = 0;
const JUMP: i32 = -3;
const GOTO: i32 = -4;

/// The hook of a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Packets to the node itself.
    Input,
    /// Packets between two interfaces.
    Forward,
}

/// Names a chain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ChainId {
    family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl ChainId {
    /// Returns whether packets of several families pass.
    pub fn is_inet(&self) -> bool {
        self.family == FAMILY_INET
    }

    /// The family as `nft` writes it.
    fn family_name(&self) -> &'static str {
        if self.is_inet() { "inet" } else { "ip" }
    }

    /// The chain as `nft` names it: `family table chain`.
    pub fn name(&self) -> String {
        format!("{} {} {}", self.family_name(), self.table, self.chain)
    }

    /// An empty batch for the chain's table.
    pub fn batch(&self) -> Batch {
        if self.is_inet() {
            Batch::inet(&self.table)
        } else {
            Batch::new(Family::Ipv4, &self.table)
        }
    }
}

/// A chain at one of the two hooks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseChain {
    /// Its name.
    pub id: ChainId,
    /// Its hook.
    pub hook: Hook,
    drops_by_policy: bool,
}

/// A rule of ours in a foreign chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnRule {
    /// The kernel's number of it.
    pub handle: u64,
    /// Its comment.
    pub comment: String,
}

/// The effect of a rule on every packet that reaches it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Ending {
    /// Nothing, or it depends on the packet.
    Open,
    Blocks,
    Continues(String),
}

/// The chains and rules that matter here, as the kernel has them.
#[derive(Debug, Default)]
pub struct Ruleset {
    bases: Vec<BaseChain>,
    endings: HashMap<ChainId, Ending>,
    own: BTreeMap<ChainId, Vec<OwnRule>>,
}

impl Ruleset {
    /// Lists chains and rules.
    pub fn read(socket: &Socket) -> Result<Self, NetlinkError> {
        let bases =
            socket.dump(&list("list chains", GETCHAIN), |found: &mut Vec<_>, message| {
                found.extend(parse_base_chain(message.payload));
            })?;
        let mut ruleset =
            socket.dump(&list("list rules", GETRULE), |found: &mut Self, message| {
                found.note_rule(message.payload);
            })?;
        ruleset.bases = bases;
        Ok(ruleset)
    }

    /// The base chains at whose end a packet is dropped.
    pub fn dropping(&self) -> impl Iterator<Item = &BaseChain> {
        self.bases.iter().filter(|base| base.drops_by_policy || self.blocks(&base.id))
    }

    /// Our rules in this chain.
    pub fn own(&self, id: &ChainId) -> &[OwnRule] {
        self.own.get(id).map(Vec::as_slice).unwrap_or_default()
    }

    /// All our rules in foreign chains.
    pub fn all_own(&self) -> impl Iterator<Item = (&ChainId, &[OwnRule])> {
        self.own.iter().map(|(id, rules)| (id, rules.as_slice()))
    }

    /// Returns whether the last rule of the chain drops all that reaches it.
    fn blocks(&self, id: &ChainId) -> bool {
        let mut id = id.clone();
        for _ in 0..MAX_JUMPS {
            match self.endings.get(&id) {
                Some(Ending::Blocks) => return true,
                Some(Ending::Continues(chain)) => id.chain.clone_from(chain),
                Some(Ending::Open) | None => return false,
            }
        }
        false
    }

    fn note_rule(&mut self, payload: &[u8]) {
        let Some((id, attributes)) = parse_id(payload, RULE_CHAIN) else { return };
        let handle = attribute(attributes, RULE_HANDLE)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u64::from_be_bytes);
        let comment = attribute(attributes, RULE_USERDATA).and_then(parse_comment);
        match (handle, comment.filter(|comment| comment.starts_with(COMMENT))) {
            (Some(handle), Some(comment)) => {
                self.own.entry(id).or_default().push(OwnRule { handle, comment });
            }
            _ => {
                // Rules are listed in order: the last one stays.
                let expressions = attribute(attributes, RULE_EXPRESSIONS).unwrap_or_default();
                self.endings.insert(id, parse_ending(expressions));
            }
        }
    }
}

/// The chain that a message is about, with the message's attributes; `None` in a family that has
/// no IPv4 packets.
fn parse_id(payload: &[u8], chain: u16) -> Option<(ChainId, &[u8])> {
    let family = *payload.first()?;
    if family != FAMILY_INET && family != Family::Ipv4.number() {
        return None;
    }
    let attributes = payload.get(4..)?;
    let table = text(attributes, ATTRIBUTE_TABLE)?;
    Some((ChainId { family, table, chain: text(attributes, chain)? }, attributes))
}

fn parse_base_chain(payload: &[u8]) -> Option<BaseChain> {
    let (id, attributes) = parse_id(payload, CHAIN_NAME)?;
    let hook = match nested(attributes, &[CHAIN_HOOK, HOOK_NUMBER]).and_then(be32)? {
        INPUT => Hook::Input,
        FORWARD => Hook::Forward,
        _ => return None,
    };
    let is_filter = text(attributes, CHAIN_TYPE).is_none_or(|kind| kind == "filter");
    let policy = attribute(attributes, CHAIN_POLICY).and_then(be32);
    is_filter.then_some(BaseChain { id, hook, drops_by_policy: policy == Some(POLICY_DROP) })
}

fn parse_ending(expressions: &[u8]) -> Ending {
    for (_, expression) in attributes(expressions) {
        let data = attribute(expression, EXPRESSION_DATA).unwrap_or_default();
        match text(expression, EXPRESSION_NAME).as_deref() {
            Some("counter" | "log") => {}
            Some("reject") => return Ending::Blocks,
            // The compatible `iptables` writes some targets in its old way.
            Some("target") => {
                let target = text(data, TARGET_NAME).unwrap_or_default();
                let blocks = matches!(target.as_str(), "REJECT" | "DROP");
                return if blocks { Ending::Blocks } else { Ending::Open };
            }
            Some("immediate") => {
                let verdict = nested(data, &[IMMEDIATE_DATA, DATA_VERDICT]).unwrap_or_default();
                let code = attribute(verdict, VERDICT_CODE).and_then(be32).map(|c| c as i32);
                return match (code, text(verdict, VERDICT_CHAIN)) {
                    (Some(DROP), _) => Ending::Blocks,
                    (Some(JUMP | GOTO), Some(chain)) => Ending::Continues(chain),
                    _ => Ending::Open,
                };
            }
            _ => return Ending::Open,
        }
    }
    Ending::Open
}

/// The comment in a rule's user data: entries of type, length and value.
fn parse_comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let value = rest.get(..usize::from(*length))?;
        if *kind == USERDATA_COMMENT {
            let value = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(value).into_owned());
        }
        userdata = &rest[value.len()..];
    }
    None
}

fn list(label: &'static str, kind: u16) -> Writer {
    let mut writer = Writer::new();
    let header = [libc::AF_UNSPEC as u8, 0, 0, 0];
    writer.message(label, NFNL_SUBSYS_NFTABLES << 8 | kind, DUMP, &header, |_| {});
    writer
}

fn text(attributes: &[u8], kind: u16) -> Option<String> {
    let value = attribute(attributes, kind)?;
    Some(String::from_utf8_lossy(value.strip_suffix(&[0]).unwrap_or(value)).into_owned())
}

fn be32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}
