//! Exec sessions of a tenant whose processes do not read, and whose clients leave.

use std::fs;

use coracle_integration::within;
use serde_json::json;

use crate::tenant::{Ground, TENANT};

/// Opens exec sessions by WebSocket, sends more to each than anybody reads, and holds it or leaves.
/// Prints how many were answered with 101 and with 429.
const SESSIONS: &str = r#"
import base64, json, os, socket, ssl, struct, sys, time
config, namespace, count, kind = json.load(open(sys.argv[1])), sys.argv[2], int(sys.argv[3]), sys.argv[4]
token = config["users"][0]["user"]["token"]
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
path = f"/api/v1/namespaces/{namespace}/pods/deaf/exec?container=main&stdin=true&stdout=true&command=sleep&command=1000"
codes, held = {}, []
message = bytes(4 << 20)
frame = b"\x82\xff" + struct.pack(">Q", len(message)) + bytes(4) + message
for _ in range(count):
    try:
        s = context.wrap_socket(socket.create_connection(("192.0.2.10", 6443), timeout=5))
        key = base64.b64encode(os.urandom(16)).decode()
        s.sendall((f"GET {path} HTTP/1.1\r\nHost: 192.0.2.10:6443\r\nAuthorization: Bearer {token}\r\n"
                   "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                   f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n\r\n").encode())
        code = s.recv(4096).split()[1].decode()
        codes[code] = codes.get(code, 0) + 1
        if code != "101":
            continue
        s.settimeout(0.3)
        try:
            s.sendall(frame)
        except (TimeoutError, ssl.SSLError):
            pass
        if kind == "hold":
            held.append(s)
        else:
            s.close()
    except Exception as error:
        codes[type(error).__name__] = codes.get(type(error).__name__, 0) + 1
print(json.dumps(codes), flush=True)
time.sleep(float(sys.argv[5]))
"#;

#[test]
fn sessions_of_a_tenant_leave_the_node_alone() {
    let Some(ground) = Ground::for_scripts("clients that break off sessions are a script") else {
        return;
    };
    ground.pod("deaf", "trap 'exit 0' TERM; while :; do sleep 0.1; done", json!({}));
    ground.tenant.ready("deaf");
    let before = descriptors(ground.node.pid());
    for (kind, count) in [("leave", "60"), ("hold", "80")] {
        let mut client = ground.node.outside.command("python3");
        let config = ground.path("tenant-kubeconfig");
        client.args(["-c", SESSIONS]).arg(&config).args([TENANT, count, kind, "5"]);
        let output = client.output().unwrap();
        let codes: serde_json::Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        assert!(codes["101"].as_u64() >= Some(30), "{kind}: {codes}");
        if kind == "hold" {
            assert!(codes["429"].as_u64() >= Some(30), "{kind}: {codes}");
        }
        ground.is_sound(kind);
        within(30, "sessions end with their clients", || {
            descriptors(ground.node.pid()) < before + 40
        });
        ground.assert_resident_below(250 << 20, kind);
    }
    // There are places again.
    ground.tenant.ok(&["exec", "deaf", "--", "true"]);
    ground.delete("deaf");
}

/// Open files of a process.
fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}
