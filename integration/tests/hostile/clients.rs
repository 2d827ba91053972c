//! Clients on the network: strangers that hold connections, and a tenant that does not read.

use std::process::Stdio;

use coracle_integration::eventually;

use crate::tenant::{Ground, TENANT};

/// Connections that a client holds without a request, and with one that does not end.
const HOLD: &str = r#"
import socket, ssl, sys, time
kind, count, seconds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
held = []
for _ in range(count):
    try:
        s = socket.create_connection(("192.0.2.10", 6443), timeout=2)
        if kind != "plain":
            s = context.wrap_socket(s)
        if kind == "body":
            s.sendall(b"POST /ui/session HTTP/1.1\r\nHost: 192.0.2.10:6443\r\nx-coracle-dashboard: 1\r\n"
                      b"Content-Length: 3000000\r\n\r\n" + b"A" * 2800000)
        held.append(s)
    except Exception:
        break
print("held", len(held), flush=True)
time.sleep(seconds)
"#;

/// A tenant that stores 48 MiB, asks for all of it on many connections, and reads nothing.
const UNREAD: &str = r#"
import http.client, json, os, socket, ssl, sys, time
count, seconds = int(sys.argv[1]), int(sys.argv[2])
token = os.environ["TOKEN"]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
path = "/api/v1/namespaces/tenant/configmaps"
if seconds == 0:
    api = http.client.HTTPSConnection("192.0.2.10", 6443, context=context, timeout=60)
    for index in range(count):
        body = {"metadata": {"name": "large-%d" % index}, "data": {"text": os.urandom(500000).hex()}}
        headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        api.request("POST", path, json.dumps(body), headers)
        answer = api.getresponse()
        answer.read()
        assert answer.status == 201, answer.status
    sys.exit()
held = []
for _ in range(count):
    s = context.wrap_socket(socket.create_connection(("192.0.2.10", 6443), timeout=10))
    s.sendall(("GET %s HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer %s\r\n\r\n" % (path, token)).encode())
    held.append(s)
print("held", len(held), flush=True)
time.sleep(seconds)
"#;

#[test]
fn unread_lists_leave_the_node_alone() {
    let Some(ground) = Ground::for_scripts("a client that does not read is a script") else {
        return;
    };
    let token = ground.admin.ok(&["--namespace", TENANT, "create", "token", "owner"]);
    let script = |arguments: [&str; 2]| {
        let mut python = ground.node.outside.command("python3");
        python.args(["-c", UNREAD]).args(arguments).env("TOKEN", token.trim());
        python
    };
    assert!(script(["48", "0"]).status().unwrap().success());
    let mut holder = script(["40", "40"]).spawn().unwrap();
    let mut most = 0;
    for _ in 0..20 {
        std::thread::sleep(std::time::Duration::from_millis(500));
        most = most.max(ground.resident_bytes());
    }
    let path = format!("/api/v1/namespaces/{TENANT}/configmaps");
    let list = eventually(20, "another user gets the same list", || {
        let answer = ground.admin.run(&["get", "--raw", &path]);
        (answer.code == 0).then_some(answer.stdout)
    });
    let list: serde_json::Value = serde_json::from_str(&list).unwrap();
    let large = list["items"].as_array().unwrap().iter();
    let large =
        large.filter(|map| map["data"]["text"].as_str().is_some_and(|t| t.len() == 1_000_000));
    assert_eq!(large.count(), 48);
    most = most.max(ground.resident_bytes());
    ground.is_sound("lists that are not read");
    let _ = holder.kill();
    let _ = holder.wait();
    assert!(most < 300 << 20, "{most} bytes were resident");
    println!("{} MiB were resident at the most", most >> 20);
}

#[test]
fn strangers_leave_the_node_alone() {
    let Some(ground) = Ground::for_scripts("clients without credentials are a script") else {
        return;
    };
    for kind in ["plain", "idle", "body"] {
        let mut holder = ground.node.outside.command("python3");
        let holder = holder.args(["-c", HOLD, kind, "1100", "20"]).stdout(Stdio::piped());
        let mut holder = holder.stderr(Stdio::null()).spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_secs(5));
        // The administrator's connection from the node itself is served meanwhile.
        eventually(20, "the API answers", || {
            let answer = ground.admin.run(&["get", "--raw", "/readyz", "--request-timeout=5s"]);
            (answer.stdout == "ok").then_some(())
        });
        ground.is_sound(kind);
        let _ = holder.kill();
        let _ = holder.wait();
        ground.assert_resident_below(200 << 20, kind);
    }
}
