//! No rule of another firewall makes the readers panic.

/// Bytes of the header of a netlink message.
const HEADER: usize = 16;

#[test]
fn chains_and_rules() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), |bytes| {
        super::chains::read_anything(bytes.get(HEADER..).unwrap_or_default());
        super::chains::read_anything(bytes);
    });
}
