//! nf_tables over netlink: an encoder of the few messages and expressions that our two tables
//! need. Pure except for [`send`].

mod batch;
mod expression;
pub mod monitor;
mod types;

pub use batch::{Batch, Element, Expiring, Hook, SetSpec, dump_elements, dump_expiring};
pub use expression::{Direction, FibResult, Meta, Register, Rule, Verdict};
pub use monitor::{Baseline, Foreign, Monitor, Sibling};
pub use types::{DataType, Family, Key};

use crate::netlink::{NetlinkError, Socket};

/// Sends a batch: the kernel takes all of it or nothing.
pub fn send(socket: &Socket, batch: Batch) -> Result<(), NetlinkError> {
    match batch.finish() {
        Some(writer) => {
            socket.request(&writer)?;
            socket.count_commit();
            Ok(())
        }
        None => Ok(()),
    }
}
