//! Netlink as this crate needs it: pure message encoding and parsing, one blocking socket, and one
//! that waits for notifications.

#[cfg(any(test, fuzzing))]
pub mod fuzz_targets;
mod message;
mod notifications;
mod socket;

#[cfg(any(test, fuzzing))]
pub use message::messages;
pub use message::{ACK, Attributes, CREATE, DUMP, EXCL, REPLACE, Writer};
pub use message::{Message, attribute, attributes, nested};
pub use notifications::{Notifications, Received};
pub use socket::{NetlinkError, Protocol, Socket};
