//! No socket that the kernel lists makes the readers panic.

use super::*;

/// Bytes of the header of a netlink message.
const HEADER: usize = 16;

#[test]
fn sockets_and_proc_lines() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/netlink"), |bytes| {
        parse_listener(bytes.get(HEADER..).unwrap_or_default(), Protocol::Tcp);
        parse_proc_line(&String::from_utf8_lossy(bytes), Protocol::Tcp, TCP_LISTEN);
    });
}
