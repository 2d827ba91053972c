//! Registries of a tenant that send too much, or next to nothing, on many ports.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread::{sleep, spawn};
use std::time::Duration;

use coracle_integration::{Registry, eventually, privileged, within};
use serde_json::{Value, json};

use crate::tenant::Ground;

/// Ports on which the tenant's registry listens.
const PORTS: u16 = 200;
/// The first of them.
const FIRST_PORT: u16 = 6100;
/// Bytes of the text with which a registry refuses.
const REFUSAL_BYTES: usize = 25 << 20;
/// Most processes that pull at the same time.
const MAX_PULLS: usize = 8;

#[test]
fn registries_of_a_tenant_leave_the_node_alone() {
    if !privileged() {
        return;
    }
    let ground = Ground::new();
    let good = Registry::start(&ground.node.ns, 5000);
    good.push("busybox-latest", "library/busybox", "v1");
    for port in FIRST_PORT..FIRST_PORT + PORTS {
        let listener = ground.node.ns.listen(&format!("127.0.0.1:{port}"));
        spawn(move || serve(&listener));
    }
    long_refusals_are_cut(&ground);
    dripping_registries_leave_turns_to_others(&ground, &good.address);
}

/// Each text of a registry goes to an event and to the pod's status.
fn long_refusals_are_cut(ground: &Ground) {
    let container = |n: u16| {
        let image = format!("127.0.0.1:{}/refusal:v{n}", FIRST_PORT + n);
        json!({"name": format!("c{n}"), "image": image})
    };
    for n in 0..4 {
        let containers: Vec<Value> = (0..6).map(|c| container(n * 6 + c)).collect();
        ground.pod(&format!("refused-{n}"), "", json!({"containers": containers}));
    }
    for n in 0..4 {
        let name = format!("refused-{n}");
        eventually(120, "all pulls fail", || {
            let pod = ground.tenant.json(&["pod", &name]);
            let statuses = pod["status"]["containerStatuses"].as_array()?.clone();
            let message = |status: &Value| {
                let waiting = &status["state"]["waiting"];
                let text = waiting["message"].as_str()?.to_owned();
                assert!(text.len() <= 2048, "{} bytes", text.len());
                assert!(!text.contains('\u{1b}'), "{text}");
                let backs_off = waiting["reason"] == "ImagePullBackOff";
                assert!(!backs_off || text.contains("403 Forbidden"), "{text}");
                waiting["reason"].as_str().filter(|r| r.contains("ImagePull")).map(|_| text)
            };
            (statuses.len() == 6 && statuses.iter().all(|s| message(s).is_some())).then_some(())
        });
        let events = ground.tenant.events(&name, "Failed");
        assert!(!events.is_empty());
        for event in events {
            assert!(event["message"].as_str().unwrap().len() <= 1024);
        }
    }
    ground.assert_resident_below(200 << 20, "long refusals");
    ground.is_sound("long refusals");
    ground.tenant.ok(&["delete", "pods", "--all", "--timeout=120s"]);
}

/// Pulls that never end, of many registries, and some that fill the disk.
fn dripping_registries_leave_turns_to_others(ground: &Ground, good: &str) {
    let container = |n: u16| {
        let repository = if n.is_multiple_of(3) { "endless" } else { "drip" };
        let image = format!("127.0.0.1:{}/{repository}:v{n}", FIRST_PORT + n % PORTS);
        json!({"name": format!("c{n}"), "image": image, "imagePullPolicy": "Always"})
    };
    for n in 0..50 {
        let containers: Vec<Value> = (0..6).map(|c| container(n * 6 + c)).collect();
        ground.pod(&format!("drip-{n}"), "", json!({"containers": containers}));
    }
    let incoming = ground.node.data().join("images/incoming");
    let unfinished = || std::fs::read_dir(&incoming).unwrap().count();
    within(60, "pulls begin", || workers(ground.node.pid()) > 1 && unfinished() > 0);
    // Longer than it takes to begin all of them.
    for _ in 0..10 {
        let pulls = workers(ground.node.pid());
        assert!(pulls <= MAX_PULLS, "{pulls} pulls at the same time");
        sleep(Duration::from_secs(1));
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "other"},
        "spec": {"terminationGracePeriodSeconds": 0, "containers": [{
            "name": "main", "image": format!("{good}/library/busybox:v1"),
            "imagePullPolicy": "Always", "command": ["sleep", "1000"],
        }]},
    });
    ground.admin.apply(&pod.to_string());
    ground.admin.ok(&["wait", "--for=condition=Ready", "pod/other", "--timeout=30s"]);
    let said = ground.admin.ok(&["exec", "other", "--", "echo", "here"]);
    assert_eq!(said, "here\n");
    ground.assert_resident_below(200 << 20, "dripping registries");
    ground.is_sound("dripping registries");
    ground.admin.ok(&["delete", "pod", "other", "--timeout=60s"]);
    let all = ["delete", "pods", "--all", "--grace-period=0", "--force", "--timeout=120s"];
    ground.tenant.ok(&all);
    within(60, "every pull ends", || workers(ground.node.pid()) == 0);
    within(20, "nothing is left of unfinished pulls", || unfinished() == 0);
    ground.is_sound("the end of dripping registries");
}

/// Returns the number of processes of a node that pull.
fn workers(node: u32) -> usize {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let is_worker = |pid: &str| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let parent = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        parent == Some(node) && command.ends_with(b"pull-worker\0")
    };
    processes.filter(|entry| is_worker(&entry.file_name().to_string_lossy())).count()
}

fn serve(listener: &TcpListener) {
    for stream in listener.incoming().flatten() {
        spawn(move || {
            // Whoever asks may go away at any time.
            let _ = answer(stream);
        });
    }
}

/// Answers the requests of one connection.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut requests = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let mut request = String::new();
        if requests.read_line(&mut request)? == 0 {
            return Ok(());
        }
        let mut header = String::new();
        while requests.read_line(&mut header)? > 2 {
            header.clear();
        }
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let config = json!({
            "architecture": "amd64", "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", "1".repeat(64))]},
        })
        .to_string();
        if path == "/v2/" {
            send(&mut stream, "200 OK", "application/json", b"{}")?;
        } else if path.contains("/refusal/") {
            let text = format!("\u{1b}[2J{}", "no ".repeat(REFUSAL_BYTES / 3));
            let body = json!({"errors": [{"code": "DENIED", "message": text}]}).to_string();
            send(&mut stream, "403 Forbidden", "application/json", body.as_bytes())?;
        } else if path.contains("/endless/manifests/") {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            let manifest = json!({
                "schemaVersion": 2, "mediaType": kind,
                "config": {
                    "mediaType": "application/vnd.oci.image.config.v1+json",
                    "digest": digest(&config), "size": config.len(),
                },
                "layers": [{
                    "mediaType": "application/vnd.oci.image.layer.v1.tar",
                    "digest": format!("sha256:{}", "2".repeat(64)), "size": 1u64 << 33,
                }],
            });
            send(&mut stream, "200 OK", kind, manifest.to_string().as_bytes())?;
        } else if path.ends_with(&digest(&config)) {
            send(&mut stream, "200 OK", "application/octet-stream", config.as_bytes())?;
        } else if path.contains("/endless/blobs/") {
            head(&mut stream, "200 OK", "application/octet-stream", 1 << 33)?;
            // The header of a file of 8 GiB, and as much of it as comes.
            stream.write_all(&file_header())?;
            loop {
                stream.write_all(&[0; 64 << 10])?;
                sleep(Duration::from_millis(50));
            }
        } else {
            let kind = "application/vnd.oci.image.manifest.v1+json";
            head(&mut stream, "200 OK", kind, 1_000_000)?;
            loop {
                stream.write_all(b" ")?;
                sleep(Duration::from_secs(1));
            }
        }
    }
}

fn head(stream: &mut TcpStream, code: &str, kind: &str, bytes: usize) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 {code}\r\nContent-Type: {kind}\r\nContent-Length: {bytes}\r\n\r\n")
}

fn send(stream: &mut TcpStream, code: &str, kind: &str, body: &[u8]) -> std::io::Result<()> {
    head(stream, code, kind, body.len())?;
    stream.write_all(body)
}

fn digest(text: &str) -> String {
    let mut sum =
        Command::new("sha256sum").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    sum.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = sum.wait_with_output().unwrap();
    format!("sha256:{}", &String::from_utf8(output.stdout).unwrap()[..64])
}

/// The header of a tar archive's entry: a regular file of 8 GiB less one byte.
fn file_header() -> [u8; 512] {
    let mut header = [0; 512];
    header[..4].copy_from_slice(b"file");
    header[100..107].copy_from_slice(b"0000644");
    header[108..115].copy_from_slice(b"0000000");
    header[116..123].copy_from_slice(b"0000000");
    header[124..135].copy_from_slice(b"37777777777");
    header[136..147].copy_from_slice(b"00000000000");
    header[148..156].copy_from_slice(b"        ");
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}
