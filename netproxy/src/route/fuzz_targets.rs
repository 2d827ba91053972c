//! Entry points for fuzzing: no link and no route of the kernel makes the readers panic.

use super::*;

/// Bytes of the header of a netlink message.
const HEADER: usize = 16;

/// Reads a message as a link and as a route.
pub fn link_and_route(bytes: &[u8]) {
    let payload = bytes.get(HEADER..).unwrap_or_default();
    parse_link(payload);
    parse_default_route(payload);
    parse_own_route(payload);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_links_and_routes_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), link_and_route);
    }
}
