//! No pod and no Service takes what belongs to the node, to its neighbours or to its users.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use coracle_netproxy::{HostPort, Protocol};
use serde_json::json;

use crate::support::{
    API_PORT, CLIENT_IP, DNS_IP, NODE, NODE_IP, ask_udp_on, ip, on_a_node, pod, pod_with, run,
    service, skip, slice,
};

fn port(host_ip: Option<Ipv4Addr>, host_port: u16) -> HostPort {
    let host_ip = host_ip.map(IpAddr::from);
    HostPort { host_ip, host_port, container_port: 80, protocol: Protocol::Tcp }
}

#[test]
fn api_and_dns_ports_are_never_taken() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        NODE.serve(API_PORT, "api");
        NODE.serve_on(DNS_IP, 53, "dns");
        let ports = vec![
            port(None, API_PORT),
            port(Some(NODE_IP), API_PORT),
            port(Some(Ipv4Addr::LOCALHOST), API_PORT),
            port(None, 53),
            port(Some(DNS_IP), 53),
        ];
        let (a, in_a) = pod_with(&network, "a", ports).await;
        in_a.serve(80, "pod");
        let (_, in_b) = pod(&network, "b").await;
        let mut proxy = node.proxy();
        let spec = json!({
            "type": "LoadBalancer", "externalIPs": [NODE_IP.to_string(), "127.0.0.1"],
            "ports": [{"port": API_PORT, "nodePort": API_PORT, "protocol": "TCP"}],
            "status": {"loadBalancer": {"ingress": [{"ip": NODE_IP.to_string()}]}},
        });
        proxy.set_service(service("thief", "10.47.240.77", spec));
        proxy.set_slice(slice("thief", "TCP", 80, &[(a.address, true)]));
        proxy.flush().unwrap();

        for place in [&NODE, &outside, &in_a, &in_b] {
            let answer = place.ask(NODE_IP, API_PORT);
            assert!(answer.starts_with("api "), "{:?}: {answer}", place.netns);
        }
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, API_PORT).starts_with("api "));
        assert!(in_b.ask(DNS_IP, 53).starts_with("dns "));
        assert!(NODE.ask(DNS_IP, 53).starts_with("dns "));
        assert!(outside.ask(NODE_IP, 53).starts_with("pod "), "the node's own address is free");
    });
}

/// Drops tracked packets to and from this port.
fn drop_tracked(port: u16) {
    for family in ["ip", "ip6"] {
        for hook in ["prerouting", "input", "output"] {
            let chain = format!("{family} untracked-only {hook}");
            run("nft", &format!("add table {family} untracked-only"));
            run("nft", &format!("add chain {chain} {{ type filter hook {hook} priority 0; }}"));
            for direction in ["dport", "sport"] {
                let rule = format!("tcp {direction} {port} ct state != untracked drop");
                run("nft", &format!("add rule {chain} {rule}"));
            }
        }
    }
}

#[test]
fn api_at_the_loopback_needs_no_tracking() {
    on_a_node(|node| async move {
        let network = node.network().await;
        NODE.serve(API_PORT, "api");
        NODE.serve_on(Ipv4Addr::LOCALHOST, 9000, "other");
        let listener = std::net::TcpListener::bind((Ipv6Addr::LOCALHOST, API_PORT)).unwrap();
        let mut proxy = node.proxy();
        let spec = json!({
            "type": "NodePort",
            "ports": [{"port": 443, "nodePort": 30443, "protocol": "TCP"}],
        });
        proxy.set_service(service("kubernetes", "10.47.240.1", spec));
        proxy.set_slice(slice("kubernetes", "TCP", API_PORT, &[(NODE_IP.into(), true)]));
        proxy.flush().unwrap();
        ip(&format!("addr add {NODE_IP}/32 dev lo"));
        let (_, in_a) = pod(&network, "a").await;
        let reach = |expected: &str| {
            let cluster_ip = Ipv4Addr::new(10, 47, 240, 1);
            assert_eq!(NODE.ask(Ipv4Addr::LOCALHOST, API_PORT), "api 127.0.0.1");
            for (place, address, port) in [
                (&NODE, cluster_ip, 443),
                (&NODE, Ipv4Addr::LOCALHOST, 30443),
                (&NODE, NODE_IP, 30443),
                (&NODE, NODE_IP, API_PORT),
                (&in_a, cluster_ip, 443),
                (&in_a, NODE_IP, API_PORT),
            ] {
                let answer = place.ask(address, port);
                assert!(
                    answer.starts_with(expected),
                    "{:?} {address}:{port} {answer}",
                    place.netns
                );
            }
        };
        reach("api ");

        drop_tracked(API_PORT);
        drop_tracked(9000);
        reach("TimedOut");
        assert_eq!(NODE.ask(Ipv4Addr::LOCALHOST, 9000), "TimedOut", "another port is tracked");
        let address = SocketAddr::from((Ipv6Addr::LOCALHOST, API_PORT));
        let wait = std::time::Duration::from_secs(2);
        NODE.run(move || std::net::TcpStream::connect_timeout(&address, wait).unwrap());
        drop(listener);
    });
}

#[test]
fn host_ip_elsewhere_intercepts_nothing() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        outside.serve(80, "world");
        let (victim, in_victim) = pod(&network, "victim").await;
        in_victim.serve(80, "victim");
        let IpAddr::V4(victim_address) = victim.address else { panic!("{victim:?}") };
        let ports = vec![
            port(Some(CLIENT_IP), 80),
            port(Some(victim_address), 80),
            HostPort { host_ip: Some("::1".parse().unwrap()), ..port(None, 8080) },
        ];
        let (_, in_thief) = pod_with(&network, "thief", ports).await;
        in_thief.serve(80, "thief");
        let (_, in_c) = pod(&network, "c").await;
        for place in [&NODE, &in_c] {
            assert!(place.ask(CLIENT_IP, 80).starts_with("world "), "{:?}", place.netns);
            assert!(place.ask(victim_address, 80).starts_with("victim "), "{:?}", place.netns);
        }
        assert_eq!(NODE.ask(NODE_IP, 8080), "ConnectionRefused", "only ::1 was asked for");
    });
}

#[test]
fn external_addresses_leave_pods_and_services_alone() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let (victim, in_victim) = pod(&network, "victim").await;
        in_victim.serve(80, "victim");
        let (thief, in_thief) = pod(&network, "thief").await;
        in_thief.serve(80, "thief");
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        let addresses = [victim.address.to_string(), "10.47.240.78".to_owned()];
        let ingress: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let spec = json!({
            "type": "LoadBalancer", "externalIPs": addresses,
            "status": {"loadBalancer": {"ingress": ingress}},
        });
        proxy.set_service(service("thief", "10.47.240.77", spec));
        proxy.set_slice(slice("thief", "TCP", 80, &[(thief.address, true)]));
        let mut service = service("web", "10.47.240.78", json!({}));
        let late = serde_json::from_value(json!("2030-01-01T00:00:00Z")).unwrap();
        service.metadata.creation_timestamp = Some(late);
        proxy.set_service(service);
        proxy.set_slice(slice("web", "TCP", 80, &[(victim.address, true)]));
        proxy.flush().unwrap();
        assert!(in_c.ask(victim.address, 80).starts_with("victim "));
        assert!(in_c.ask(Ipv4Addr::new(10, 47, 240, 78), 80).starts_with("victim "));
    });
}

#[test]
fn neighbours_reach_frontends_only() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        NODE.serve_on(DNS_IP, 53, "dns");
        let (a, in_a) = pod_with(&network, "a", vec![port(None, 8080)]).await;
        in_a.serve(80, "a");
        let mut proxy = node.proxy();
        let spec = json!({"type": "NodePort",
            "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]});
        proxy.set_service(service("web", "10.47.240.77", spec));
        proxy.set_slice(slice("web", "TCP", 80, &[(a.address, true)]));
        proxy.flush().unwrap();
        assert!(outside.ask(NODE_IP, 8080).starts_with("a "));
        assert!(outside.ask(NODE_IP, 30080).starts_with("a "));
        for (address, number) in
            [(a.address, 80), ([10, 47, 240, 77].into(), 80), (DNS_IP.into(), 53)]
        {
            assert_eq!(outside.ask(address, number), "TimedOut", "{address}");
        }
        assert_eq!(outside.ask_udp(DNS_IP, 53), "WouldBlock");
        // Nor does a neighbour pass for a pod.
        let pretended = outside.run(move || {
            ip("address add 10.44.0.200/32 dev cable");
            let socket = std::net::UdpSocket::bind("10.44.0.200:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(500))).unwrap();
            ask_udp_on(&socket, SocketAddr::new(NODE_IP.into(), 30080))
        });
        assert_eq!(pretended, "WouldBlock");
    });
}

#[test]
fn router_advertisements_of_pods_change_nothing() {
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        skip::skip("this kernel has no IPv6", "ipv6");
        return;
    }
    on_a_node(|node| async move {
        let network = node.network().await;
        let (_, in_a) = pod(&network, "a").await;
        // The pool is filled in the background.
        for _ in 0..100 {
            if ip("-o link show group 1668248161").lines().count() >= 3 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let links: Vec<String> = std::fs::read_dir("/sys/class/net")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.starts_with("cor") && name.len() == 15)
            .collect();
        assert!(links.len() >= 2, "the pod's and a prepared one: {links:?}");
        for (setting, value) in [("disable_ipv6", "1\n"), ("accept_ra", "0\n")] {
            let path = |link: &str| format!("/proc/sys/net/ipv6/conf/{link}/{setting}");
            for link in &links {
                assert_eq!(std::fs::read_to_string(path(link)).unwrap(), value, "{link}");
            }
            let inside = path("eth0");
            assert_eq!(in_a.run(move || std::fs::read_to_string(inside).unwrap()), value);
        }
        in_a.run(advertise);
        std::thread::sleep(std::time::Duration::from_millis(300));
        let unchanged = || {
            let (routes, addresses) = (ip("-6 route show"), ip("-6 addr show"));
            assert!(
                !routes.contains("proto ra") && !addresses.contains("2001:db8:bad"),
                "{routes}"
            );
        };
        unchanged();
        // Settings that a program of the host turns back do not open the way.
        for link in &links {
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/disable_ipv6"), "0").unwrap();
            std::fs::write(format!("/proc/sys/net/ipv6/conf/{link}/accept_ra"), "2").unwrap();
        }
        in_a.run(advertise);
        std::thread::sleep(std::time::Duration::from_millis(300));
        unchanged();
    });
}

/// Sends a router advertisement that offers a default route and a prefix.
#[allow(unsafe_code)]
fn advertise() {
    const HOP_LIMIT: u8 = 255;
    const ICMPV6: u8 = 58;
    let mac = std::fs::read_to_string("/sys/class/net/eth0/address").unwrap_or_default();
    let mac: Vec<u8> =
        mac.trim().split(':').filter_map(|x| u8::from_str_radix(x, 16).ok()).collect();
    let mac: [u8; 6] = mac.try_into().unwrap_or([2, 0, 0, 0, 0, 1]);
    let source: std::net::Ipv6Addr = "fe80::bad".parse().unwrap();
    let target: std::net::Ipv6Addr = "ff02::1".parse().unwrap();
    let prefix: std::net::Ipv6Addr = "2001:db8:bad::".parse().unwrap();
    let mut body = vec![134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1];
    body.extend_from_slice(&mac);
    body.extend_from_slice(&[3, 4, 64, 0xc0, 0, 0, 7, 8, 0, 0, 7, 8, 0, 0, 0, 0]);
    body.extend_from_slice(&prefix.octets());
    let mut sum: u32 = body.len() as u32 + u32::from(ICMPV6);
    for pair in [&source.octets()[..], &target.octets(), &body].concat().chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    body[2..4].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend_from_slice(&mac);
    frame.extend_from_slice(&[0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend_from_slice(&(body.len() as u16).to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, HOP_LIMIT]);
    frame.extend_from_slice(&source.octets());
    frame.extend_from_slice(&target.octets());
    frame.extend_from_slice(&body);

    let index = nix::net::if_::if_nametoindex("eth0").unwrap();
    // SAFETY: the socket is closed below; the address and the frame outlive the calls.
    let sent = unsafe {
        let fd = nix::libc::socket(nix::libc::AF_PACKET, nix::libc::SOCK_RAW, 0);
        let mut address: nix::libc::sockaddr_ll = std::mem::zeroed();
        address.sll_family = nix::libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        let length = std::mem::size_of_val(&address) as u32;
        let address = (&raw const address).cast();
        let sent = nix::libc::sendto(fd, frame.as_ptr().cast(), frame.len(), 0, address, length);
        nix::libc::close(fd);
        sent
    };
    assert_eq!(sent, frame.len() as isize);
}
