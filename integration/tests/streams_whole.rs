//! Every stream carries random bytes whole, by SPDY (kubectl 1.20) and by WebSocket (1.33).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use coracle_integration::{Kubectl, Node, Random, with_old_and_new_kubectl, within};

/// Megabytes that go through each stream, unless `CORACLE_STREAM_MB` names another number.
const STREAM_MB: usize = 20;
/// Megabytes of a log that the node keeps for certain: five files of ten, the newest not yet full.
const KEPT_LOG_MB: usize = 40;

const PODS: &str = "
apiVersion: v1
kind: Pod
metadata: {name: mill, labels: {app: mill}}
spec:
  terminationGracePeriodSeconds: 0
  volumes: [{name: blob, hostPath: {path: DIR}}]
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'mkdir -p /www; httpd -p 8080 -h /www; exec sleep 100000']
    volumeMounts: [{name: blob, mountPath: /blob, readOnly: true}]
---
apiVersion: v1
kind: Service
metadata: {name: mill}
spec: {selector: {app: mill}, ports: [{port: 80, targetPort: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  restartPolicy: Never
  terminationGracePeriodSeconds: 0
  volumes: [{name: blob, hostPath: {path: DIR}}]
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'while [ ! -e /tmp/go ]; do sleep 0.2; done; for n in $(seq 0 LAST); do
      dd if=/blob/blob bs=1000000 skip=$n count=1 2>/dev/null; sleep 0.05; done']
    volumeMounts: [{name: blob, mountPath: /blob, readOnly: true}]
";

fn megabytes() -> usize {
    let named = std::env::var("CORACLE_STREAM_MB").ok();
    named.and_then(|number| number.parse().ok()).unwrap_or(STREAM_MB)
}

/// Writes a file of random bytes of every value, of which no two places look alike.
fn make_blob(path: &Path, bytes: usize) -> Vec<u8> {
    let mut random = Random::new(Random::seed());
    let mut blob: Vec<u8> = Vec::with_capacity(bytes);
    while blob.len() < bytes {
        blob.extend_from_slice(&random.below(u64::MAX).to_le_bytes());
    }
    blob.truncate(bytes);
    std::fs::write(path, &blob).unwrap();
    blob
}

/// Asserts that two texts are the same; a failure names the first byte that differs, not millions.
fn assert_same(got: &[u8], sent: &[u8], way: &str) {
    let parted = got.iter().zip(sent).position(|(a, b)| a != b);
    assert!(
        got == sent,
        "{way}: {} of {} bytes came, the first that differs is at {parted:?}",
        got.len(),
        sent.len()
    );
}

struct Mill<'a> {
    node: &'a Node,
    kubectl: &'a Kubectl,
    blob: &'a [u8],
    file: PathBuf,
}

impl Mill<'_> {
    /// The standard output of a kubectl that reads `input`.
    fn output(&self, arguments: &[&str], input: Option<&Path>) -> Vec<u8> {
        let mut command = self.kubectl.command(arguments);
        if let Some(input) = input {
            command.stdin(Stdio::from(File::open(input).unwrap()));
        }
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        output.stdout
    }

    fn exec(&self) {
        let echoed = self.output(&["exec", "-i", "mill", "--", "cat"], Some(&self.file));
        assert_same(&echoed, self.blob, "exec");
    }

    fn cp(&self) {
        let file = self.file.display().to_string();
        self.kubectl.ok(&["cp", &file, "mill:/www/blob"]);
        self.kubectl.ok(&["exec", "mill", "--", "cmp", "/blob/blob", "/www/blob"]);
        let back = self.node.path("back");
        self.kubectl.ok(&["cp", "mill:/www/blob", &back.display().to_string()]);
        assert_same(&std::fs::read(&back).unwrap(), self.blob, "cp");
    }

    fn logs(&self) {
        let log = self.node.path("followed");
        let mut following = self.kubectl.command(&["logs", "--follow", "talker"]);
        following.stdout(Stdio::from(File::create(&log).unwrap()));
        let mut following = following.spawn().unwrap();
        self.kubectl.ok(&["exec", "talker", "--", "touch", "/tmp/go"]);
        within(600, "the log ends", || following.try_wait().unwrap().is_some());
        assert_same(&std::fs::read(&log).unwrap(), self.blob, "logs --follow");
        if self.blob.len() <= KEPT_LOG_MB * 1_000_000 {
            assert_same(&self.output(&["logs", "talker"], None), self.blob, "logs");
        }
    }

    fn port_forward(&self) {
        let arguments = ["port-forward", "pod/mill", "18080:8080", "17000:7000"];
        let mut forward = self.kubectl.command(&arguments);
        let mut forward = forward.stdout(Stdio::null()).spawn().unwrap();
        let connect = |port: u16| {
            let mut stream = None;
            within(20, "the port is forwarded", || {
                stream = self.node.ns.within(|| TcpStream::connect(("127.0.0.1", port)).ok());
                stream.is_some()
            });
            stream.unwrap()
        };
        let mut down = connect(18080);
        down.write_all(b"GET /blob HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        down.read_to_end(&mut answer).unwrap();
        let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        assert_same(&answer[head + 4..], self.blob, "port-forward down");

        // kubectl takes the end of what the pod sends for the end of the connection, so the pod's
        // input stays open.
        let receive = "mkfifo /tmp/open; exec 3<>/tmp/open; nc -l -p 7000 <&3 > /tmp/received";
        let mut receiver = self.kubectl.command(&["exec", "mill", "--", "sh", "-c", receive]);
        let mut receiver = receiver.spawn().unwrap();
        let listens = "netstat -ltn | grep -q :7000";
        within(20, "the pod listens", || {
            self.kubectl.run(&["exec", "mill", "--", "sh", "-c", listens]).code == 0
        });
        let mut up = connect(17000);
        up.write_all(self.blob).unwrap();
        up.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = up.read_to_end(&mut rest);
        within(60, "the pod has received it", || receiver.try_wait().unwrap().is_some());
        self.kubectl.ok(&["exec", "mill", "--", "cmp", "/blob/blob", "/tmp/received"]);
        forward.kill().unwrap();
        forward.wait().unwrap();
    }

    fn proxies(&self, namespace: &str) {
        for target in ["pods/mill:8080", "services/mill:80"] {
            let path = format!("/api/v1/namespaces/{namespace}/{target}/proxy/blob");
            within(20, "the proxy finds its target", || {
                let head = path.replace("/blob", "/nothing");
                self.kubectl.run(&["get", "--raw", &head]).stderr.contains("NotFound")
                    || self.kubectl.run(&["get", "--raw", &path]).code == 0
            });
            assert_same(&self.output(&["get", "--raw", &path], None), self.blob, target);
        }
    }
}

#[test]
fn streams_carry_random_bytes_whole() {
    with_old_and_new_kubectl(|node, kubectl| {
        let dir = node.path("blob");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("blob");
        let blob = make_blob(&file, megabytes() * 1_000_000);
        let manifest = PODS
            .replace("DIR", &dir.display().to_string())
            .replace("LAST", &(megabytes() - 1).to_string());
        kubectl.apply(&manifest);
        let mill = Mill { node, kubectl, blob: &blob, file };
        kubectl.ready("mill");
        kubectl.ready("talker");
        let namespace = format!("v{}", kubectl.version.replace('.', "-"));
        mill.exec();
        mill.cp();
        mill.logs();
        mill.port_forward();
        mill.proxies(&namespace);
    });
}
