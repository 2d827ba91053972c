//! Entry points for fuzzing: no notification about rules makes the reader panic.

use super::*;
use crate::netlink::messages;

/// Port of the socket through which this program changes rules.
const OWN_PORT: u32 = 7;
const SIBLING: Sibling = Sibling { table: "coracle-pods", port: None };
const WATCHED: Watched = Watched { table: "coracle", siblings: &[SIBLING], own_port: OWN_PORT };

/// Reads notifications: this program's own changes count for nothing, and a change is either one of
/// the watched table or of another.
pub fn rule_notifications(bytes: &[u8]) {
    for message in messages(bytes) {
        let own = message.port == OWN_PORT;
        let change = WATCHED.look_at(message);
        assert!(!(own && change.is_any()), "an own change counts");
        assert!(!change.lost);
        assert!(!(change.ours && change.others));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_notifications_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/nftables"), rule_notifications);
    }
}
