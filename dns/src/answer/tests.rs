//! From a question to an answer.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::facts::{self, ServiceFacts, SliceFacts};
use crate::records::{Contribution, Difference};
use crate::wire::{HEADER, Unanswerable, read_response};

fn zone() -> Zone {
    Zone::new(
        Name::parse("cluster.local").unwrap(),
        vec!["10.47.240.0/20".parse().unwrap(), "10.44.0.0/16".parse().unwrap()],
        vec!["10.47.240.10".parse().unwrap()],
    )
    .unwrap()
}

fn contribution(
    service: serde_json::Value,
    slices: &[serde_json::Value],
    zone: &Name,
) -> Contribution {
    let name = service["metadata"]["name"].as_str().unwrap().to_owned();
    let service = ServiceFacts::of(&serde_json::from_value(service).unwrap());
    let slice = |slice: &serde_json::Value| serde_json::from_value(slice.clone()).unwrap();
    let slices: Vec<_> = slices.iter().map(|json| SliceFacts::of(&slice(json))).collect();
    facts::contribution(("default", &name), &service, slices.iter(), zone)
}

fn add(records: &mut Records, contribution: Contribution) {
    records.apply(&Difference::between(Vec::new(), contribution));
}

fn records() -> Records {
    let zone = Name::parse("cluster.local").unwrap();
    let slice = |service: &str| {
        json!({
            "metadata": {"name": format!("{service}-1"), "namespace": "default"},
            "addressType": "IPv4",
            "ports": [{"name": "mysql", "port": 3306, "protocol": "TCP"}],
            "endpoints": [
                {"addresses": ["10.44.0.5"], "hostname": "mysql-0", "conditions": {"ready": true}},
                {"addresses": ["10.44.0.6"], "conditions": {"ready": true}},
                {"addresses": ["10.44.0.7"], "hostname": "late", "conditions": {"ready": false}},
            ],
        })
    };
    let service = |name: &str, spec: serde_json::Value| json!({"metadata": {"name": name, "namespace": "default"}, "spec": spec});
    let alias = |target: &str| json!({"type": "ExternalName", "externalName": target});
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}, {"port": 81}]);
    let headless_ports = json!([{"name": "mysql", "port": 3306}]);
    let mut records = Records::default();
    for object in [
        service("nginx-service", json!({"clusterIP": "10.47.240.77", "ports": ports})),
        service("mysql", json!({"clusterIP": "None", "ports": headless_ports})),
        service(
            "eager",
            json!({"clusterIP": "None", "publishNotReadyAddresses": true, "ports": headless_ports}),
        ),
        service("out", json!({"type": "ExternalName", "externalName": "www.example.com"})),
        service(
            "in",
            json!({"type": "ExternalName",
                   "externalName": "nginx-service.default.svc.cluster.local"}),
        ),
        service("twice", alias("in.default.svc.cluster.local")),
        service("further", alias("out.default.svc.cluster.local")),
        service("pod", alias("10-44-0-9.default.pod.cluster.local")),
        service("dangling", alias("nothing.default.svc.cluster.local")),
        service("ring-a", alias("ring-b.default.svc.cluster.local")),
        service("ring-b", alias("ring-a.default.svc.cluster.local")),
    ] {
        add(&mut records, contribution(object, &[slice("x")], &zone));
    }
    records.set_synced();
    records
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        bytes.push(label.len() as u8);
        bytes.extend_from_slice(label.as_bytes());
    }
    bytes.push(0);
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&[0, 1]);
    bytes
}

fn with_edns(mut bytes: Vec<u8>, size: u16) -> Vec<u8> {
    bytes[11] = 1;
    bytes.extend_from_slice(&[0, 0, 41]);
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes
}

struct Got {
    bytes: Vec<u8>,
    code: u16,
    answers: Vec<(u16, u32, Vec<u8>)>,
    others: Vec<(u16, u32, Vec<u8>)>,
}

fn ask(name: &str, kind: u16) -> Got {
    ask_with(&query(name, kind), &records())
}

fn ask_with(bytes: &[u8], records: &Records) -> Got {
    let query = Query::parse(bytes).unwrap();
    let Outcome::Reply(reply) = zone().answer(&query, records, true) else {
        panic!("expected an answer")
    };
    let response = read_response(&reply, 0xabcd, query.question()).unwrap();
    let data = |list: &[crate::wire::Record]| {
        list.iter().map(|r| (r.kind, r.ttl, r.expanded_data(&reply).unwrap_or_default())).collect()
    };
    Got {
        code: response.code,
        answers: data(&response.answers),
        others: data(&response.others),
        bytes: reply,
    }
}

fn name(text: &str) -> Vec<u8> {
    Name::parse(text).unwrap().wire().to_vec()
}

fn port(weight: u16, port: u16, target: &str) -> Vec<u8> {
    let mut data = vec![0, 0];
    data.extend(weight.to_be_bytes());
    data.extend(port.to_be_bytes());
    data.extend(name(target));
    data
}

const SERVICE: &str = "nginx-service.default.svc.cluster.local";

#[test]
fn clause_2_2_schema_version() {
    let got = ask("dns-version.cluster.local", kind::TXT);
    assert_eq!(got.answers, [(kind::TXT, 28_800, b"\x051.1.0".to_vec())]);
    let unsynced = ask_with(&query("dns-version.cluster.local", kind::TXT), &Records::default());
    assert_eq!(unsynced.answers.len(), 1);
}

#[test]
fn clause_2_3_1_cluster_ip_address() {
    let got = ask(SERVICE, kind::A);
    assert_eq!((got.code, got.answers), (0, vec![(kind::A, 30, vec![10, 47, 240, 77])]));
    assert_eq!(got.bytes[2] & 4, 4, "authoritative");
}

#[test]
fn clause_2_3_2_cluster_ip_ports() {
    let got = ask(&format!("_http._tcp.{SERVICE}"), kind::SRV);
    assert_eq!(got.answers, [(kind::SRV, 30, port(100, 80, SERVICE))]);
    assert_eq!(got.others, [(kind::A, 30, vec![10, 47, 240, 77])]);
    assert_eq!(ask(SERVICE, kind::SRV).answers.len(), 2, "every port at the Service's name");
    assert_eq!(ask(&format!("_http._udp.{SERVICE}"), kind::SRV).code, 3);
    let between = ask(&format!("_tcp.{SERVICE}"), kind::SRV);
    assert_eq!((between.code, between.answers.len()), (0, 0));
}

#[test]
fn clause_2_3_3_cluster_ip_reverse() {
    let got = ask("77.240.47.10.in-addr.arpa", kind::PTR);
    assert_eq!(got.answers, [(kind::PTR, 30, name(SERVICE))]);
}

#[test]
fn clause_2_4_1_headless_addresses_are_those_that_are_ready() {
    let mut got = ask("mysql.default.svc.cluster.local", kind::A).answers;
    got.sort();
    assert_eq!(got, [(kind::A, 30, vec![10, 44, 0, 5]), (kind::A, 30, vec![10, 44, 0, 6])]);
    assert_eq!(ask("eager.default.svc.cluster.local", kind::A).answers.len(), 3);
    let own = ask("mysql-0.mysql.default.svc.cluster.local", kind::A);
    assert_eq!(own.answers, [(kind::A, 30, vec![10, 44, 0, 5])]);
    let dashed = ask("10-44-0-6.mysql.default.svc.cluster.local", kind::A);
    assert_eq!(dashed.answers, [(kind::A, 30, vec![10, 44, 0, 6])]);
    assert_eq!(ask("late.mysql.default.svc.cluster.local", kind::A).code, 3);
}

#[test]
fn clause_2_4_2_headless_ports() {
    let mut got = ask("_mysql._tcp.mysql.default.svc.cluster.local", kind::SRV).answers;
    got.sort();
    let target = |host: &str| format!("{host}.mysql.default.svc.cluster.local");
    let expected = ["10-44-0-6", "mysql-0"].map(|h| (kind::SRV, 30, port(50, 3306, &target(h))));
    assert_eq!(got.len(), 2);
    assert!(expected.iter().all(|record| got.contains(record)), "{got:?}");
}

#[test]
fn clause_2_4_3_headless_reverse() {
    let got = ask("5.0.44.10.in-addr.arpa", kind::PTR).answers;
    assert!(got.contains(&(kind::PTR, 30, name("mysql-0.mysql.default.svc.cluster.local"))));
}

#[test]
fn clause_2_5_external_name() {
    let bytes = query("out.default.svc.cluster.local", kind::A);
    let outcome = zone().answer(&Query::parse(&bytes).unwrap(), &records(), true);
    assert_eq!(outcome, Outcome::Chase(vec![Name::parse("www.example.com").unwrap()]));
    let got = ask("out.default.svc.cluster.local", kind::CNAME);
    assert_eq!(got.answers, [(kind::CNAME, 30, name("www.example.com"))]);
    let got = ask("in.default.svc.cluster.local", kind::A);
    let expected = [(kind::CNAME, 30, name(SERVICE)), (kind::A, 30, vec![10, 47, 240, 77])];
    assert_eq!(got.answers, expected);
}

#[test]
fn external_names_are_followed_from_one_to_the_next() {
    let in_zone = |host: &str| format!("{host}.default.svc.cluster.local");
    let cname = |target: &str| (kind::CNAME, 30, name(target));
    let address = (kind::A, 30, vec![10, 47, 240, 77]);
    let got = ask(&in_zone("twice"), kind::A);
    assert_eq!(got.answers, [cname(&in_zone("in")), cname(SERVICE), address]);
    let got = ask(&in_zone("twice"), kind::AAAA);
    assert_eq!(got.answers, [cname(&in_zone("in")), cname(SERVICE)]);
    assert_eq!((got.code, got.others[0].0), (0, kind::SOA));
    let got = ask(&in_zone("pod"), kind::A);
    assert_eq!(got.answers[1], (kind::A, 30, vec![10, 44, 0, 9]));
    let got = ask(&in_zone("dangling"), kind::A);
    assert_eq!((got.answers.len(), got.others[0].0), (1, kind::SOA));
    // A circle is told once, for whoever asks to notice.
    assert_eq!(ask(&in_zone("ring-a"), kind::A).answers.len(), 2);
    let bytes = query(&in_zone("further"), kind::A);
    let outcome = zone().answer(&Query::parse(&bytes).unwrap(), &records(), true);
    let names = [in_zone("out"), "www.example.com".to_owned()];
    assert_eq!(outcome, Outcome::Chase(names.map(|n| Name::parse(&n).unwrap()).to_vec()));
}

#[test]
fn pod_names_say_their_address() {
    let got = ask("10-44-0-9.default.pod.cluster.local", kind::A);
    assert_eq!(got.answers, [(kind::A, 30, vec![10, 44, 0, 9])]);
    assert_eq!(ask("nonsense.default.pod.cluster.local", kind::A).code, 3);
    let got = ask("10-44-0-9.default.pod.cluster.local", kind::AAAA);
    assert_eq!((got.code, got.answers.len()), (0, 0));
}

#[test]
fn known_name_without_the_type_is_an_empty_answer_with_soa() {
    for known in [SERVICE, "default.svc.cluster.local", "svc.cluster.local"] {
        let got = ask(known, kind::AAAA);
        assert_eq!((got.code, got.answers.len()), (0, 0), "{known}");
        assert_eq!((got.others[0].0, got.others[0].1), (kind::SOA, 30));
    }
}

#[test]
fn unknown_names_do_not_exist_and_do_not_leave_the_machine() {
    let unknown =
        ["nginx.default.svc.cluster.local", "x.cluster.local", "78.240.47.10.in-addr.arpa"];
    for unknown in unknown {
        let got = ask(unknown, kind::A);
        assert_eq!((got.code, got.others[0].0), (3, kind::SOA), "{unknown}");
    }
    for foreign in ["example.com", "local", "notcluster.local", "1.2.0.192.in-addr.arpa", ""] {
        let bytes = query(foreign, kind::A);
        let outcome = zone().answer(&Query::parse(&bytes).unwrap(), &records(), true);
        assert_eq!(outcome, Outcome::Forward, "{foreign}");
    }
}

#[test]
fn the_servers_own_address_has_a_name_from_the_start() {
    let bytes = query("10.240.47.10.in-addr.arpa", kind::PTR);
    for records in [records(), Records::default()] {
        let got = ask_with(&bytes, &records);
        let own = name("kube-dns.kube-system.svc.cluster.local");
        assert_eq!(got.answers, [(kind::PTR, 30, own)]);
    }
}

#[test]
fn nothing_is_denied_before_everything_was_listed() {
    for name in [SERVICE, "78.240.47.10.in-addr.arpa"] {
        assert_eq!(ask_with(&query(name, kind::A), &Records::default()).code, 2);
    }
}

#[test]
fn transfers_and_other_classes_are_refused() {
    assert_eq!(ask("cluster.local", kind::AXFR).code, 5);
    let mut bytes = query("version.bind", kind::TXT);
    let end = bytes.len() - 1;
    bytes[end] = 3;
    assert_eq!(ask_with(&bytes, &records()).code, 5);
}

#[test]
fn apex_has_soa_and_ns() {
    assert_eq!(ask("cluster.local", kind::SOA).answers[0].0, kind::SOA);
    let got = ask("cluster.local", kind::NS);
    assert_eq!(got.answers, [(kind::NS, 30, name("ns.dns.cluster.local"))]);
    let got = ask("ns.dns.cluster.local", kind::A);
    assert_eq!(got.answers, [(kind::A, 30, vec![10, 47, 240, 10])]);
}

#[test]
fn the_clients_capitals_are_kept() {
    let got = ask("NGINX-Service.Default.SVC.cluster.LOCAL", kind::A);
    assert_eq!(got.answers.len(), 1);
    assert!(got.bytes[HEADER..].starts_with(b"\x0dNGINX-Service\x07Default"));
    // 0x20 randomisation: the answer's owner is a pointer to the question.
    assert_eq!(got.bytes[query(SERVICE, kind::A).len()..][..2], [0xc0, 12]);
}

#[test]
fn size_limits_follow_edns_and_tcp_has_none() {
    let zone_name = Name::parse("cluster.local").unwrap();
    let endpoints: Vec<_> =
        (0..60).map(|n| json!({"addresses": [format!("10.44.1.{n}")]})).collect();
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints});
    let service = json!({"metadata": {"name": "many"}, "spec": {"clusterIP": "None"}});
    let mut records = Records::default();
    add(&mut records, contribution(service, &[slice], &zone_name));
    records.set_synced();
    let plain = query("many.default.svc.cluster.local", kind::A);
    for (bytes, udp, truncated) in [
        (plain.clone(), true, true),
        (with_edns(plain.clone(), 600), true, true),
        (with_edns(plain.clone(), 1232), true, false),
        (plain, false, false),
    ] {
        let query = Query::parse(&bytes).unwrap();
        let Outcome::Reply(reply) = zone().answer(&query, &records, udp) else { panic!() };
        assert_eq!(reply[2] & 2 != 0, truncated, "{udp}");
        assert!(reply.len() <= query.limit(udp));
        assert_eq!(reply[11], u8::from(query.edns.is_some()), "EDNS is answered with EDNS only");
    }
}

#[test]
fn answer_of_very_many_records_is_cut() {
    let zone_name = Name::parse("cluster.local").unwrap();
    let endpoints: Vec<_> = (0..20_000)
        .map(|n| json!({"addresses": [format!("10.44.{}.{}", n / 256, n % 256)]}))
        .collect();
    let ports = json!([{"name": "http", "port": 80}]);
    let slice = json!({"metadata": {}, "addressType": "IPv4", "endpoints": endpoints,
        "ports": ports});
    let service = json!({"metadata": {"name": "many"}, "spec": {"clusterIP": "None"}});
    let mut records = Records::default();
    let contributed = contribution(service, &[slice], &zone_name);
    assert_eq!(contributed.len(), facts::SERVICE_RECORDS_MAX);
    add(&mut records, contributed);
    // More than a count of 16 bits, at a name that others contribute to as well.
    let host = Name::parse("many.default.svc.cluster.local").unwrap();
    let more = (0..70_000_u32).map(|n| (host.clone(), Data::Address(IpAddr::V4(n.into()))));
    add(&mut records, more.collect());
    records.set_synced();
    for (kind, least) in [(kind::A, 4000), (kind::ANY, 4000)] {
        let bytes = query("many.default.svc.cluster.local", kind);
        let query = Query::parse(&bytes).unwrap();
        let Outcome::Reply(reply) = zone().answer(&query, &records, false) else { panic!() };
        assert!(reply.len() <= 65_535 && reply[2] & 2 != 0, "{} bytes", reply.len());
        let mut whole = reply.clone();
        whole[2] &= !2;
        let id = u16::from_be_bytes([whole[0], whole[1]]);
        let response = read_response(&whole, id, query.question()).unwrap();
        assert!(response.answers.len() >= least, "{}", response.answers.len());
        let Outcome::Reply(short) = zone().answer(&query, &records, true) else { panic!() };
        assert!(short.len() <= 512 && short[2] & 2 != 0);
    }
}

#[test]
fn malformed_queries_get_short_answers_or_none() {
    let good = query(SERVICE, kind::A);
    for length in 0..good.len() {
        assert!(Query::parse(&good[..length]).is_err());
    }
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(Query::parse(&response).unwrap_err(), Unanswerable::Ignore);
    let mut update = good.clone();
    update[2] |= 0x28;
    let Err(Unanswerable::Refuse(reply)) = Query::parse(&update) else { panic!() };
    assert_eq!(reply[3] & 15, 4);
    let mut future = with_edns(good.clone(), 1232);
    let at = future.len() - 5;
    future[at] = 1;
    let Err(Unanswerable::Refuse(reply)) = Query::parse(&future) else { panic!() };
    assert_eq!(reply[reply.len() - 6], 1, "BADVERS is an extended code");
    // Any mutation of a good query is handled without a panic.
    let records = records();
    let edns = with_edns(good, 1232);
    for at in 0..edns.len() {
        for value in [0, 1, 63, 64, 192, 255] {
            let mut bytes = edns.clone();
            bytes[at] = value;
            if let Ok(query) = Query::parse(&bytes) {
                zone().answer(&query, &records, true);
            }
        }
    }
}

#[test]
fn records_come_and_go_with_their_service() {
    let mut records = Records::default();
    let entry = |host: &str| (Name::parse(host).unwrap(), Data::Address([10, 0, 0, 1].into()));
    let first = vec![entry("a.x.svc.cluster.local")];
    let second = vec![entry("b.x.svc.cluster.local")];
    let replace = |records: &mut Records, before: &[_], after: &[_]| {
        records.apply(&Difference::between(before.to_vec(), after.to_vec()));
    };
    replace(&mut records, &[], &first);
    replace(&mut records, &[], &second);
    let exists = |records: &Records, host: &str| records.get(&name(host)).is_some();
    assert!(exists(&records, "x.svc.cluster.local"));
    replace(&mut records, &first, &[]);
    assert!(exists(&records, "x.svc.cluster.local") && !exists(&records, "a.x.svc.cluster.local"));
    replace(&mut records, &second, &second);
    assert!(exists(&records, "b.x.svc.cluster.local"));
    replace(&mut records, &second, &[]);
    assert!(!exists(&records, "x.svc.cluster.local") && !exists(&records, "local"));
}
