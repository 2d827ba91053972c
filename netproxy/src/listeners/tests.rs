//! Listeners of this process are found with their addresses, and their owner is this process.

use std::net::{Ipv6Addr, TcpListener, UdpSocket};

use super::*;

#[path = "../../../integration/src/skip.rs"]
mod skip;

fn ours(listeners: &[Listener], protocol: Protocol, port: u16) -> Vec<Listener> {
    let is_ours = |l: &&Listener| l.protocol == protocol && l.port == port;
    listeners.iter().filter(is_ours).cloned().collect()
}

#[test]
fn scan_finds_listeners_and_their_process() {
    let any = TcpListener::bind("0.0.0.0:0").unwrap();
    let local = UdpSocket::bind("127.0.0.2:0").unwrap();
    let connected = UdpSocket::bind("127.0.0.1:0").unwrap();
    connected.connect("127.0.0.1:9").unwrap();
    let port = |address: std::net::SocketAddr| address.port();
    let listeners = scan().unwrap();

    let [tcp] = &ours(&listeners, Protocol::Tcp, port(any.local_addr().unwrap()))[..] else {
        panic!("{listeners:?}");
    };
    assert!(tcp.takes_every_ipv4());
    let process = process_of(tcp.inode).unwrap();
    assert_eq!(process.pid, std::process::id());
    assert!(!process.name.is_empty());
    let [udp] = &ours(&listeners, Protocol::Udp, port(local.local_addr().unwrap()))[..] else {
        panic!("{listeners:?}");
    };
    assert!(udp.takes([127, 0, 0, 2].into()) && !udp.takes([127, 0, 0, 1].into()));
    let client = port(connected.local_addr().unwrap());
    assert_eq!(ours(&listeners, Protocol::Udp, client), [], "a connected socket is no listener");
    assert_eq!(process_of(0), None);
}

#[test]
fn dual_stack_listener_takes_ipv4() {
    let Ok(any) = TcpListener::bind("[::]:0") else {
        skip::skip("this kernel has no IPv6", "ipv6");
        return;
    };
    let port = any.local_addr().unwrap().port();
    let found = ours(&scan().unwrap(), Protocol::Tcp, port);
    assert!(found.iter().any(Listener::takes_every_ipv4), "{found:?}");
    assert!(found[0].takes(Ipv6Addr::LOCALHOST.into()));
    let only = Listener { ipv6_only: true, ..found[0].clone() };
    assert!(!only.takes([127, 0, 0, 1].into()) && only.takes(Ipv6Addr::LOCALHOST.into()));
}

#[test]
fn claims_conflict_by_address_port_and_protocol() {
    let listener = |protocol, address: &str, port| Listener {
        protocol,
        address: address.parse().unwrap(),
        port,
        inode: 1,
        ipv6_only: false,
    };
    let listeners = [
        listener(Protocol::Tcp, "0.0.0.0", 80),
        listener(Protocol::Tcp, "127.0.0.1", 8080),
        listener(Protocol::Udp, "::", 53),
    ];
    for (protocol, address, port, expected) in [
        (Protocol::Tcp, Some("192.0.2.1"), 80, true),
        (Protocol::Udp, Some("192.0.2.1"), 80, false),
        (Protocol::Tcp, Some("192.0.2.1"), 8080, false),
        (Protocol::Tcp, Some("0.0.0.0"), 8080, true),
        (Protocol::Tcp, None, 8080, true),
        (Protocol::Udp, Some("192.0.2.1"), 53, true),
        (Protocol::Tcp, None, 81, false),
    ] {
        let address = address.map(|text| text.parse().unwrap());
        let found = conflict(&listeners, protocol, address, port).is_some();
        assert_eq!(found, expected, "{protocol:?} {address:?} {port}");
    }
}

#[test]
fn proc_tables_agree_with_diagnostics() {
    let held = TcpListener::bind("127.0.0.3:0").unwrap();
    let port = held.local_addr().unwrap().port();
    let wanted = ours(&scan().unwrap(), Protocol::Tcp, port);
    let found = from_proc(libc::AF_INET, Protocol::Tcp, TCP_LISTEN);
    assert_eq!(ours(&found, Protocol::Tcp, port), wanted);
    assert_eq!(wanted.len(), 1);
}
