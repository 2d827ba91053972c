//! Requests that are passed on to an application, which answers with what it got.
#![allow(clippy::unwrap_used)]

use http::header::{AUTHORIZATION, COOKIE, HOST, SET_COOKIE};
use http::{Method, Request};
use http_body_util::BodyExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::forward;
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
