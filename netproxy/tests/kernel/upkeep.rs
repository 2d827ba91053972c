//! Upkeep of the rules: after other programs changed them, beside firewalls, and where a process of
//! the host wants a port.

use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use coracle_netproxy::{AttachRequest, HostPort, PodNetwork, Protocol};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{
    API_PORT, DNS_IP, NODE, NODE_IP, Node, Place, ask_on, on_a_node, pod, pod_with, run, service,
    slice,
};

fn host_port(number: u16) -> HostPort {
    HostPort { host_ip: None, host_port: number, container_port: 80, protocol: Protocol::Tcp }
}

/// A network whose rules are kept.
async fn kept(node: &Node) -> (PodNetwork, CancellationToken) {
    let network = node.network().await;
    let token = CancellationToken::new();
    let (rules, cancelled) = (network.clone(), token.clone());
    tokio::spawn(async move { rules.run(cancelled).await.unwrap() });
    // Until it has subscribed.
    tokio::time::sleep(Duration::from_millis(200)).await;
    (network, token)
}

/// The words of a table, in an order that does not depend on hashes.
fn words(table: &str) -> Vec<String> {
    let output = std::process::Command::new("nft")
        .args(format!("-s list table {table}").split(' '))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let mut words: Vec<String> =
        text.split(|c: char| c.is_whitespace() || c == ',').map(str::to_owned).collect();
    words.retain(|word| !word.is_empty());
    words.sort();
    words
}

/// Waits until it is so; the runtime's tasks go on meanwhile.
async fn within(limit: Duration, what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

fn nft(node: &Node, text: &str) {
    let file = node.run_dir.join("rules");
    std::fs::write(&file, text).unwrap();
    run("nft", &format!("-f {}", file.display()));
}

#[test]
fn rules_come_back_when_others_remove_them() {
    on_a_node(|node| async move {
        let (network, _token) = kept(&node).await;
        let (_, in_a) = pod_with(&network, "a", vec![host_port(8080)]).await;
        in_a.serve(80, "a");
        tokio::time::sleep(Duration::from_millis(300)).await;
        let tables = ["ip coracle-pods", "ip6 coracle-pods"];
        let before = tables.map(words);
        assert!(before.iter().all(|words| !words.is_empty()));
        for command in [
            "flush ruleset",
            "delete table ip coracle-pods",
            "delete table ip6 coracle-pods",
            "flush table ip coracle-pods",
            "flush set ip coracle-pods hairpin",
            "flush map ip coracle-pods hostports",
            "flush chain ip coracle-pods strangers",
            "add rule ip coracle-pods forward drop",
        ] {
            run("nft", command);
            within(Duration::from_secs(2), command, || tables.map(words) == before).await;
        }
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, 8080).starts_with("a "));
        // At once, before it is noticed.
        run("nft", "flush ruleset");
        let (b, in_b) = pod_with(&network, "b", vec![host_port(8081)]).await;
        in_b.serve(80, "b");
        assert!(NODE.ask(Ipv4Addr::LOCALHOST, 8081).starts_with("b "));
        network.detach("a").await.unwrap();
        run("nft", "flush ruleset");
        network.detach("b").await.unwrap();
        drop(b);
    });
}

#[test]
fn own_changes_cause_no_rewrites() {
    on_a_node(|node| async move {
        let (network, _token) = kept(&node).await;
        let (a, _) = pod_with(&network, "a", vec![host_port(8080)]).await;
        let mut proxy = node.proxy();
        proxy.set_service(service("web", "10.47.240.77", json!({})));
        proxy.set_slice(slice("web", "TCP", 80, &[(a.address, true)]));
        proxy.flush().unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        // The kernel numbers tables: a table that was written again has another number.
        let handles = || run("nft", "-a list tables");
        let before = handles();
        let (_, _) = pod_with(&network, "b", vec![host_port(8081)]).await;
        network.detach("b").await.unwrap();
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert_eq!(handles(), before);
    });
}

/// As firewalld writes it: accepting chains that end in a reject.
const FIREWALLD: &str = "table inet firewalld {
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname \"lo\" accept
    ct state invalid drop
    jump filter_INPUT_ZONES
    reject with icmpx admin-prohibited
  }
  chain filter_INPUT_ZONES { tcp dport 22 accept; }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    iifname \"lo\" accept
    ct state invalid drop
    reject with icmpx admin-prohibited
  }
  chain filter_OUTPUT {
    type filter hook output priority filter + 10; policy accept;
    oifname \"lo\" accept
  }
}
";

/// As ufw writes it through iptables: dropping policies, and chains of its own.
const UFW: &str = "table ip filter {
  chain ufw-before-input {
    iifname \"lo\" counter accept
    ct state related,established counter accept
    ct state invalid counter drop
  }
  chain ufw-before-forward { ct state related,established counter accept; }
  chain INPUT {
    type filter hook input priority filter; policy drop;
    counter jump ufw-before-input
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    counter jump ufw-before-forward
  }
  chain OUTPUT { type filter hook output priority filter; policy accept; }
}
";

/// A user's own: the drop stands in a chain that the last rule goes to.
const LAST_JUMP: &str = "table inet mine {
  chain end { log prefix \"end\" counter drop; }
  chain in {
    type filter hook input priority 0; policy accept;
    ct state { established, related } accept
    iifname \"lo\" accept
    goto end
  }
  chain through {
    type filter hook forward priority 0; policy accept;
    ct state { established, related } accept
    goto end
  }
}
";

#[test]
fn firewalls_let_pods_through_and_nothing_more() {
    for (table, rules) in
        [("inet firewalld", FIREWALLD), ("ip filter", UFW), ("inet mine", LAST_JUMP)]
    {
        on_a_node(move |node| async move {
            nft(&node, rules);
            let before = words(table);
            let (network, token) = kept(&node).await;
            let outside = node.outside();
            NODE.serve(API_PORT, "api");
            NODE.serve(9000, "secret");
            NODE.serve_on(DNS_IP, 53, "dns");
            let (a, in_a) = pod_with(&network, "a", vec![host_port(8080)]).await;
            let (_, in_b) = pod(&network, "b").await;
            in_a.serve(80, "a");
            let works = |outside: &Place| {
                assert!(in_b.ask(a.address, 80).starts_with("a "), "{table}");
                assert!(in_b.ask_udp(DNS_IP, 53).starts_with("dns "), "{table}");
                assert!(in_b.ask(DNS_IP, 53).starts_with("dns "), "{table}");
                assert!(in_b.ask(NODE_IP, API_PORT).starts_with("api "), "{table}");
                assert!(outside.ask(NODE_IP, 8080).starts_with("a "), "{table}");
                assert!(!in_b.ask(NODE_IP, 9000).starts_with("secret"), "{table}");
                assert!(!outside.ask(NODE_IP, API_PORT).starts_with("api"), "{table}");
            };
            works(&outside);
            let opened = words(table);
            assert!(opened.len() > before.len());
            // A reload rewrites the table.
            nft(&node, &format!("table {table} {{}}\ndelete table {table}\n{rules}"));
            within(Duration::from_secs(2), "openings after a reload", || words(table) == opened)
                .await;
            works(&outside);

            token.cancel();
            let input = |words: &[String]| words.iter().any(|word| word == "53");
            within(Duration::from_secs(2), "no openings to the node", || !input(&words(table)))
                .await;
            assert!(in_b.ask(a.address, 80).starts_with("a "), "pods outlive the process");
            coracle_netproxy::teardown(&node.run_dir).unwrap();
            assert_eq!(words(table), before);
        });
    }
}

#[test]
fn host_process_takes_its_port_from_a_pod() {
    on_a_node(|node| async move {
        let (network, _token) = kept(&node).await;
        let outside = node.outside();
        NODE.serve(8081, "node");
        let ports = vec![host_port(8080), host_port(8081)];
        let (_, in_a) = pod_with(&network, "a", ports).await;
        in_a.serve(80, "a");
        assert!(outside.ask(NODE_IP, 8080).starts_with("a "));
        assert!(outside.ask(NODE_IP, 8081).starts_with("node "), "the host was first");
        let conflicts = network.host_port_conflicts();
        let numbers = || -> Vec<u16> {
            conflicts.borrow().iter().map(|conflict| conflict.port.host_port).collect()
        };
        assert_eq!(numbers(), [8081]);

        let listener = NODE.run(|| TcpListener::bind((NODE_IP, 8080)).unwrap());
        within(Duration::from_secs(3), "the host has its port", || numbers() == [8080, 8081]).await;
        let mut stream = outside.connect(NODE_IP, 8080);
        let (mut accepted, _) = listener.accept().unwrap();
        std::io::Write::write_all(&mut accepted, b"host\n").unwrap();
        assert_eq!(ask_on(&mut stream), "host");
        drop((listener, accepted, stream));
        within(Duration::from_secs(3), "the pod has the port again", || numbers() == [8081]).await;
        assert!(outside.ask(NODE_IP, 8080).starts_with("a "));
    });
}

#[test]
fn host_process_takes_its_port_from_a_service() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let outside = node.outside();
        let (a, in_a) = pod(&network, "a").await;
        in_a.serve(80, "a");
        NODE.serve(30080, "node");
        let mut proxy = node.proxy();
        let spec = json!({
            "type": "LoadBalancer", "ports": [{"port": 8080, "nodePort": 30080, "protocol": "TCP"}],
            "status": {"loadBalancer": {"ingress": [{"ip": NODE_IP.to_string()}]}},
        });
        proxy.set_service(service("web", "10.47.240.77", spec));
        proxy.set_slice(slice("web", "TCP", 80, &[(a.address, true)]));
        proxy.flush().unwrap();
        assert!(proxy.claims_host_ports());
        assert!(outside.ask(NODE_IP, 30080).starts_with("node "), "from the first packet on");
        assert!(outside.ask(NODE_IP, 8080).starts_with("a "));
        let conflicts = proxy.follow_listeners().unwrap();
        assert_eq!(conflicts.len(), 1, "{conflicts:?}");
        assert_eq!((conflicts[0].frontend.port(), conflicts[0].listener.port), (30080, 30080));

        NODE.serve_on(NODE_IP, 8080, "nginx");
        assert_eq!(proxy.follow_listeners().unwrap().len(), 2);
        assert!(outside.ask(NODE_IP, 8080).starts_with("nginx "));
        assert!(outside.ask(NODE_IP, 30080).starts_with("node "));
        run("nft", "flush ruleset");
        proxy.set_slice(slice("web", "TCP", 81, &[(a.address, true)]));
        proxy.flush().unwrap();
        assert!(outside.ask(NODE_IP, 8080).starts_with("nginx "), "also in a new table");

        // A pod in the host's network that serves the very port is the Service's own endpoint.
        let own = slice("web", "TCP", 30080, &[(IpAddr::from(NODE_IP), true)]);
        proxy.set_slice(own);
        proxy.flush().unwrap();
        let conflicts = proxy.follow_listeners().unwrap();
        assert!(conflicts.iter().all(|c| c.frontend.port() == 8080), "{conflicts:?}");
    });
}

#[test]
fn cancelled_attach_leaks_no_namespace() {
    on_a_node(|node| async move {
        let mut config = node.config();
        config.pool = 0;
        let network = PodNetwork::start(config).await.unwrap();
        for n in 0..12 {
            let request = AttachRequest { uid: format!("gone-{n}"), host_ports: vec![] };
            let patience = Duration::from_micros(n * 300);
            if let Ok(link) = tokio::time::timeout(patience, network.attach(&request)).await {
                link.unwrap();
            }
            network.detach(&request.uid).await.unwrap();
        }
        let pins = || std::fs::read_dir(node.run_dir.join("netns")).unwrap().count();
        within(Duration::from_secs(10), "no namespace without a pod", || pins() == 0).await;
        assert_eq!(std::fs::read_dir(node.run_dir.join("attachments")).unwrap().count(), 0);
    });
}

#[test]
fn full_affinity_map_serves_new_clients() {
    on_a_node(|node| async move {
        let network = node.network().await;
        let (a, in_a) = pod(&network, "a").await;
        in_a.serve(80, "a");
        let (_, in_c) = pod(&network, "c").await;
        let mut proxy = node.proxy();
        let affinity = json!({"sessionAffinity": "ClientIP"});
        proxy.set_service(service("web", "10.47.240.77", affinity));
        proxy.set_slice(slice("web", "TCP", 80, &[(a.address, true)]));
        proxy.flush().unwrap();
        let address = a.address;
        let clients: Vec<String> = (0..65_535u32)
            .map(|n| {
                let client = Ipv4Addr::from(0xc612_0000 + n);
                format!("{client} . 10.47.240.77 . tcp . 80 timeout 1h : {address} . 80")
            })
            .collect();
        for chunk in clients.chunks(4096) {
            nft(&node, &format!("add element ip coracle affinity {{ {} }}\n", chunk.join(", ")));
        }
        assert!(in_c.ask(Ipv4Addr::new(10, 47, 240, 77), 80).starts_with("a "));
    });
}
