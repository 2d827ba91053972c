//! No link and no route that the kernel tells of makes the readers panic.

use super::*;

/// Bytes of the header of a netlink message.
const HEADER: usize = 16;

#[test]
fn links_and_routes() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), |bytes| {
        let payload = bytes.get(HEADER..).unwrap_or_default();
        parse_link(payload);
        parse_default_route(payload);
        parse_own_route(payload);
    });
}
