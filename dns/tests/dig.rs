//! The running server, asked by the real `dig`, with an API of canned lists behind it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use coracle_dns::DnsConfig;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use kube::Client;
use nix::sched::{CloneFlags, unshare};
use serde_json::json;
use tokio_util::sync::CancellationToken;

#[path = "../../integration/src/skip.rs"]
mod skip;

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// Answers lists; watches stay silent.
fn api() -> Client {
    let services = json!({"kind": "ServiceList", "apiVersion": "v1",
        "metadata": {"resourceVersion": "1"}, "items": [
        {"metadata": {"name": "nginx-service", "namespace": "default", "uid": "1"},
         "spec": {"clusterIP": "10.47.240.77", "ports": [{"port": 80, "name": "http"}]}},
        {"metadata": {"name": "many", "namespace": "default", "uid": "2"},
         "spec": {"clusterIP": "None"}},
        {"metadata": {"name": "out", "namespace": "default", "uid": "3"},
         "spec": {"type": "ExternalName", "externalName": "www.example.com"}},
    ]});
    let endpoints: Vec<_> =
        (0..60).map(|n| json!({"addresses": [format!("10.44.1.{n}")]})).collect();
    let slices = json!({"kind": "EndpointSliceList", "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"resourceVersion": "1"}, "items": [
        {"metadata": {"name": "many-1", "namespace": "default", "uid": "4",
                      "labels": {"kubernetes.io/service-name": "many"}},
         "addressType": "IPv4", "endpoints": endpoints},
    ]});
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
        let list = if request.uri().path().contains("slices") { &slices } else { &services };
        let body: Body = if watch {
            StreamBody::new(futures::stream::pending()).boxed_unsync()
        } else {
            Full::from(list.to_string()).boxed_unsync()
        };
        async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
    });
    Client::new(service, "default")
}

/// A resolver that knows an address for every name, and cuts `big.` off over UDP.
fn resolver() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let tcp = std::net::TcpListener::bind(address).unwrap();
    let reply = |query: &[u8], udp: bool| {
        let end = 12 + query[12..].iter().position(|b| *b == 0).unwrap() + 5;
        let mut bytes = query[..end].to_vec();
        bytes[2] = 0x81;
        bytes[3] = 0x80;
        bytes[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
        if udp && query[13..].starts_with(b"big") {
            bytes[2] |= 2;
            bytes[7] = 0;
            return bytes;
        }
        bytes.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 5]);
        bytes
    };
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&reply(&buffer[..length], true), peer);
        }
    });
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for stream in tcp.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 2];
            stream.read_exact(&mut length).unwrap();
            let mut query = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut query).unwrap();
            let answer = reply(&query, false);
            stream.write_all(&(answer.len() as u16).to_be_bytes()).unwrap();
            stream.write_all(&answer).unwrap();
        }
    });
    address
}

fn dig(arguments: &str) -> String {
    let output = Command::new("dig")
        .args(["@127.0.0.1", "-p", "5353", "+tries=1", "+time=2"])
        .args(arguments.split_whitespace())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn dig_understands_every_kind_of_answer() {
    if !skip::is_root("a network namespace") {
        return;
    }
    if Command::new("dig").arg("-v").output().is_err() {
        skip::skip("the answers are not read by dig", "dig");
        return;
    }
    std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let token = CancellationToken::new();
        let server = {
            let (token, resolver) = (token.clone(), resolver());
            std::thread::spawn(move || {
                runtime.block_on(async {
                    let config = DnsConfig {
                        listen: vec!["127.0.0.1:5353".parse().unwrap()],
                        cluster_domain: "cluster.local".into(),
                        service_cidr: "10.47.240.0/20".parse().unwrap(),
                        pod_cidr: "10.44.0.0/16".parse().unwrap(),
                        resolv_conf: "/nonexistent".into(),
                        upstreams: Some(vec![resolver]),
                    };
                    coracle_dns::run(api(), config, token).await.unwrap();
                });
            })
        };
        std::thread::sleep(Duration::from_millis(300));
        check();
        token.cancel();
        server.join().unwrap();
    })
    .join()
    .unwrap();
}

fn check() {
    let service = "nginx-service.default.svc.cluster.local";
    assert_eq!(dig(&format!("+short {service}")), "10.47.240.77\n");
    assert_eq!(dig(&format!("+short +tcp {service}")), "10.47.240.77\n");
    let srv = dig(&format!("+short SRV _http._tcp.{service}"));
    assert_eq!(srv, format!("0 100 80 {service}.\n"));
    assert_eq!(dig("+short -x 10.47.240.77"), format!("{service}.\n"));
    let nodata = dig(&format!("AAAA {service}"));
    assert!(nodata.contains("status: NOERROR") && nodata.contains("SOA"), "{nodata}");
    assert!(nodata.contains("ANSWER: 0, AUTHORITY: 1, ADDITIONAL: 1"), "{nodata}");
    let missing = dig("no-such.default.svc.cluster.local");
    assert!(missing.contains("status: NXDOMAIN"), "{missing}");

    let many = dig("+short +bufsize=512 many.default.svc.cluster.local");
    assert_eq!(many.lines().count(), 60, "truncated, then asked over TCP: {many}");
    assert!(dig("+ignore +bufsize=512 many.default.svc.cluster.local").contains(" tc "));

    assert_eq!(dig("+short example.org"), "203.0.113.5\n", "{}", dig("example.org"));
    assert!(dig("+noedns Example.ORG").contains("Example.ORG."), "capitals of the second asker");
    assert_eq!(dig("+short big.example.org"), "203.0.113.5\n");
    let alias = dig("+short out.default.svc.cluster.local");
    assert_eq!(alias, "www.example.com.\n203.0.113.5\n");
    assert!(dig("AXFR cluster.local").contains("Transfer failed"));
    assert!(dig("+short TXT dns-version.cluster.local").contains("1.1.0"));
}
