//! Batches of nf_tables messages that the kernel commits atomically.

use crate::netlink::{
    Attributes, CREATE, DUMP, NetlinkError, Socket, Writer, attribute, attributes, nested,
};

use super::expression::{Rule, Verdict};
use super::types::{DataType, Family, Key};

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 0x10;
const NFNL_MSG_BATCH_END: u16 = 0x11;
const NLM_F_APPEND: u16 = 0x800;

const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const GETSETELEM: u16 = 13;
const DELSETELEM: u16 = 14;

const SET_INTERVAL: u32 = 4;
const SET_MAP: u32 = 8;
const SET_TIMEOUT: u32 = 0x10;
const SET_EVAL: u32 = 0x20;
const SET_CONCAT: u32 = 0x80;

const ELEM_KEY: u16 = 1;
const ELEM_DATA: u16 = 2;
const ELEM_TIMEOUT: u16 = 4;
const ELEM_EXPIRATION: u16 = 5;
const ELEM_KEY_END: u16 = 10;
const DATA_VALUE: u16 = 1;

/// The type of a comment in a rule's user data.
const USERDATA_COMMENT: u8 = 0;
/// Bytes of a comment without its terminating zero.
const MAX_COMMENT_BYTES: usize = 253;
/// Elements per message: their attributes stay well below the limit of 64 KiB.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Where a base chain hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// Before routing.
    Prerouting,
    /// Between two interfaces.
    Forward,
    /// Packets of this machine.
    Output,
    /// After routing.
    Postrouting,
}

impl Hook {
    fn number(self) -> u32 {
        match self {
            Self::Prerouting => 0,
            Self::Forward => 2,
            Self::Output => 3,
            Self::Postrouting => 4,
        }
    }
}

/// A set or map to be made.
#[derive(Debug, Clone, Copy)]
pub struct SetSpec<'a> {
    /// Its name.
    pub name: &'a str,
    /// The fields of its key.
    pub key: &'a [DataType],
    /// The fields of its data; empty for a set.
    pub data: &'a [DataType],
    /// Elements that rules may add, which then expire; `None` when rules add none.
    pub expiring: Option<u32>,
    /// Keys are ranges.
    pub ranges: bool,
}

impl<'a> SetSpec<'a> {
    /// A set (no data) or map of plain, lasting elements.
    pub fn new(name: &'a str, key: &'a [DataType], data: &'a [DataType]) -> Self {
        Self { name, key, data, expiring: None, ranges: false }
    }
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Element {
    /// A key of a set.
    Key(Key),
    /// A key and the last key of its range.
    Range(Key, Key),
    /// A key with data.
    Value(Key, Key),
    /// A key of a verdict map and the chain to jump to.
    Jump(Key, String),
    /// A key with data that goes by itself.
    Expiring(Expiring),
}

/// An element that goes by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expiring {
    /// Its key.
    pub key: Key,
    /// Its data.
    pub data: Key,
    /// How long it stays from when it was last touched, in milliseconds.
    pub timeout_ms: u64,
    /// How long it stays from now on, in milliseconds.
    pub left_ms: u64,
}

/// Messages for one table of one family.
#[derive(Debug)]
pub struct Batch {
    writer: Writer,
    family: Family,
    /// `NFPROTO_*` of the table: that of `family`, or `NFPROTO_INET`.
    number: u8,
    table: String,
    messages: usize,
    sets: u32,
}

impl Batch {
    /// An empty batch for this table.
    pub fn new(family: Family, table: &str) -> Self {
        let mut writer = Writer::new();
        writer.message("begin batch", NFNL_MSG_BATCH_BEGIN, 0, &batch_header(), |_| {});
        let number = family.number();
        Self { writer, family, number, table: table.to_owned(), messages: 0, sets: 0 }
    }

    /// An empty batch for a table of the `inet` family, whose rules are about IPv4 packets.
    pub fn inet(table: &str) -> Self {
        const NFPROTO_INET: u8 = 1;
        Self { number: NFPROTO_INET, ..Self::new(Family::Ipv4, table) }
    }

    /// Whether there is anything to send.
    pub fn is_empty(&self) -> bool {
        self.messages == 0
    }

    /// The encoded messages; `None` when there is nothing to do.
    pub(super) fn finish(mut self) -> Option<Writer> {
        if self.is_empty() {
            return None;
        }
        // The kernel queues answers until it has committed.
        self.writer.acknowledge_last();
        self.writer.message("end batch", NFNL_MSG_BATCH_END, 0, &batch_header(), |_| {});
        Some(self.writer)
    }

    fn push(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        body: impl FnOnce(&mut Attributes<'_>, Family),
    ) {
        let family = self.family;
        let table = &self.table;
        self.writer.message(
            label,
            NFNL_SUBSYS_NFTABLES << 8 | kind,
            flags,
            &[self.number, 0, 0, 0],
            |a| {
                // The table's name is attribute 1 of every kind of message.
                a.string(1, table);
                body(a, family);
            },
        );
        self.messages += 1;
    }

    /// Makes the table when it is missing.
    pub fn table(&mut self) {
        self.push("create table", NEWTABLE, CREATE, |_, _| {});
    }

    /// Deletes the table with all it holds; an error when it is missing.
    pub fn delete_table(&mut self) {
        self.push("delete table", DELTABLE, 0, |_, _| {});
    }

    /// Empties the table by making it anew within the batch.
    pub fn replace_table(&mut self) {
        self.table();
        self.delete_table();
        self.table();
    }

    /// Makes a chain that others jump to.
    pub fn chain(&mut self, name: &str) {
        self.push("create chain", NEWCHAIN, CREATE, |a, _| a.string(3, name));
    }

    /// Deletes a chain with its rules, to which nothing may lead any more.
    pub fn delete_chain(&mut self, name: &str) {
        self.push("delete chain", DELCHAIN, 0, |a, _| a.string(3, name));
    }

    /// Makes a base chain with policy accept. `kind` is `nat`, `filter`.
    pub fn base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.push("create base chain", NEWCHAIN, CREATE, |a, _| {
            a.string(3, name);
            a.nest(4, |a| {
                a.be32(1, hook.number());
                a.be32(2, priority as u32);
            });
            a.be32(5, 1);
            a.string(7, kind);
        });
    }

    /// Appends a rule.
    pub fn rule(&mut self, chain: &str, body: impl FnOnce(&mut Rule<'_, '_>)) {
        self.push("create rule", NEWRULE, CREATE | NLM_F_APPEND, |a, family| {
            a.string(2, chain);
            a.nest(4, |list| body(&mut Rule { list, family }));
        });
    }

    /// Puts a rule at the head of a chain, with a comment of at most 253 bytes.
    pub fn insert_rule(
        &mut self,
        chain: &str,
        comment: &str,
        body: impl FnOnce(&mut Rule<'_, '_>),
    ) {
        let text = &comment.as_bytes()[..comment.len().min(MAX_COMMENT_BYTES)];
        let header = [USERDATA_COMMENT, text.len() as u8 + 1];
        let comment = [&header[..], text, &[0]].concat();
        self.push("insert rule", NEWRULE, CREATE, |a, family| {
            a.string(2, chain);
            a.nest(4, |list| body(&mut Rule { list, family }));
            a.bytes(7, &comment);
        });
    }

    /// Deletes a rule by its handle.
    pub fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.push("delete rule", DELRULE, 0, |a, _| {
            a.string(2, chain);
            a.be64(3, handle);
        });
    }

    /// Makes a set or map.
    pub fn set(&mut self, spec: SetSpec<'_>) {
        self.sets += 1;
        let id = self.sets;
        let mut flags = 0;
        if !spec.data.is_empty() {
            flags |= SET_MAP;
        }
        if spec.expiring.is_some() {
            flags |= SET_TIMEOUT | SET_EVAL;
        }
        if spec.ranges {
            flags |= SET_INTERVAL | if spec.key.len() > 1 { SET_CONCAT } else { 0 };
        }
        self.push("create set", NEWSET, CREATE, |a, _| {
            a.string(2, spec.name);
            a.be32(3, flags);
            a.be32(4, DataType::concatenated(spec.key));
            a.be32(5, DataType::concatenated_length(spec.key));
            if !spec.data.is_empty() {
                a.be32(6, DataType::concatenated(spec.data));
                a.be32(7, DataType::concatenated_length(spec.data));
            }
            a.be32(10, id);
            if let Some(size) = spec.expiring {
                a.nest(9, |a| a.be32(1, size));
            }
            if spec.ranges && spec.key.len() > 1 {
                a.nest(9, |a| {
                    a.nest(2, |a| {
                        for field in spec.key {
                            a.nest(1, |a| a.be32(1, field.length()));
                        }
                    });
                });
            }
        });
    }

    /// Adds elements to a set or map.
    pub fn add(&mut self, set: &str, elements: &[Element]) {
        self.elements("add elements", NEWSETELEM, CREATE, set, elements);
    }

    /// Removes elements from a set or map; an error when one is missing.
    pub fn remove(&mut self, set: &str, elements: &[Element]) {
        self.elements("remove elements", DELSETELEM, 0, set, elements);
    }

    fn elements(
        &mut self,
        label: &'static str,
        kind: u16,
        flags: u16,
        set: &str,
        elements: &[Element],
    ) {
        for chunk in elements.chunks(ELEMENTS_PER_MESSAGE) {
            self.push(label, kind, flags, |a, _| {
                a.string(2, set);
                a.nest(3, |a| chunk.iter().for_each(|element| write_element(a, element)));
            });
        }
    }
}

fn write_element(a: &mut Attributes<'_>, element: &Element) {
    let value = |a: &mut Attributes<'_>, kind: u16, key: &Key| {
        a.nest(kind, |a| a.bytes(DATA_VALUE, &key.0));
    };
    a.nest(1, |a| match element {
        Element::Key(key) => value(a, ELEM_KEY, key),
        Element::Range(first, last) => {
            value(a, ELEM_KEY, first);
            value(a, ELEM_KEY_END, last);
        }
        Element::Value(key, data) => {
            value(a, ELEM_KEY, key);
            value(a, ELEM_DATA, data);
        }
        Element::Expiring(element) => {
            value(a, ELEM_KEY, &element.key);
            value(a, ELEM_DATA, &element.data);
            a.be64(ELEM_TIMEOUT, element.timeout_ms);
            a.be64(ELEM_EXPIRATION, element.left_ms);
        }
        Element::Jump(key, chain) => {
            value(a, ELEM_KEY, key);
            a.nest(ELEM_DATA, |a| Verdict::Jump(chain).write(a));
        }
    });
}

fn batch_header() -> [u8; 4] {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    [libc::AF_UNSPEC as u8, 0, high, low]
}

/// Lists `(key, data)` of every element of a map.
pub fn dump_elements(
    socket: &Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<Vec<(Key, Key)>, NetlinkError> {
    dump(socket, family, table, set, parse_element)
}

/// Lists the elements of a map whose elements go by themselves.
pub fn dump_expiring(
    socket: &Socket,
    family: Family,
    table: &str,
    set: &str,
) -> Result<Vec<Expiring>, NetlinkError> {
    dump(socket, family, table, set, |element| {
        let (key, data) = parse_element(element)?;
        let number = |kind| attribute(element, kind)?.try_into().ok().map(u64::from_be_bytes);
        let timeout_ms = number(ELEM_TIMEOUT)?;
        Some(Expiring { key, data, timeout_ms, left_ms: number(ELEM_EXPIRATION)? })
    })
}

fn dump<T>(
    socket: &Socket,
    family: Family,
    table: &str,
    set: &str,
    parse: impl Fn(&[u8]) -> Option<T>,
) -> Result<Vec<T>, NetlinkError> {
    let mut writer = Writer::new();
    writer.message(
        "list elements",
        NFNL_SUBSYS_NFTABLES << 8 | GETSETELEM,
        DUMP,
        &[family.number(), 0, 0, 0],
        |a| {
            a.string(1, table);
            a.string(2, set);
        },
    );
    socket.dump(&writer, |found: &mut Vec<T>, message| {
        let elements = attribute(message.after(4), 3).unwrap_or(&[]);
        found.extend(attributes(elements).filter_map(|(_, element)| parse(element)));
    })
}

/// The key and (possibly empty) data of one dumped element.
fn parse_element(element: &[u8]) -> Option<(Key, Key)> {
    let key = nested(element, &[ELEM_KEY, DATA_VALUE])?;
    let data = nested(element, &[ELEM_DATA, DATA_VALUE]).unwrap_or(&[]);
    Some((Key(key.to_vec()), Key(data.to_vec())))
}
