//! HTTP probes against servers of the tests.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::sync::Arc;

use super::*;
use hyper::service::service_fn;
use k8s_openapi::api::core::v1::HTTPHeader;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A server that answers by path: `/<status>`, `/to?<location>`, `/loop`, `/headers`.
async fn answer(
    request: http::Request<hyper::body::Incoming>,
) -> Result<http::Response<String>, Infallible> {
    let path = request.uri().path().to_owned();
    let builder = http::Response::builder();
    let response = match path.as_str() {
        "/to" => {
            builder.status(302).header("Location", request.uri().query().unwrap()).body("go".into())
        }
        "/loop" => builder.status(302).header("Location", "/loop").body(String::new()),
        "/headers" => {
            let lines = request.headers().iter();
            let lines = lines.map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
            builder.body(lines.collect())
        }
        status => {
            builder.status(status.trim_start_matches('/').parse().unwrap_or(200)).body(path.clone())
        }
    };
    Ok(response.unwrap())
}

/// Serves on a port of its own, with TLS where asked for.
async fn serve(tls: Option<Arc<rustls::ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            tokio::spawn(async move {
                let server = hyper::server::conn::http1::Builder::new();
                // A client that hangs up is part of the tests.
                let _ = match tls {
                    None => server.serve_connection(TokioIo::new(stream), service_fn(answer)).await,
                    Some(tls) => {
                        let acceptor = tokio_rustls::TlsAcceptor::from(tls);
                        let Ok(stream) = acceptor.accept(stream).await else { return };
                        server.serve_connection(TokioIo::new(stream), service_fn(answer)).await
                    }
                };
            });
        }
    });
    port
}

/// A certificate that nobody should trust: self-signed, for another name.
fn untrustworthy() -> Arc<rustls::ServerConfig> {
    let made = rcgen::generate_simple_self_signed(["elsewhere.example".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    Arc::new(config)
}

fn get(port: u16, path: &str, scheme: &str) -> HTTPGetAction {
    HTTPGetAction {
        port: IntOrString::Int(port.into()),
        path: Some(path.into()),
        scheme: Some(scheme.into()),
        ..HTTPGetAction::default()
    }
}

async fn probed(action: &HTTPGetAction) -> Answer {
    let target = crate::worker::fakes::target();
    probe(action, &target, Duration::from_secs(20)).await
}

#[tokio::test]
async fn statuses() {
    let port = serve(None).await;
    for (path, expected) in [
        ("/200", Answer::Good),
        ("204", Answer::Good),
        ("/400", Answer::Bad("HTTP probe failed with statuscode: 400".into())),
        ("/500", Answer::Bad("HTTP probe failed with statuscode: 500".into())),
        ("/304", Answer::Odd("Probe terminated redirects, Response body: ".into())),
    ] {
        assert_eq!(probed(&get(port, path, "HTTP")).await, expected, "{path}");
    }
}

#[tokio::test]
async fn any_certificate_will_do() {
    let port = serve(Some(untrustworthy())).await;
    assert_eq!(probed(&get(port, "/200", "HTTPS")).await, Answer::Good);
    let bad = Answer::Bad("HTTP probe failed with statuscode: 503".into());
    assert_eq!(probed(&get(port, "/503", "HTTPS")).await, bad);
}

#[tokio::test]
async fn https_wants_tls() {
    let port = serve(None).await;
    let Answer::Bad(why) = probed(&get(port, "/200", "HTTPS")).await else {
        panic!("a plain server passed for TLS")
    };
    assert_eq!(
        why,
        format!(
            "Get \"https://127.0.0.1:{port}/200\": http: server gave HTTP response to HTTPS client"
        )
    );
}

#[tokio::test]
async fn redirects_are_followed_on_the_same_host() {
    let (port, tls) = (serve(None).await, serve(Some(untrustworthy())).await);
    let to = |location: &str| get(port, &format!("/to?{location}"), "HTTP");
    assert_eq!(probed(&to("/200")).await, Answer::Good);
    assert_eq!(probed(&to("200")).await, Answer::Good);
    assert_eq!(probed(&to(&format!("https://127.0.0.1:{tls}/200"))).await, Answer::Good);
    let bad = Answer::Bad("HTTP probe failed with statuscode: 500".into());
    assert_eq!(probed(&to("/500")).await, bad);
    let odd = Answer::Odd("Probe terminated redirects, Response body: go".into());
    assert_eq!(probed(&to("http://elsewhere.example/500")).await, odd);
    let Answer::Bad(why) = probed(&to("/loop")).await else { panic!("a loop ended well") };
    assert!(why.ends_with("stopped after 10 redirects"), "{why}");
}

#[tokio::test]
async fn headers() {
    let port = serve(None).await;
    let mut action = get(port, "/headers", "HTTP");
    let target = crate::worker::fakes::target();
    let url = url(&action, &target).unwrap();
    let sent = async |action: &HTTPGetAction| {
        ask(action, &target, &url, Duration::from_secs(20), "kube-probe/1.33").await.unwrap().body
    };
    assert_eq!(
        sent(&action).await,
        format!(
            "host: 127.0.0.1:{port}\nuser-agent: kube-probe/1.33\naccept: */*\nconnection: close\n"
        )
    );
    let header = |name: &str, value: &str| HTTPHeader { name: name.into(), value: value.into() };
    action.http_headers = Some(vec![
        header("Host", "shop.example"),
        header("X-A", "1"),
        header("User-Agent", ""),
        header("X-A", "2"),
    ]);
    assert_eq!(
        sent(&action).await,
        "accept: */*\nhost: shop.example\nx-a: 1\nx-a: 2\nconnection: close\n"
    );
}

#[tokio::test]
async fn silence_and_closed_ports() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let target = crate::worker::fakes::target();
    let action = get(port, "/", "HTTP");
    let answer = probe(&action, &target, Duration::from_millis(50)).await;
    let text = format!(
        "Get \"http://127.0.0.1:{port}/\": context deadline exceeded (Client.Timeout exceeded \
         while awaiting headers)"
    );
    assert_eq!(answer, Answer::Bad(text));
    drop(silent);
    let text = format!(
        "Get \"http://127.0.0.1:{port}/\": dial tcp 127.0.0.1:{port}: connect: connection refused"
    );
    assert_eq!(probed(&action).await, Answer::Bad(text));
}

#[test]
fn locations() {
    let base: Uri = "http://h:8080/a/b?c".parse().unwrap();
    for (location, expected) in [
        ("/x", "http://h:8080/x"),
        ("x", "http://h:8080/a/x"),
        ("?q", "http://h:8080/a/b?q"),
        ("//other/x", "http://other/x"),
        ("https://other/x#part", "https://other/x"),
    ] {
        assert_eq!(resolve(&base, location).unwrap().to_string(), expected, "{location}");
    }
}

/// Sends the same bytes for as long as they are taken; returns the port.
async fn endless(head: &'static str, piece: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        assert!(stream.read(&mut request).await.unwrap() > 0);
        let mut sent = stream.write_all(head.as_bytes()).await;
        while sent.is_ok() {
            sent = stream.write_all(piece.as_bytes()).await;
        }
    });
    port
}

#[tokio::test]
async fn endless_answers_are_cut() {
    let port = endless("HTTP/1.1 200 OK\r\n\r\n", "xxxxxxxx").await;
    assert_eq!(probed(&get(port, "/", "HTTP")).await, Answer::Good);
    let port = endless("HTTP/1.1 200 OK\r\n", "A: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await;
    let answer = probed(&get(port, "/", "HTTP")).await;
    assert!(matches!(answer, Answer::Bad(_)), "{answer:?}");
    let port = endless("HTTP/1.1 200 OK\r\nA: ", "xxxxxxxx").await;
    let answer = probed(&get(port, "/", "HTTP")).await;
    assert!(matches!(answer, Answer::Bad(_)), "{answer:?}");
}
