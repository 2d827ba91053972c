//! The queries that resolvers get, and the clients that may cause them.

#![allow(clippy::unwrap_used)]

use std::net::UdpSocket as Socket;

use super::*;

/// A query for `example.org A` with these flags, and with an EDNS option if one is given.
fn query(flags: u16, option: Option<&[u8]>) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd];
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&[0, 1, 0, 0, 0, 0, 0, u8::from(option.is_some())]);
    bytes.extend_from_slice(b"\x07Example\x03org\0\0\x01\0\x01");
    if let Some(option) = option {
        bytes.extend_from_slice(&[0, 0, 41, 0x10, 0, 0, 0, 0, 0]);
        bytes.extend_from_slice(&(option.len() as u16).to_be_bytes());
        bytes.extend_from_slice(option);
    }
    bytes
}

/// A client subnet (RFC 7871): 198.51.100.0/24.
const SUBNET: &[u8] = &[0, 8, 0, 7, 0, 1, 24, 0, 198, 51, 100];
const RD: u16 = 0x0100;
const CD: u16 = 0x0010;

/// A server whose resolver sends what it was asked to the other end, with one address as answer.
fn server() -> (Arc<Server>, std::sync::mpsc::Receiver<Vec<u8>>) {
    let resolver = Socket::bind("127.0.0.1:0").unwrap();
    let config = DnsConfig {
        listen: Vec::new(),
        cluster_domain: "cluster.local".into(),
        service_cidr: "10.47.240.0/20".parse().unwrap(),
        pod_cidr: "10.44.0.0/16".parse().unwrap(),
        resolv_conf: "/nonexistent".into(),
        upstreams: Some(vec![resolver.local_addr().unwrap()]),
    };
    let (asked, questions) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((length, from)) = resolver.recv_from(&mut buffer) {
            let mut reply = buffer[..HEADER + 17].to_vec();
            reply[2..4].copy_from_slice(&[0x81, 0x80]);
            reply[6..12].copy_from_slice(&[0, 1, 0, 0, 0, 0]);
            reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 5]);
            if asked.send(buffer[..length].to_vec()).is_err() {
                return;
            }
            resolver.send_to(&reply, from).unwrap();
        }
    });
    (Server::new(&config).unwrap(), questions)
}

async fn ask(server: &Server, bytes: &[u8]) -> Vec<u8> {
    match server.answer_now(bytes, true) {
        Ok(reply) => reply.unwrap(),
        Err(outcome) => server.answer_later(bytes, true, outcome).await.unwrap(),
    }
}

#[tokio::test]
async fn resolvers_are_sent_queries_built_afresh() {
    let (server, questions) = server();
    let reply = ask(&server, &query(RD | 0x0020, Some(SUBNET))).await;
    assert_eq!((&reply[..2], &reply[13..20]), (&[0xab, 0xcd][..], &b"Example"[..]));
    assert!(reply.ends_with(&[203, 0, 113, 5]));
    let sent = questions.recv().unwrap();
    assert_eq!(sent[2..4], RD.to_be_bytes(), "the flags");
    let rest = b"\x07example\x03org\0\0\x01\0\x01\0\0\x29\x04\xd0\0\0\0\0\0\0";
    assert_eq!(sent[HEADER..], rest[..], "the question, and EDNS without the option");
}

#[tokio::test]
async fn unchecked_answers_are_kept_apart() {
    let (server, questions) = server();
    for bytes in [query(RD | CD, None), query(RD | CD, None), query(RD, None), query(RD, None)] {
        ask(&server, &bytes).await;
    }
    let flags = |sent: Vec<u8>| u16::from_be_bytes([sent[2], sent[3]]);
    let sent: Vec<u16> = questions.try_iter().map(flags).collect();
    assert_eq!(sent, [RD | CD, RD], "each once, the second time from the cache");
}

#[tokio::test]
async fn queries_without_recursion_stay_here() {
    let (server, questions) = server();
    ask(&server, &query(RD, None)).await;
    let reply = ask(&server, &query(0, None)).await;
    assert_eq!((reply[3] & 15, reply.len()), (5, query(0, None).len()), "refused, cached or not");
    assert_eq!(questions.try_iter().count(), 1);
}
