//! Requests that are passed on to an application, which answers with what it got.
#![allow(clippy::unwrap_used)]

use http::header::{AUTHORIZATION, COOKIE, HOST, SET_COOKIE};
use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{ORIGIN_CLAIMS, forward};
use crate::body::full;

#[tokio::test]
async fn cookies_are_not_passed_on() {
    let (near, mut application) = tokio::io::duplex(64 << 10);
    let served = tokio::spawn(async move {
        let mut head = vec![0; 64 << 10];
        let count = application.read(&mut head).await.unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nset-cookie: __Host-coracle=stolen; Path=/\r\n\
            set-cookie: a=b\r\ncontent-length: 2\r\n\r\nok";
        application.write_all(answer).await.unwrap();
        String::from_utf8_lossy(&head[..count]).to_ascii_lowercase()
    });
    let request = Request::builder()
        .method(Method::GET)
        .uri("/api/v1/namespaces/default/pods/p/proxy/")
        .header(HOST, "127.0.0.1:6443")
        .header(COOKIE, "__Host-coracle=secret; theme=dark")
        .header(COOKIE, "other=1")
        .header(AUTHORIZATION, "Bearer secret")
        .header("impersonate-user", "root")
        .header("accept", "text/html");
    let (parts, body) = request.body(full("")).unwrap().into_parts();
    let response = forward(Box::new(near), "10.44.0.9:80", "/", parts, body, None).await.unwrap();
    assert!(!response.headers().contains_key(SET_COOKIE));
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
    let head = served.await.unwrap();
    assert!(head.contains("accept: text/html") && head.contains("host: 10.44.0.9:80"), "{head}");
    for secret in ["secret", "cookie", "theme", "impersonate"] {
        assert!(!head.contains(secret), "{secret} in {head}");
    }
}

/// Answers one request with these bytes and returns what is passed on.
async fn passed_on(upgrade: bool, answer: String) -> http::Response<crate::Body> {
    let (near, mut application) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let mut head = vec![0; 64 << 10];
        assert!(application.read(&mut head).await.unwrap() > 0);
        application.write_all(answer.as_bytes()).await.unwrap();
    });
    let mut request = Request::get("/").header("accept", "*/*");
    if upgrade {
        request = request.header("connection", "Upgrade").header("upgrade", "websocket");
    }
    let (parts, body) = request.body(full("")).unwrap().into_parts();
    forward(Box::new(near), "10.44.0.9:80", "/", parts, body, None).await.unwrap()
}

#[tokio::test]
async fn applications_claim_nothing_for_the_origin() {
    let claims: String = ["Clear-Site-Data", "NEL", "Alt-Svc", "Set-Cookie", "Report-To"]
        .into_iter()
        .chain(ORIGIN_CLAIMS)
        .map(|name| format!("{name}: x\r\n"))
        .collect();
    for (upgrade, line) in
        [(false, "200 OK"), (true, "101 Switching Protocols\r\nupgrade: websocket")]
    {
        let own = "etag: \"1\"\r\nx-app: 1\r\nconnection: upgrade";
        let answer = format!("HTTP/1.1 {line}\r\n{claims}{own}\r\n\r\n");
        let response = passed_on(upgrade, answer).await;
        assert_eq!(response.headers()["x-app"], "1");
        assert_eq!(response.headers()["etag"], "\"1\"");
        for name in [
            "clear-site-data",
            "nel",
            "report-to",
            "reporting-endpoints",
            "alt-svc",
            "strict-transport-security",
            "public-key-pins",
            "service-worker-allowed",
            "set-cookie",
            "access-control-allow-origin",
        ] {
            assert!(!response.headers().contains_key(name), "{name} with {line}");
        }
    }
}
