//! Entry points for fuzzing: no answer of the kernel makes the readers of netlink messages panic.

use super::attributes;
use super::message::messages;

/// Depth to which attributes are read as nested ones.
const DEPTH: usize = 4;

/// Reads a dump of messages and their attributes.
pub fn netlink_dump(bytes: &[u8]) {
    for message in messages(bytes) {
        for header in [0, 4, 12, 16] {
            descend(message.after(header), DEPTH);
        }
    }
}

fn descend(bytes: &[u8], depth: usize) {
    for (_, value) in attributes(bytes) {
        if depth > 0 {
            descend(value, depth - 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_dumps_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), netlink_dump);
    }
}
