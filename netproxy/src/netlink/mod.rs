//! Netlink as this crate needs it: pure message encoding and parsing, and one blocking socket.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
mod message;
mod socket;

pub use message::{ACK, Attributes, CREATE, DUMP, EXCL, REPLACE, Writer};
pub use message::{attribute, attributes, nested};
pub use socket::{NetlinkError, Protocol, Socket};
