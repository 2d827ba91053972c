//! Entry points for fuzzing: no socket that the kernel lists makes the readers panic, and a listener is
//! in the way of a claim on its own address.

use super::*;
use crate::netlink::messages;

/// Reads a dump of sockets, and lines of `/proc/net/tcp`.
pub fn host_listeners(bytes: &[u8]) {
    for message in messages(bytes) {
        if let Some(listener) = parse_listener(message.payload, Protocol::Tcp) {
            assert_ne!(listener.port, 0);
            assert_claimed(&listener);
        }
    }
    for line in String::from_utf8_lossy(bytes).lines() {
        if let Some(listener) = parse_proc_line(line, Protocol::Tcp, TCP_LISTEN) {
            assert_claimed(&listener);
        }
    }
}

fn assert_claimed(listener: &Listener) {
    let all = std::slice::from_ref(listener);
    let (protocol, address, port) = (listener.protocol, listener.address, listener.port);
    assert_eq!(conflict(all, protocol, Some(address), port), Some(listener));
    assert_eq!(conflict(all, protocol, None, port), Some(listener));
    assert_eq!(conflict(all, Protocol::Udp, Some(address), port), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_sockets_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/sockets"), host_listeners);
    }
}
