//! Remembers what the machine's resolvers answered, for as long as they allow.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use crate::wire::{Question, Response, kind};

/// Answers kept; the oldest goes first.
const MAX_ENTRIES: usize = 4096;
/// Bytes of one answer that is worth keeping.
const MAX_BYTES: usize = 4096;
const MAX_SECONDS: u32 = 3600;
const MAX_NEGATIVE_SECONDS: u32 = 300;

#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    ttls: Vec<usize>,
    stored: Instant,
    seconds: u32,
}

/// A bounded cache of answers.
#[derive(Debug, Default)]
pub struct Cache {
    entries: HashMap<Question, Entry>,
    order: VecDeque<Question>,
}

impl Cache {
    /// A remembered answer with what is left of its times to live; its id is that of the first
    /// asker.
    pub fn get(&mut self, key: &Question, now: Instant) -> Option<Vec<u8>> {
        let entry = self.entries.get(key)?;
        let age = now.saturating_duration_since(entry.stored).as_secs();
        if age >= u64::from(entry.seconds) {
            return None;
        }
        let mut bytes = entry.bytes.clone();
        for at in &entry.ttls {
            if let Some(slot) = bytes.get_mut(*at..at + 4) {
                let ttl = u32::from_be_bytes([slot[0], slot[1], slot[2], slot[3]]);
                slot.copy_from_slice(&ttl.saturating_sub(age as u32).to_be_bytes());
            }
        }
        Some(bytes)
    }

    /// Remembers an answer when it may be.
    pub fn put(&mut self, key: Question, bytes: &[u8], response: &Response, now: Instant) {
        let Some(seconds) = lifetime(bytes, response).filter(|seconds| *seconds > 0) else {
            return;
        };
        if bytes.len() > MAX_BYTES {
            return;
        }
        let records = response.answers.iter().chain(&response.others);
        let ttls = records.filter(|r| r.kind != kind::OPT).map(|r| r.ttl_at).collect();
        let entry = Entry { bytes: bytes.to_vec(), ttls, stored: now, seconds };
        if self.entries.insert(key.clone(), entry).is_none() {
            self.order.push_back(key);
        }
        while self.entries.len() > MAX_ENTRIES {
            let Some(oldest) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
    }
}

/// How many seconds an answer may be kept (RFC 2308 §5 for negative ones).
fn lifetime(bytes: &[u8], response: &Response) -> Option<u32> {
    const NO_ERROR: u16 = 0;
    const NX_DOMAIN: u16 = 3;
    if response.truncated || !matches!(response.code, NO_ERROR | NX_DOMAIN) {
        return None;
    }
    if response.code == NO_ERROR && !response.answers.is_empty() {
        let records = response.answers.iter().chain(&response.others);
        let least = records.filter(|r| r.kind != kind::OPT).map(|r| r.ttl).min()?;
        return Some(least.min(MAX_SECONDS));
    }
    let soa = response.others.iter().find(|record| record.kind == kind::SOA)?;
    Some(soa.ttl.min(soa.soa_minimum(bytes)?).min(MAX_NEGATIVE_SECONDS))
}
