//! Clients on the network that have no credentials.

use std::process::Stdio;

use coracle_integration::{eventually, privileged, skip};

use crate::tenant::Ground;

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

#[test]
fn strangers_leave_the_node_alone() {
    if !privileged() {
        return;
    }
    if which("python3").is_none() {
        skip::skip("clients without credentials are a script", "python3");
        return;
    }
    let ground = Ground::new();
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
        let resident = resident_bytes(ground.node.pid());
        assert!(resident < 200 << 20, "{kind}: {resident} bytes are resident");
    }
}

fn which(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|d| d.join(program)).find(|p| p.exists())
}

/// Resident memory of a process.
fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}
