//! Real kubectls of several ages against the door and the streams: TLS, client certificate, exec
//! and port-forward through the apiserver to a kubelet server, over SPDY and WebSockets.
//!
//! `CORACLE_TEST_KUBECTLS` names the kubectl binaries, separated by colons; without it, those of
//! build/kubectl are used. Without any the test is skipped, and says so.

#![allow(clippy::unwrap_used, missing_docs)]

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use agent::streaming::{self, StreamOptions};
use coracle_apiserver::security::pki::{Pki, ServingNames};
use coracle_apiserver::security::{Security, SecurityConfig, User};
use coracle_apiserver::stream_proxy::{AsyncReadWrite, NodeDialer};
use coracle_apiserver::{ApiServer, Catalog, Config, body};
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use runtime::sandbox::{Exit, Session};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

#[path = "../../integration/src/skip.rs"]
mod skip;

fn kubectls() -> Vec<PathBuf> {
    match std::env::var("CORACLE_TEST_KUBECTLS") {
        Ok(list) => list.split(':').map(PathBuf::from).collect(),
        Err(_) => ["1.27", "1.30", "1.31", "1.33"]
            .iter()
            .map(|v| Path::new(env!("CARGO_MANIFEST_DIR")).join("../build/kubectl").join(v))
            .map(|directory| directory.join("kubectl"))
            .filter(|path| path.exists())
            .collect(),
    }
}

/// A process: says its arguments, echoes its input, says `oops` on stderr, exits with 3.
fn process(args: String) -> Session {
    let (stdin, mut input) = tokio::io::duplex(1024);
    let (mut output, stdout) = tokio::io::duplex(1024);
    let (mut errors, stderr) = tokio::io::duplex(64);
    let (resize, _) = mpsc::channel(4);
    let (done, exit) = oneshot::channel();
    tokio::spawn(async move {
        output.write_all(format!("args={args}\n").as_bytes()).await.unwrap();
        errors.write_all(b"oops\n").await.unwrap();
        let mut buffer = [0; 1000];
        while let Ok(count @ 1..) = input.read(&mut buffer).await {
            output.write_all(&buffer[..count]).await.unwrap();
        }
        let finished_at = SystemTime::now();
        let _ = done.send(Exit { code: 3, signal: None, oom_killed: false, finished_at });
    });
    Session {
        stdin: Some(Box::new(stdin)),
        stdout: Box::new(stdout),
        stderr: Some(Box::new(stderr)),
        resize,
        exit,
        leash: None,
    }
}

/// A kubelet whose containers all run [`process`] and whose ports are those of this machine.
struct Kubelet;

impl NodeDialer for Kubelet {
    fn dial(&self, _: &str) -> BoxFuture<'static, io::Result<Box<dyn AsyncReadWrite>>> {
        async {
            let (near, far) = tokio::io::duplex(16 << 10);
            tokio::spawn(async move {
                hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(far), service_fn(kubelet))
                    .with_upgrades()
                    .await
            });
            Ok(Box::new(near) as Box<dyn AsyncReadWrite>)
        }
        .boxed()
    }
}

async fn kubelet(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<streaming::Body>, Infallible> {
    let path = request.uri().path().to_owned();
    let query = request.uri().query().unwrap_or("").to_owned();
    let options = StreamOptions::from_query(&query);
    Ok(if path == "/exec/default/p/c" {
        let args: Vec<&str> = query.split('&').filter_map(|p| p.strip_prefix("command=")).collect();
        let args = args.join(",");
        streaming::exec(request, options, move || async move {
            match args.as_str() {
                "missing" => Err("no such file".to_owned()),
                _ => Ok(process(args)),
            }
        })
    } else if path == "/portForward/default/p" {
        let dial: streaming::Dial =
            Arc::new(|port| tokio::net::TcpStream::connect(("127.0.0.1", port)).boxed());
        let places = Arc::new(tokio::sync::Semaphore::new(10));
        streaming::port_forward(request, streaming::Pod { name: "p_default".into(), dial, places })
    } else {
        let mut response = http::Response::new(streaming::Body::default());
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    })
}

async fn call(server: &Arc<ApiServer>, method: &str, path: &str, object: Value) {
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json")
        .body(body::full(object.to_string()))
        .unwrap();
    Arc::new(User::authenticated("test", &["system:masters"])).send(request.extensions_mut());
    let response = server.handle(request).await;
    let code = response.status();
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(code.is_success(), "{method} {path}: {}", String::from_utf8_lossy(&text));
}

async fn start(dir: &Path) -> (Arc<ApiServer>, Arc<Security>, PathBuf, u16, CancellationToken) {
    let names = ServingNames { cluster_domain: "cluster.local".into(), ..ServingNames::default() };
    let pki = Pki::open(&dir.join("pki"), &names, Arc::new(SystemTime::now)).unwrap();
    let catalog = Arc::new(Catalog::new(api::registry::resources()));
    let store =
        coracle_apiserver::open_store(&dir.join("store"), store::Options::default(), &catalog)
            .unwrap();
    let security = Arc::new(
        Security::new(SecurityConfig {
            objects: Arc::new(store.clone()),
            token_key: pki.token_key().to_vec(),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            authority_pem: pki.authority_pem().to_owned(),
        })
        .unwrap(),
    );
    let server = ApiServer::new(Config::default(), catalog, store, security.clone());
    server.bootstrap().await.unwrap();
    server.set_node_dialer(Arc::new(Kubelet));
    let account = json!({ "metadata": { "name": "default" } });
    call(&server, "POST", "/api/v1/namespaces/default/serviceaccounts", account).await;
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "p" },
        "spec": { "nodeName": "n", "containers": [{ "name": "c", "image": "i" }] } });
    call(&server, "POST", "/api/v1/namespaces/default/pods", pod.clone()).await;
    let mut running = pod;
    running["status"] = json!({ "phase": "Running" });
    call(&server, "PUT", "/api/v1/namespaces/default/pods/p/status", running).await;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let token = CancellationToken::new();
    let handle = {
        let server = server.clone();
        move |request: http::Request<hyper::body::Incoming>| {
            server.handle(request.map(|body| body.map_err(Into::into).boxed_unsync()))
        }
    };
    let tls = pki.server_config().unwrap();
    let connections = coracle_apiserver::Connections::new(1024);
    let served = coracle_apiserver::tls_listener::serve_tls(
        listener,
        tls,
        handle,
        connections,
        token.clone(),
    );
    tokio::spawn(served);
    let kubeconfig = dir.join("kubeconfig");
    pki.admin_kubeconfig(&format!("https://127.0.0.1:{port}")).write(&kubeconfig).unwrap();
    (server, security, kubeconfig, port, token)
}

struct Output {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

async fn kubectl(binary: &Path, kubeconfig: &Path, args: &[&str], input: &str) -> Output {
    let mut child = Command::new(binary)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(args)
        .env("HOME", kubeconfig.parent().unwrap())
        .env_remove("HTTPS_PROXY")
        .env("NO_PROXY", "*")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(Duration::from_secs(30), child.wait_with_output())
        .await
        .unwrap_or_else(|_| panic!("{} {args:?} hangs", binary.display()))
        .unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectls_of_all_ages_stream() {
    let binaries = kubectls();
    if binaries.is_empty() {
        skip::skip("there is no kubectl (set CORACLE_TEST_KUBECTLS)", "kubectl");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (_server, security, kubeconfig, _, token) = start(dir.path()).await;
    let long = "0123456789abcdef\n".repeat(12_000);
    for binary in &binaries {
        let who = binary.display();
        let got = kubectl(binary, &kubeconfig, &["exec", "-i", "p", "--", "cat", "-"], &long).await;
        assert_eq!(got.code, Some(3), "{who}: {} {}", got.stdout.len(), got.stderr);
        assert!(got.stdout == format!("args=cat,-\n{long}"), "{who}: {}", got.stdout.len());
        assert!(got.stderr.starts_with("oops\n"), "{who}: {}", got.stderr);
        assert!(got.stderr.contains("command terminated with exit code 3"), "{who}");

        let got = kubectl(binary, &kubeconfig, &["exec", "p", "--", "missing"], "").await;
        assert_eq!(got.code, Some(1), "{who}: {}", got.stderr);
        assert!(
            got.stderr.contains("error executing command in container: no such file"),
            "{who}: {}",
            got.stderr
        );
        let got = kubectl(binary, &kubeconfig, &["exec", "p", "-c", "x", "--", "a"], "").await;
        assert!(got.stderr.contains("container x is not valid for pod p"), "{who}: {}", got.stderr);
        forwards(binary, &kubeconfig).await;

        let args = ["auth", "can-i", "list", "pods", "--as", "jane"];
        let got = kubectl(binary, &kubeconfig, &args, "").await;
        assert_eq!((got.code, got.stdout.trim()), (Some(1), "no"), "{who}: {}", got.stderr);
        let got = kubectl(binary, &kubeconfig, &["auth", "can-i", "list", "pods"], "").await;
        assert_eq!(got.stdout.trim(), "yes", "{who}: {}", got.stderr);
        let got = kubectl(binary, &kubeconfig, &["get", "pods", "--as", "jane"], "").await;
        assert!(
            got.stderr.contains(
                "pods is forbidden: User \"jane\" cannot list resource \"pods\" in API group \"\" \
                 in the namespace \"default\""
            ),
            "{who}: {}",
            got.stderr
        );
    }
    let answer = security.create_token("default", "default", json!({})).unwrap();
    let bearer = answer["status"]["token"].as_str().unwrap();
    let newest = binaries.last().unwrap();
    // A kubeconfig with a token only.
    let text = std::fs::read_to_string(&kubeconfig).unwrap();
    let plain: String =
        text.lines().filter(|l| !l.contains("client-")).fold(String::new(), |a, l| a + l + "\n");
    let by_token = dir.path().join("by-token");
    std::fs::write(&by_token, plain.replace("user:\n  ", "user: {}\n  ")).unwrap();
    let got = kubectl(newest, &by_token, &["get", "pods", "--token", bearer], "").await;
    assert!(
        got.stderr.contains("User \"system:serviceaccount:default:default\" cannot list"),
        "{}",
        got.stderr
    );
    let got = kubectl(newest, &by_token, &["get", "pods", "--token", "junk"], "").await;
    assert!(got.stderr.contains("You must be logged in"), "{}", got.stderr);
    token.cancel();
}

async fn forwards(binary: &Path, kubeconfig: &Path) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap().port();
    let echo = tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(count @ 1..) = socket.read(&mut buffer).await {
                    if socket.write_all(&buffer[..count]).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    let mut child = Command::new(binary)
        .arg("--kubeconfig")
        .arg(kubeconfig)
        .args(["port-forward", "--address", "127.0.0.1", "p", &format!(":{target}")])
        .env("NO_PROXY", "*")
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut stdout = child.stdout.take().unwrap();
    let mut said = String::new();
    let port: u16 = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            let mut buffer = [0; 256];
            let count = stdout.read(&mut buffer).await.unwrap();
            assert!(count > 0, "port-forward ended: {said}");
            said.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if let Some((_, rest)) = said.split_once("127.0.0.1:")
                && let Some((port, _)) = rest.split_once(' ')
            {
                return port.parse().unwrap();
            }
        }
    })
    .await
    .unwrap();
    let mut tasks = Vec::new();
    for n in 0..4_u8 {
        tasks.push(tokio::spawn(async move {
            let mut socket = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            let sent = vec![n; 100_000];
            let (mut reader, mut writer) = socket.split();
            let (_, got) = tokio::join!(
                async {
                    writer.write_all(&sent).await.unwrap();
                },
                async {
                    let mut got = vec![0; sent.len()];
                    reader.read_exact(&mut got).await.unwrap();
                    got
                }
            );
            assert!(got == sent);
        }));
    }
    for task in tasks {
        tokio::time::timeout(Duration::from_secs(20), task).await.unwrap().unwrap();
    }
    child.kill().await.unwrap();
    echo.abort();
}
