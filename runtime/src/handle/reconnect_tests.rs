//! Connections that fail on this side, with a shim that only answers.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::protocol::{
    Answer, HEADER_BYTES, Message, Operation, Request, Running, VERSION, encode, frame,
};
use crate::sandbox::{Exit, NamespaceMode, RuntimeConfig, SandboxEvent, SandboxSpec};
use crate::{Runtime, engine, skip};

/// Answers what a sandbox asks when it connects: one container, which has ended meanwhile.
fn answer(mut stream: UnixStream) {
    let mut received = Vec::new();
    loop {
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(count) => received.extend_from_slice(&buffer[..count]),
        }
        while let Some((end, _)) =
            frame(&received).unwrap().filter(|(end, _)| received.len() >= *end)
        {
            let request: Request = serde_json::from_slice(&received[HEADER_BYTES..end]).unwrap();
            received.drain(..end);
            let exit = Exit {
                code: 4,
                signal: None,
                oom_killed: false,
                finished_at: SystemTime::UNIX_EPOCH,
            };
            let result = Ok(match request.operation {
                Operation::Hello => Answer::Ready { version: VERSION, pid: 1 },
                Operation::Status => Answer::Status(vec![Running {
                    container: "a".to_owned(),
                    pid: 1,
                    exit: Some(exit),
                }]),
                _ => Answer::Done,
            });
            let reply = Message::Reply { id: request.id, result };
            stream.write_all(&encode(&reply, 0).unwrap()).unwrap();
        }
    }
}

fn spec(name: &str) -> SandboxSpec {
    SandboxSpec {
        id: name.to_owned(),
        hostname: None,
        netns: None,
        ipc: NamespaceMode::Host,
        pid: NamespaceMode::Container,
        cgroup: format!("coracle-test-{name}/pod{name}"),
        resources: None,
        sysctls: BTreeMap::new(),
        labels: BTreeMap::new(),
    }
}

fn engine(directory: &Path, name: &str) -> Arc<engine::Inner> {
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: directory.join("state"),
        run_dir: directory.join("run"),
        shim_binary: "/proc/self/exe".into(),
        shim_group: format!("coracle-test-{name}/shims"),
        sandbox_group: String::new(),
    });
    runtime.unwrap().inner()
}

#[tokio::test]
async fn failed_connection_is_made_again() {
    if !skip::is_root("making control groups") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let name = format!("reconnect-{}", std::process::id());
    let engine = engine(directory.path(), &name);
    let sockets = directory.path().join("run/sandboxes").join(&name);
    std::fs::create_dir_all(&sockets).unwrap();
    let listener = UnixListener::bind(sockets.join("shim.sock")).unwrap();
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let sandbox = Sandbox::connected(spec(&name), engine.clone(), None, ours).unwrap();
    let mut events = sandbox.events();
    std::thread::spawn(move || answer(listener.accept().unwrap().0));
    // No message: the reader gives up, although the other end is there.
    let mut garbage = encode(&"", 0).unwrap();
    garbage.truncate(HEADER_BYTES);
    garbage.extend_from_slice(b"??");
    theirs.write_all(&garbage).unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap();
    assert!(matches!(event, Some(SandboxEvent::Exited { exit, .. }) if exit.code == 4));
    assert!(sandbox.is_alive());
    assert!(sandbox.signal("a", 0).await.is_ok());
    sandbox.abandon();
    engine.cgroups.try_remove(&format!("coracle-test-{name}")).unwrap();
}

#[tokio::test]
async fn sandbox_is_lost_when_no_shim_listens() {
    if !skip::is_root("making control groups") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let name = format!("unreachable-{}", std::process::id());
    let engine = engine(directory.path(), &name);
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let sandbox = Sandbox::connected(spec(&name), engine.clone(), None, ours).unwrap();
    let mut events = sandbox.events();
    theirs.write_all(&[255; HEADER_BYTES]).unwrap();
    let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.unwrap();
    assert!(matches!(event, Some(SandboxEvent::ShimLost)));
    engine.cgroups.try_remove(&format!("coracle-test-{name}")).unwrap();
}
