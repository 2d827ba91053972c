//! No answer of the kernel makes the readers of netlink messages panic.

use super::attributes;
use super::message::messages;

/// Reads attributes as nested ones, too, as deep as they go.
fn descend(bytes: &[u8], depth: usize) {
    for (_, value) in attributes(bytes) {
        if depth > 0 {
            descend(value, depth - 1);
        }
    }
}

#[test]
fn dumps() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), |bytes| {
        for message in messages(bytes) {
            for header in [0, 4, 12, 16] {
                descend(message.after(header), 4);
            }
        }
    });
}
