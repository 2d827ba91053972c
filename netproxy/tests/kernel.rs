//! The pod network and the Service proxy against the kernel, each test on a node of its own.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "kernel/host_first.rs"]
mod host_first;
mod support;
#[path = "kernel/upkeep.rs"]
mod upkeep;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use coracle_netproxy::{HostPort, PodNetwork, Protocol};
use serde_json::json;
use support::{
    CLIENT_IP, DNS_IP, NODE, NODE_IP, Node, Place, answers, ask_on, ask_udp_on, census, ip,
    on_a_node, pod, pod_with, run, service, slice,
};

const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 47, 240, 77);

fn host_port(host_port: u16, container_port: u16, protocol: Protocol) -> HostPort {
    HostPort { host_ip: None, host_port, container_port, protocol }
}

#[test]
fn pods_reach_each_other_and_the_node() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let (a, in_a) = pod(&network, "a").await;
        let (b, in_b) = pod(&network, "b").await;
        assert_ne!(a.address, b.address);
        assert_eq!(a.gateway, IpAddr::from([10, 44, 0, 1]));
        in_b.serve(80, "b");
        NODE.serve(9000, "node");
        assert_eq!(in_a.ask(b.address, 80), format!("b {}", a.address));
        assert_eq!(in_b.ask(b.address, 80), format!("b {}", b.address));
        assert_eq!(NODE.ask(b.address, 80), "b 10.44.0.1");
        assert_eq!(in_a.ask(a.gateway, 9000), format!("node {}", a.address));
        let unused: IpAddr = [10, 44, 9, 9].into();
        assert_eq!(in_a.ask(unused, 80), "HostUnreachable");
        assert_eq!(NODE.ask(unused, 80), "HostUnreachable");
    });
}

#[test]
fn attach_is_idempotent_and_detach_frees() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let (a, _) = pod(&network, "a").await;
        let (again, _) = pod(&network, "a").await;
        assert_eq!(a, again);
        let (b, _) = pod(&network, "b").await;
        network.detach("a").await.unwrap();
        network.detach("a").await.unwrap();
        assert!(!a.netns.exists() && b.netns.exists());
        let (c, _) = pod(&network, "a").await;
        assert_ne!(a.address, c.address, "addresses rest before they are used again");
        network.retain(&HashSet::from(["b".to_owned()])).await.unwrap();
        assert!(!c.netns.exists() && b.netns.exists());
        let mut links = 9;
        for _ in 0..100 {
            links = support::ip("-o link show type veth").lines().count();
            if links <= 5 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert!(links <= 5, "coracle0, coracle1, b and at most two prepared ones remain: {links}");
        assert!(
            network
                .attach(&coracle_netproxy::AttachRequest { uid: "../x".into(), host_ports: vec![] })
                .await
                .is_err()
        );
    });
}

#[test]
fn a_crash_leaves_pods_running_and_the_next_start_adopts_them() {
    on_a_node(|node| async move {
        let before = census(&node.run_dir);
        let network = node.network().await;
        let (a, in_a) = pod_with(&network, "a", vec![host_port(8080, 80, Protocol::Tcp)]).await;
        in_a.serve(80, "a");
        let outside = node.outside();
        let mut stream = outside.connect(NODE_IP, 8080);
        assert_eq!(ask_on(&mut stream), format!("a {CLIENT_IP}"));
        // A process that has crashed fills no pool; this one still does after the drop.
        let pins = || std::fs::read_dir(node.run_dir.join("netns")).unwrap().count();
        for _ in 0..200 {
            if pins() == node.config().pool + 1 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        assert_eq!(pins(), node.config().pool + 1, "the pod's namespace and those of the pool");
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        drop(network);
        std::fs::write(node.run_dir.join("netns/10.44.0.99_cor000000000000"), "").unwrap();
        std::fs::write(node.run_dir.join("attachments/.half.new"), "{").unwrap();

        let network = node.network().await;
        let (adopted, _) = pod_with(&network, "a", vec![host_port(8080, 80, Protocol::Tcp)]).await;
        assert_eq!(a, adopted);
        assert_eq!(ask_on(&mut stream), format!("a {CLIENT_IP}"), "established connection");
        assert_eq!(outside.ask(NODE_IP, 8080), format!("a {CLIENT_IP}"));
        let (b, _) = pod(&network, "b").await;
        assert_ne!(a.address, b.address);
        assert!(!node.run_dir.join("netns/10.44.0.99_cor000000000000").exists());

        network.teardown().await.unwrap();
        support::ip("link delete uplink");
        nix::mount::umount(&node.run_dir.join("outside")).unwrap();
        let mut after = census(&node.run_dir);
        for _ in 0..100 {
            if after == before {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            after = census(&node.run_dir);
        }
        assert_eq!(after, before, "nothing is left behind");
    });
}

#[test]
fn host_ports_lead_to_pods() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        let ports = vec![host_port(8080, 80, Protocol::Tcp), host_port(8053, 80, Protocol::Udp)];
        let (a, in_a) = pod_with(&network, "a", ports).await;
        let (b, in_b) = pod(&network, "b").await;
        in_a.serve(80, "a");
        assert_eq!(outside.ask(NODE_IP, 8080), format!("a {CLIENT_IP}"));
        assert_eq!(outside.ask_udp(NODE_IP, 8053), format!("a {CLIENT_IP}"));
        assert_eq!(NODE.ask(NODE_IP, 8080), format!("a {NODE_IP}"));
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("a "));
        assert!(NODE.ask_udp(Ipv4Addr::LOCALHOST, 8053).starts_with("a "));
        assert_eq!(in_b.ask(NODE_IP, 8080), format!("a {}", b.address));
        assert!(in_a.ask(NODE_IP, 8080).starts_with("a "), "hairpin");

        let socket = outside.udp();
        let target = SocketAddr::new(NODE_IP.into(), 8053);
        assert_eq!(ask_udp_on(&socket, target), format!("a {CLIENT_IP}"));
        network.detach("a").await.unwrap();
        in_b.serve(80, "b");
        assert_eq!(outside.ask(NODE_IP, 8080), "ConnectionRefused");
        pod_with(&network, "b", vec![host_port(8053, 80, Protocol::Udp)]).await;
        assert_eq!(ask_udp_on(&socket, target), format!("b {CLIENT_IP}"), "same flow, new pod");
        drop(a);
    });
}

#[test]
fn only_the_node_reaches_its_loopback() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        let at_localhost = HostPort {
            host_ip: Some(Ipv4Addr::LOCALHOST.into()),
            ..host_port(8081, 80, Protocol::Tcp)
        };
        let (a, in_a) = pod_with(&network, "a", vec![at_localhost]).await;
        in_a.serve(80, "a");
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, 8081).starts_with("a "));
        assert_eq!(NODE.ask(NODE_IP, 8081), "ConnectionRefused");
        assert_eq!(outside.ask(NODE_IP, 8081), "ConnectionRefused");

        // What listens at the loopback is out of reach, whoever is led to it.
        NODE.serve_on(Ipv4Addr::LOCALHOST, 9000, "node");
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, 9000).starts_with("node "));
        let loopback = Ipv4Addr::new(127, 0, 0, 1);
        in_a.run(move || {
            ip("address delete 127.0.0.1/8 dev lo");
            ip("link set lo down");
            ip("route add 127.0.0.1 via 10.44.0.1 dev eth0 onlink");
            std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
            std::fs::write("/proc/sys/net/ipv4/conf/all/route_localnet", "1").unwrap();
        });
        assert_eq!(in_a.ask(loopback, 9000), "TimedOut");
        run("nft", "flush chain ip coracle-pods strangers");
        assert!(in_a.ask(loopback, 9000).starts_with("node "), "the rule is what holds it back");
        drop(a);
    });
}

#[test]
fn pods_reach_the_world_with_the_nodes_address_and_cannot_borrow_addresses() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        outside.serve(80, "world");
        let (_, in_a) = pod(&network, "a").await;
        assert_eq!(in_a.ask(CLIENT_IP, 80), format!("world {NODE_IP}"));
        in_a.run(|| {
            support::ip("addr add 192.0.2.9/32 dev eth0");
        });
        let spoof = in_a.run(|| {
            let socket = std::net::UdpSocket::bind("192.0.2.9:0").unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_millis(300))).unwrap();
            ask_udp_on(&socket, SocketAddr::new(CLIENT_IP.into(), 80))
        });
        assert_eq!(spoof, "WouldBlock");
    });
}

async fn two_backends(node: &Node) -> (PodNetwork, [(IpAddr, Place); 2]) {
    let network = node.network().await;
    let (a, in_a) = pod(&network, "a").await;
    let (b, in_b) = pod(&network, "b").await;
    in_a.serve(8080, "a");
    in_b.serve(8080, "b");
    (network, [(a.address, in_a), (b.address, in_b)])
}

#[test]
fn cluster_ip_from_pods_node_and_itself() {
    on_a_node(|node| async move {
        let (network, [(a, in_a), (b, _)]) = two_backends(&node).await;
        let (c, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        proxy.set_service(service("web", "10.47.240.77", json!({})));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true), (b, true)]));
        proxy.flush().unwrap();

        let both = HashSet::from([format!("a {}", c.address), format!("b {}", c.address)]);
        assert_eq!(answers(30, || in_c.ask(CLUSTER_IP, 80)), both);
        let both = HashSet::from(["a 10.44.0.1".to_owned(), "b 10.44.0.1".to_owned()]);
        assert_eq!(answers(30, || NODE.ask(CLUSTER_IP, 80)), both);
        let itself = answers(30, || in_a.ask(CLUSTER_IP, 80));
        assert!(itself.contains(&format!("b {a}")) && itself.len() == 2, "{itself:?}");

        assert_eq!(in_c.ask(CLUSTER_IP, 81), "ConnectionRefused", "no such port");
        assert_eq!(
            in_c.ask(Ipv4Addr::new(10, 47, 240, 78), 80),
            "ConnectionRefused",
            "no such Service"
        );
        assert_eq!(NODE.ask(Ipv4Addr::new(10, 47, 240, 78), 80), "ConnectionRefused");
        assert_eq!(in_c.ask_udp(Ipv4Addr::new(10, 47, 240, 78), 80), "ConnectionRefused");
        let listing = run("nft", "list ruleset");
        assert!(listing.contains("service-2-masquerade"), "{listing}");
    });
}

#[test]
fn changes_are_incremental_and_leave_connections_alone() {
    on_a_node(|node| async move {
        let (network, [(a, _), (b, _)]) = two_backends(&node).await;
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        proxy.set_service(service("web", "10.47.240.77", json!({})));
        proxy.flush().unwrap();
        assert_eq!(in_c.ask(CLUSTER_IP, 80), "ConnectionRefused", "no endpoints yet");
        assert_eq!(NODE.ask(CLUSTER_IP, 80), "ConnectionRefused");

        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true)]));
        assert_eq!(proxy.flush().unwrap(), 1);
        let mut stream = in_c.connect(CLUSTER_IP, 80);
        assert!(ask_on(&mut stream).starts_with("a "));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true), (b, true)]));
        proxy.flush().unwrap();
        assert_eq!(answers(30, || in_c.ask(CLUSTER_IP, 80)).len(), 2);
        proxy.set_slice(slice("web", "TCP", 8080, &[(b, true)]));
        proxy.flush().unwrap();
        assert!(answers(10, || in_c.ask(CLUSTER_IP, 80)).iter().all(|x| x.starts_with("b ")));
        assert!(ask_on(&mut stream).starts_with("a "), "established connections stay");

        proxy.set_slice(slice("web", "TCP", 8080, &[(a, false), (b, true)]));
        proxy.flush().unwrap();
        assert!(answers(10, || in_c.ask(CLUSTER_IP, 80)).iter().all(|x| x.starts_with("b ")));
        assert_eq!(proxy.flush().unwrap(), 0, "nothing changed");

        drop(proxy);
        let mut proxy = node.proxy();
        assert!(in_c.ask(CLUSTER_IP, 80).starts_with("b "), "rules stay while nobody runs");
        proxy.set_service(service("web", "10.47.240.77", json!({})));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true)]));
        proxy.flush().unwrap();
        assert!(ask_on(&mut stream).starts_with("a "), "a restart disturbs nobody");
        assert!(in_c.ask(CLUSTER_IP, 80).starts_with("a "));

        run("nft", "flush ruleset");
        proxy.set_slice(slice("web", "TCP", 8080, &[(b, true)]));
        proxy.flush().unwrap();
        assert!(in_c.ask(CLUSTER_IP, 80).starts_with("b "), "rules come back after a flush");

        proxy.remove_service(&coracle_netproxy::proxy::ServiceKey {
            namespace: "default".into(),
            name: "web".into(),
        });
        proxy.flush().unwrap();
        assert_eq!(in_c.ask(CLUSTER_IP, 80), "ConnectionRefused");
    });
}

#[test]
fn chains_that_nothing_uses_go() {
    on_a_node(|node| async move {
        let (network, [(a, _), _]) = two_backends(&node).await;
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true)]));
        for seconds in 1..=300 {
            let affinity = json!({"sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}});
            proxy.set_service(service("web", "10.47.240.77", affinity));
            proxy.flush().unwrap();
        }
        assert!(in_c.ask(CLUSTER_IP, 80).starts_with("a "));
        let listing = run("nft", "list ruleset");
        let is_chain = |line: &&str| line.trim_start().starts_with("chain service-1-affinity");
        let chains = listing.lines().filter(is_chain).count();
        assert!((1..=65).contains(&chains), "{chains}");
        assert!(listing.contains("service-1-affinity300"), "{listing}");
    });
}

#[test]
fn node_ports_and_load_balancers_from_outside() {
    on_a_node(|node| async move {
        let (network, [(a, in_a), (b, _)]) = two_backends(&node).await;
        let outside = node.outside();
        let (c, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        let ingress = json!({"loadBalancer": {"ingress": [{"ip": NODE_IP.to_string()}]}});
        let spec = |policy: &str, ranges: serde_json::Value| {
            json!({
                "type": "LoadBalancer", "externalTrafficPolicy": policy,
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
                "externalIPs": ["198.51.100.7"],
                "loadBalancerSourceRanges": ranges,
                "status": ingress,
            })
        };
        proxy.set_service(service("web", "10.47.240.77", spec("Cluster", json!(null))));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true), (b, true)]));
        proxy.flush().unwrap();

        let seen = answers(30, || outside.ask(NODE_IP, 30080));
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen.iter().all(|x| !x.ends_with(&CLIENT_IP.to_string())), "masqueraded: {seen:?}");
        assert_eq!(answers(30, || outside.ask(NODE_IP, 80)).len(), 2, "load balancer address");
        assert_eq!(answers(30, || NODE.ask(NODE_IP, 30080)).len(), 2);
        assert_eq!(answers(30, || NODE.ask(Ipv4Addr::LOCALHOST, 30080)).len(), 2);
        assert_eq!(in_c.ask(Ipv4Addr::LOCALHOST, 30080), "ConnectionRefused", "its own loopback");
        assert_eq!(answers(30, || NODE.ask(NODE_IP, 80)).len(), 2);
        let from_pod = answers(30, || in_c.ask(NODE_IP, 30080));
        assert!(from_pod.iter().all(|x| x.ends_with(&c.address.to_string())), "{from_pod:?}");
        assert_eq!(answers(30, || in_a.ask(NODE_IP, 80)).len(), 2, "hairpin through the balancer");
        let external: IpAddr = [198, 51, 100, 7].into();
        assert!(in_c.ask(external, 80).ends_with(&c.address.to_string()), "external address");

        proxy.set_service(service("web", "10.47.240.77", spec("Local", json!(null))));
        proxy.flush().unwrap();
        let seen = answers(30, || outside.ask(NODE_IP, 30080));
        assert!(seen.iter().all(|x| x.ends_with(&CLIENT_IP.to_string())), "source kept: {seen:?}");

        // An endpoint elsewhere only: the node drops what comes from outside, not what is inside.
        let mut elsewhere = slice("web", "TCP", 8080, &[(a, true)]);
        elsewhere.endpoints[0].node_name = Some("other".into());
        proxy.set_slice(elsewhere);
        proxy.flush().unwrap();
        assert_eq!(outside.ask(NODE_IP, 80), "TimedOut");
        assert_eq!(outside.ask(NODE_IP, 30080), "TimedOut");
        assert!(in_c.ask(NODE_IP, 80).starts_with("a "));
        assert!(NODE.ask(NODE_IP, 80).starts_with("a "));

        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true)]));
        let ranges = json!(["203.0.113.0/24", "192.0.2.128/25"]);
        proxy.set_service(service("web", "10.47.240.77", spec("Cluster", ranges)));
        proxy.flush().unwrap();
        assert_eq!(outside.ask(NODE_IP, 80), "TimedOut", "not in the source ranges");
        assert!(outside.ask(NODE_IP, 30080).starts_with("a "), "node ports are not restricted");
        let ranges = json!(["203.0.113.0/24", "192.0.2.0/25"]);
        proxy.set_service(service("web", "10.47.240.77", spec("Cluster", ranges)));
        proxy.flush().unwrap();
        assert!(outside.ask(NODE_IP, 80).starts_with("a "));
        proxy.set_slice(slice("web", "TCP", 8080, &[]));
        proxy.flush().unwrap();
        assert_eq!(outside.ask(NODE_IP, 80), "ConnectionRefused");
        assert_eq!(outside.ask(NODE_IP, 30080), "ConnectionRefused");
        run("nft", "list ruleset");
    });
}

#[test]
fn client_ip_affinity_sticks_and_moves_on() {
    on_a_node(|node| async move {
        let (network, [(a, _), (b, _)]) = two_backends(&node).await;
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        let affinity = json!({"sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 2}}});
        proxy.set_service(service("web", "10.47.240.77", affinity));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true), (b, true)]));
        proxy.flush().unwrap();
        // `nft` 1.0.6 aborts over a map that is filled from another one, unless it is told lengths.
        assert!(run("nft", "list ruleset").contains("update @affinity"));
        let first = in_c.ask(CLUSTER_IP, 80);
        assert_eq!(answers(20, || in_c.ask(CLUSTER_IP, 80)), HashSet::from([first.clone()]));
        let (gone, left) = if first.starts_with('a') { ("a", b) } else { ("b", a) };
        proxy.set_slice(slice("web", "TCP", 8080, &[(left, true)]));
        proxy.flush().unwrap();
        assert!(answers(5, || in_c.ask(CLUSTER_IP, 80)).iter().all(|x| !x.starts_with(gone)));
        proxy.set_slice(slice("web", "TCP", 8080, &[(a, true), (b, true)]));
        proxy.flush().unwrap();
        let mut seen = HashSet::new();
        for _ in 0..16 {
            tokio::time::sleep(std::time::Duration::from_millis(2300)).await;
            seen.insert(in_c.ask(CLUSTER_IP, 80));
            if seen.len() == 2 {
                return;
            }
        }
        panic!("affinity never expired: {seen:?}");
    });
}

#[test]
fn clients_stay_with_their_endpoints_when_the_proxy_starts_anew() {
    on_a_node(|node| async move {
        let (network, [(a, _), (b, _)]) = two_backends(&node).await;
        let _outside = node.outside();
        let (_, in_c) = pod(&network, "c").await;
        let start = |addresses: &[(IpAddr, bool)]| {
            let mut proxy = node.proxy();
            let affinity = json!({"sessionAffinity": "ClientIP", "type": "NodePort",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
                "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}]});
            proxy.set_service(service("web", "10.47.240.77", affinity));
            proxy.set_slice(slice("web", "TCP", 8080, addresses));
            proxy.flush().unwrap();
        };
        let ask = || (in_c.ask(CLUSTER_IP, 80), in_c.ask(NODE_IP, 30080));
        start(&[(a, true), (b, true)]);
        let first = ask();
        for _ in 0..8 {
            start(&[(a, true), (b, true)]);
            assert_eq!(ask(), first);
        }
        // An endpoint that went meanwhile holds nobody.
        start(&[(if first.0.starts_with('a') { b } else { a }, true)]);
        assert_ne!(ask().0, first.0);
    });
}

#[test]
fn udp_flows_follow_the_endpoints() {
    on_a_node(|node| async move {
        let (network, [(a, _), (b, _)]) = two_backends(&node).await;
        let (_, in_c) = pod(&network, "c").await;
        let outside = node.outside();
        let mut proxy = node.proxy();
        let spec = json!({"type": "NodePort",
            "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]});
        proxy.set_service(service("dns", "10.47.240.77", spec));
        proxy.flush().unwrap();
        let (inside, far) = (in_c.udp(), outside.udp());
        let target = SocketAddr::new(CLUSTER_IP.into(), 53);
        let node_port = SocketAddr::new(NODE_IP.into(), 30053);
        let ask = |expected: &str| {
            for (socket, target) in [(&inside, target), (&far, node_port)] {
                let answer = ask_udp_on(socket, target);
                assert!(answer.starts_with(expected), "{target}: {answer}, expected {expected}");
            }
        };
        ask("ConnectionRefused");
        proxy.set_slice(slice("dns", "UDP", 8080, &[(a, true)]));
        proxy.flush().unwrap();
        ask("a ");
        proxy.set_slice(slice("dns", "UDP", 8080, &[(b, true)]));
        proxy.flush().unwrap();
        ask("b ");
        proxy.set_slice(slice("dns", "UDP", 8080, &[]));
        proxy.flush().unwrap();
        ask("ConnectionRefused");
        proxy.set_slice(slice("dns", "UDP", 8080, &[(a, true)]));
        proxy.flush().unwrap();
        ask("a ");

        let mut restarted = node.proxy();
        let spec = json!({"type": "NodePort",
            "ports": [{"port": 53, "nodePort": 30053, "protocol": "UDP"}]});
        restarted.set_service(service("dns", "10.47.240.77", spec));
        restarted.set_slice(slice("dns", "UDP", 8080, &[(b, true)]));
        restarted.flush().unwrap();
        ask("b ");
    });
}

#[test]
fn the_dns_address_is_local_and_untracked() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let (a, in_a) = pod(&network, "a").await;
        NODE.serve_on(DNS_IP, 53, "dns");
        let mut proxy = node.proxy();
        proxy.set_service(service("kube-dns", &DNS_IP.to_string(), json!({})));
        proxy.flush().unwrap();
        assert_eq!(in_a.ask_udp(DNS_IP, 53), format!("dns {}", a.address));
        assert_eq!(in_a.ask(DNS_IP, 53), format!("dns {}", a.address));
        assert!(NODE.ask_udp(DNS_IP, 53).starts_with("dns "));
        let flows = run("conntrack", "-L -p udp");
        assert!(!flows.contains("dport=53"), "{flows}");
        assert!(network.local_addresses().contains(&DNS_IP));
    });
}

#[test]
fn the_oldest_service_keeps_a_contested_address() {
    on_a_node(|node| async move {
        let (network, [(a, _), (b, _)]) = two_backends(&node).await;
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        let contested: IpAddr = [198, 51, 100, 7].into();
        for (name, ip, day) in [("young", "10.47.240.77", 2), ("old", "10.47.240.78", 1)] {
            let mut object = service(name, ip, json!({"externalIPs": [contested.to_string()]}));
            object.metadata.creation_timestamp =
                Some(serde_json::from_value(json!(format!("2024-01-0{day}T00:00:00Z"))).unwrap());
            proxy.set_service(object);
        }
        proxy.set_slice(slice("young", "TCP", 8080, &[(a, true)]));
        proxy.set_slice(slice("old", "TCP", 8080, &[(b, true)]));
        proxy.flush().unwrap();
        assert!(in_c.ask(contested, 80).starts_with("b "));
        let old =
            coracle_netproxy::proxy::ServiceKey { namespace: "default".into(), name: "old".into() };
        proxy.remove_service(&old);
        proxy.flush().unwrap();
        assert!(in_c.ask(contested, 80).starts_with("a "));
    });
}

#[test]
fn thousands_of_services_change_one_at_a_time() {
    on_a_node(|node| async move {
        let mut proxy = node.proxy();
        let name = |n: u32| format!("s{n}");
        let address = |n: u32| IpAddr::from((0x0a2f_f000 + 16 + n).to_be_bytes());
        let endpoint = |n: u32, m: u32| IpAddr::from((0x0a2c_0000 + 2 * n + m).to_be_bytes());
        for n in 0..4000 {
            proxy.set_service(service(&name(n), &address(n).to_string(), json!({})));
            let endpoints = [(endpoint(n, 0), true), (endpoint(n, 1), true)];
            proxy.set_slice(slice(&name(n), "TCP", 8080, &endpoints));
        }
        let start = std::time::Instant::now();
        assert_eq!(proxy.flush().unwrap(), 4000);
        eprintln!("4000 Services: {:?}", start.elapsed());
        for round in 0..3 {
            let start = std::time::Instant::now();
            let one = [(endpoint(round, 0), true)];
            proxy.set_slice(slice(&name(round), "TCP", 8080, &one));
            assert_eq!(proxy.flush().unwrap(), 1);
            eprintln!("one endpoint less: {:?}", start.elapsed());
            let start = std::time::Instant::now();
            proxy.set_slice(slice(&name(round), "TCP", 8080, &[(endpoint(9, 1), true)]));
            assert_eq!(proxy.flush().unwrap(), 1);
            eprintln!("another endpoint: {:?}", start.elapsed());
        }
    });
}

#[test]
fn a_foreign_drop_policy_lets_pods_through_until_teardown() {
    on_a_node(|node| async move {
        let rules = node.run_dir.join("rules");
        std::fs::write(
            &rules,
            "table ip filter {\nchain FORWARD {\ntype filter hook forward priority 0; policy drop;\n}\n}\n",
        )
        .unwrap();
        run("nft", &format!("-f {}", rules.display()));
        let before = run("nft", "list table ip filter");
        for round in 0..2 {
            let network = node.network().await;
            let (a, in_a) = pod(&network, "a").await;
            let (_, in_b) = pod(&network, "b").await;
            let port = 80 + round;
            in_a.serve(port, "a");
            assert!(in_b.ask(a.address, port).starts_with("a "));
        }
        let listing = run("nft", "list table ip filter");
        assert_eq!(listing.matches("coracle pods").count(), 2, "{listing}");
        assert_eq!(coracle_netproxy::opened_firewalls().unwrap(), ["ip filter FORWARD"]);
        coracle_netproxy::teardown(&node.run_dir).unwrap();
        assert_eq!(run("nft", "list table ip filter"), before);
        assert!(coracle_netproxy::opened_firewalls().unwrap().is_empty());
    });
}
