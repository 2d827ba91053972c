//! Notices when another program changes rules: ours, which are then written again, or those of a
//! firewall, which is then looked at again.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;

use std::time::Duration;

use crate::netlink::{
    ACK, Message, NetlinkError, Notifications, Received, Socket, Writer, attribute,
};

const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NEWGEN: u16 = 15;
const GETGEN: u16 = 16;
/// Kinds below this one are about tables, chains and rules rather than about sets.
const NEWSET: u16 = 9;
const ATTRIBUTE_TABLE: u16 = 1;
const GENERATION_ID: u16 = 1;

/// A reload of a firewall is several transactions: what comes this soon after the first one is
/// handled together with it.
const DEBOUNCE: Duration = Duration::from_millis(300);

/// The changes by other programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Foreign {
    /// Something in the tables that are watched.
    pub ours: bool,
    /// A table, chain or rule that is not ours.
    pub others: bool,
    /// Notifications were lost, see [`Baseline`].
    pub lost: bool,
}

impl Foreign {
    fn is_any(self) -> bool {
        self != Self::default()
    }

    fn and(self, more: Self) -> Self {
        Self {
            ours: self.ours || more.ours,
            others: self.others || more.others,
            lost: self.lost || more.lost,
        }
    }
}

/// A table of this crate whose changes are not a monitor's matter.
#[derive(Debug, Clone, Copy)]
pub struct Sibling {
    /// The table's name, in every family.
    pub table: &'static str,
    /// The port of the socket that changes this table and no other, as a rule.
    pub port: Option<u32>,
}

/// Watches the tables of one name in every family.
#[derive(Debug)]
pub struct Monitor {
    notifications: Notifications,
    watched: Watched,
    /// Changes that were seen and not yet returned.
    pending: Foreign,
}

impl Monitor {
    /// Watches from now on; changes through `own` and through the sockets of siblings do not count.
    pub fn open(
        own: &Socket,
        table: &'static str,
        siblings: &'static [Sibling],
    ) -> Result<Self, NetlinkError> {
        let ports: Vec<u32> =
            siblings.iter().filter_map(|sibling| sibling.port).chain([own.port()]).collect();
        let notifications = Notifications::open(NFNLGRP_NFTABLES, &ports)?;
        let pending = Foreign::default();
        let watched = Watched { table, siblings, own_port: own.port() };
        Ok(Self { notifications, watched, pending })
    }

    /// Waits until another program changed something, and then for what belongs to it. Cancelling
    /// loses nothing.
    pub async fn changed(&mut self) -> Result<Foreign, NetlinkError> {
        while !self.pending.is_any() {
            let mut seen = Foreign::default();
            let note = |message: Message<'_>| seen = seen.and(self.watched.look_at(message));
            let received = self.notifications.next(note).await?;
            seen.lost |= received == Received::Lost;
            self.pending = self.pending.and(seen);
        }
        tokio::time::sleep(DEBOUNCE).await;
        loop {
            let mut seen = Foreign::default();
            let note = |message: Message<'_>| seen = seen.and(self.watched.look_at(message));
            let received = self.notifications.take(note)?;
            seen.lost |= received == Received::Lost;
            self.pending = self.pending.and(seen);
            if received == Received::Nothing {
                return Ok(std::mem::take(&mut self.pending));
            }
        }
    }
}

/// The changes that count.
#[derive(Debug, Clone, Copy)]
struct Watched {
    /// The tables of this name, in every family.
    table: &'static str,
    siblings: &'static [Sibling],
    /// Netlink port of the socket whose changes do not count.
    own_port: u32,
}

impl Watched {
    fn look_at(self, message: Message<'_>) -> Foreign {
        let kind = message.kind & 0xff;
        let about_nftables = message.kind >> 8 == NFNL_SUBSYS_NFTABLES;
        let own = message.port == self.own_port;
        let table = attribute(message.after(4), ATTRIBUTE_TABLE).unwrap_or_default();
        let table = table.strip_suffix(&[0]).unwrap_or(table);
        if !about_nftables || kind == NEWGEN || own || table.is_empty() {
            return Foreign::default();
        }
        let ours = table == self.table.as_bytes();
        let sibling = self.siblings.iter().any(|sibling| sibling.table.as_bytes() == table);
        Foreign { ours, others: kind < NEWSET && !ours && !sibling, lost: false }
    }
}

/// The transactions that the kernel had seen, in all and of one socket, when that socket's rules
/// were known to be right. Shows whether other programs changed rules since, after notifications
/// were lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Baseline {
    all: u32,
    own: u32,
}

impl Baseline {
    /// The counts now. Must not be called while the socket is used for a transaction.
    pub fn now(socket: &Socket) -> Result<Self, NetlinkError> {
        let mut writer = Writer::new();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | GETGEN;
        writer.message("read generation", kind, ACK, &[0; 4], |_| {});
        let generation = socket.dump(&writer, |found: &mut Option<u32>, message| {
            let id = attribute(message.after(4), GENERATION_ID);
            *found = id.and_then(|id| id.try_into().ok()).map(u32::from_be_bytes).or(*found);
        })?;
        Ok(Self { all: generation.unwrap_or_default(), own: socket.commits() })
    }

    /// Returns whether every transaction since `earlier` was the socket's own.
    pub fn is_own_work_since(self, earlier: Self) -> bool {
        self.all.wrapping_sub(earlier.all) == self.own.wrapping_sub(earlier.own)
    }
}
