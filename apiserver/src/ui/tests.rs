//! Whole requests to the dashboard's own paths, as a browser sends them.
#![allow(clippy::unwrap_used)]

use http::header::{CONTENT_SECURITY_POLICY, LOCATION, SET_COOKIE};
use http::{Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::sync::Arc;

use crate::Body;
use crate::body::full;
use crate::security::User;
use crate::tests::harness::Cluster;
use crate::tls_listener::Origin;

/// A request as it comes from the network, with the user of a client certificate if there is one.
struct Ask<'a> {
    method: Method,
    path: &'a str,
    headers: Vec<(&'a str, &'a str)>,
    user: Option<User>,
    body: &'a str,
}

impl<'a> Ask<'a> {
    fn new(method: Method, path: &'a str) -> Self {
        Self { method, path, headers: vec![("host", "127.0.0.1:6443")], user: None, body: "" }
    }

    fn get(path: &'a str) -> Self {
        Self::new(Method::GET, path)
    }

    fn with(mut self, name: &'a str, value: &'a str) -> Self {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value));
        self
    }

    fn by(mut self, name: &str, groups: &[&str]) -> Self {
        self.user = Some(User::authenticated(name, groups));
        self
    }

    async fn of(self, cluster: &Cluster) -> Response<Body> {
        let mut request = Request::builder().method(self.method).uri(self.path);
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        let mut request = request.body(full(self.body.to_owned())).unwrap();
        request.extensions_mut().insert(Arc::new(Origin::default()));
        if let Some(user) = self.user {
            Arc::new(user).send(request.extensions_mut());
        }
        cluster.server.handle(request).await
    }
}

async fn json_of(response: Response<Body>) -> Value {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

/// The token of a fresh login link.
async fn login_token(cluster: &Cluster) -> String {
    let link = Ask::new(Method::POST, "/ui/login-link").by("admin", &["system:masters"]);
    let answer = json_of(link.of(cluster).await).await;
    answer["path"].as_str().unwrap().strip_prefix("/ui/#/login/").unwrap().to_owned()
}

#[tokio::test]
async fn anybody_may_read_the_page_and_nothing_else() {
    let cluster = Cluster::new().await;
    let redirect = Ask::get("/ui").of(&cluster).await;
    assert_eq!(redirect.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(redirect.headers()[LOCATION], "ui/");
    let page = Ask::get("/ui/").of(&cluster).await;
    assert_eq!(page.status(), StatusCode::OK);
    let policy = page.headers()[CONTENT_SECURITY_POLICY].to_str().unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"));
    assert!(!policy.contains("unsafe"));
    for path in ["/ui/nothing", "/ui/../api", "/ui/assets/"] {
        assert_eq!(Ask::get(path).of(&cluster).await.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let pods = Ask::get("/api/v1/pods").of(&cluster).await;
    assert_eq!(pods.status(), StatusCode::FORBIDDEN);
    let link = Ask::new(Method::POST, "/ui/login-link").of(&cluster).await;
    assert_eq!(link.status(), StatusCode::FORBIDDEN);
    let link = Ask::new(Method::POST, "/ui/login-link").by("joe", &[]).of(&cluster).await;
    assert_eq!(link.status(), StatusCode::FORBIDDEN, "only who may everything");
    let me = json_of(Ask::get("/ui/session").of(&cluster).await).await;
    assert_eq!(me["anonymous"], true);
}

#[tokio::test]
async fn a_login_link_makes_one_session_for_our_page_only() {
    let cluster = Cluster::new().await;
    let token = login_token(&cluster).await;
    let log_in = |marked: bool| {
        let mut ask = Ask::new(Method::POST, "/ui/session");
        ask.body = &token;
        if marked { ask.with("x-coracle-dashboard", "1") } else { ask }
    };
    assert_eq!(log_in(false).of(&cluster).await.status(), StatusCode::FORBIDDEN);
    let session = log_in(true).of(&cluster).await;
    assert_eq!(session.status(), StatusCode::OK);
    let set = session.headers()[SET_COOKIE].to_str().unwrap().to_owned();
    for rule in ["__Host-", "HttpOnly", "Secure", "SameSite=Strict", "Path=/"] {
        assert!(set.contains(rule), "{set}");
    }
    assert_eq!(log_in(true).of(&cluster).await.status(), StatusCode::UNAUTHORIZED, "once only");

    let cookie = set.split(';').next().unwrap();
    let page = json_of(session).await["page"].as_str().unwrap().to_owned();
    // Whoever listens at another port of the host is sent the cookie, and nothing else.
    let stolen = Ask::get("/api/v1/pods").with("cookie", cookie);
    assert_eq!(stolen.of(&cluster).await.status(), StatusCode::FORBIDDEN);
    let guessed = Ask::get("/api/v1/pods").with("cookie", cookie).with("x-coracle-dashboard", "1");
    assert_eq!(guessed.of(&cluster).await.status(), StatusCode::FORBIDDEN);
    let pods =
        || Ask::get("/api/v1/pods").with("cookie", cookie).with("x-coracle-dashboard", &page);
    assert_eq!(pods().of(&cluster).await.status(), StatusCode::OK);
    let foreign = pods().with("sec-fetch-site", "cross-site").of(&cluster).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let rebound = pods().with("host", "evil.example:6443").of(&cluster).await;
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
    let wrong = Ask::get("/api/v1/pods").with("cookie", "__Host-coracle=guess");
    assert_eq!(wrong.of(&cluster).await.status(), StatusCode::FORBIDDEN);

    let end = Ask::new(Method::DELETE, "/ui/session").with("cookie", cookie);
    let end = end.with("x-coracle-dashboard", "1").of(&cluster).await;
    assert_eq!(end.status(), StatusCode::OK);
    assert_eq!(pods().of(&cluster).await.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn page_learns_whose_session_a_link_begins() {
    let cluster = Cluster::new().await;
    let post = |path: &'static str, token: String, cookie: String| {
        let cluster = &cluster;
        async move {
            let mut ask = Ask::new(Method::POST, path).with("x-coracle-dashboard", "1");
            ask.body = &token;
            ask.with("cookie", &cookie).of(cluster).await
        }
    };
    let no_cookie = String::new;
    let first = login_token(&cluster).await;
    let unmarked = Ask { body: &first, ..Ask::new(Method::POST, "/ui/session/offer") };
    assert_eq!(unmarked.of(&cluster).await.status(), StatusCode::FORBIDDEN);
    let offer = post("/ui/session/offer", first.clone(), no_cookie()).await;
    assert_eq!(json_of(offer).await, json!({ "user": "admin" }));
    let session = post("/ui/session", first.clone(), no_cookie()).await;
    assert_eq!(session.status(), StatusCode::OK, "the offer has not used it up");
    let cookie = session.headers()[SET_COOKIE].to_str().unwrap();
    let cookie = cookie.split(';').next().unwrap().to_owned();
    let page = json_of(session).await["page"].as_str().unwrap().to_owned();
    let spent = post("/ui/session/offer", first, no_cookie()).await;
    assert_eq!(spent.status(), StatusCode::UNAUTHORIZED);

    let second = login_token(&cluster).await;
    let refused = post("/ui/session", "wrong".to_owned(), cookie.clone()).await;
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let pods = || {
        let ask = Ask::get("/api/v1/pods").with("cookie", &cookie);
        ask.with("x-coracle-dashboard", &page).of(&cluster)
    };
    assert_eq!(pods().await.status(), StatusCode::OK, "the session is as good as before");
    assert_eq!(post("/ui/session", second, cookie.clone()).await.status(), StatusCode::OK);
    assert_eq!(pods().await.status(), StatusCode::FORBIDDEN, "another took its place");
}

#[tokio::test]
async fn slow_logins_keep_nobody_out() {
    let cluster = Cluster::new().await;
    let token = login_token(&cluster).await;
    let log_in = |body: Body, last: u8| {
        let request = Request::post("/ui/session")
            .header("host", "127.0.0.1:6443")
            .header("x-coracle-dashboard", "1");
        let mut request = request.body(body).unwrap();
        let peer = Some(([192, 0, 2, last], 50_000).into());
        request.extensions_mut().insert(Arc::new(Origin { peer, ..Origin::default() }));
        cluster.server.handle(request)
    };
    let mut slow = Vec::new();
    for n in 0..100 {
        let never = futures::stream::pending::<Result<http_body::Frame<bytes::Bytes>, _>>();
        let body = http_body_util::StreamBody::new(never).boxed_unsync();
        let mut login = log_in(body, 1 + n / 20);
        assert!(futures::poll!(&mut login).is_pending());
        slow.push(login);
    }
    for last in [1, 99] {
        let wrong = log_in(full("wrong".to_owned()), last).await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    }
    assert_eq!(log_in(full(token), 1).await.status(), StatusCode::OK);
    assert_eq!((&mut slow[0]).await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(futures::poll!(&mut slow[99]).is_pending());
}

#[tokio::test]
async fn another_origin_can_not_write_with_a_credential_that_a_proxy_adds() {
    let cluster = Cluster::new().await;
    let namespace = json!({ "metadata": { "name": "evil" } }).to_string();
    // A form or script can send this without asking: no content type, or text.
    for (name, value) in [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")] {
        let mut ask = Ask::new(Method::POST, "/api/v1/namespaces").by("admin", &["system:masters"]);
        ask.body = &namespace;
        let refused = ask.with(name, value).of(&cluster).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN, "{name}");
    }
    assert_eq!(cluster.get("/api/v1/namespaces/evil").await.code, StatusCode::NOT_FOUND);
    let rebound = Ask::get("/ui/").with("host", "evil.example").of(&cluster).await;
    assert_eq!(rebound.status(), StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn one_connection_carries_several_watches_with_the_users_own_rights() {
    let cluster = Cluster::new().await;
    let path = "/ui/watch?w=a:object:/api/v1/namespaces%3Fwatch%3D1%26resourceVersion%3D0\
                &w=b:table:/api/v1/namespaces/default/serviceaccounts%3Fwatch%3D1";
    let admin = Ask::get(path).by("admin", &["system:masters"]).of(&cluster).await;
    assert_eq!(admin.status(), StatusCode::OK);
    let mut body = admin.into_body();
    let mut seen = String::new();
    while !(seen.contains("a {\"type\":\"ADDED\"") && seen.contains("b {\"type\":\"ADDED\"")) {
        let frame = tokio::time::timeout(std::time::Duration::from_secs(10), body.frame());
        let data = frame.await.expect("events come").unwrap().unwrap().into_data().unwrap();
        seen.push_str(std::str::from_utf8(&data).unwrap());
    }
    assert!(seen.contains("\"kind\":\"Table\""));

    let nobody = Ask::get(path).of(&cluster).await;
    let text = nobody.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&text).unwrap();
    assert_eq!(text.lines().count(), 2, "{text}");
    for line in text.lines() {
        assert!(line.contains("\"type\":\"ERROR\"") && line.contains("Forbidden"), "{line}");
    }
    let none = Ask::get("/ui/watch").of(&cluster).await;
    assert_eq!(none.status(), StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn a_terminal_needs_a_token_of_our_page() {
    let cluster = Cluster::new().await;
    let masters: &[&str] = &["system:masters"];
    let token =
        Ask::new(Method::POST, "/ui/terminal-token").by("admin", masters).of(&cluster).await;
    assert_eq!(token.status(), StatusCode::FORBIDDEN, "not from our page");
    let token = Ask::new(Method::POST, "/ui/terminal-token").with("x-coracle-dashboard", "1");
    let token = json_of(token.by("admin", masters).of(&cluster).await).await;
    let protocols =
        format!("v5.channel.k8s.io, coracle.terminal.{}", token["token"].as_str().unwrap());
    let open = |protocols| {
        Ask::get("/ui/terminal/default/none/exec?command=sh")
            .with("upgrade", "websocket")
            .with("connection", "Upgrade")
            .with("sec-fetch-site", "same-origin")
            .with("sec-websocket-protocol", protocols)
            .by("admin", masters)
    };
    assert_eq!(open("v5.channel.k8s.io").of(&cluster).await.status(), StatusCode::FORBIDDEN);
    // With the token it is the exec of a pod that is not there.
    assert_eq!(open(&protocols).of(&cluster).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(open(&protocols).of(&cluster).await.status(), StatusCode::FORBIDDEN, "once only");
}

/// A session's cookie and the token of its page.
async fn session(cluster: &Cluster) -> (String, String) {
    let token = login_token(cluster).await;
    let mut ask = Ask::new(Method::POST, "/ui/session").with("x-coracle-dashboard", "1");
    ask.body = &token;
    let session = ask.of(cluster).await;
    let set = session.headers()[SET_COOKIE].to_str().unwrap();
    let cookie = set.split(';').next().unwrap().to_owned();
    (cookie, json_of(session).await["page"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn session_opens_no_application() {
    let cluster = Cluster::new().await;
    let (cookie, page) = session(&cluster).await;
    for path in [
        "/api/v1/namespaces/default/pods/p:80/proxy/",
        "/api/v1/namespaces/default/services/s/proxy/",
    ] {
        let ask = Ask::get(path).with("cookie", &cookie).with("x-coracle-dashboard", &page);
        let refused = ask.of(&cluster).await;
        assert_eq!(refused.status(), StatusCode::FORBIDDEN);
        let text = json_of(refused).await["message"].to_string();
        assert!(text.contains("kubectl proxy"), "{text}");
        // By another credential it is a pod or Service that is not there.
        let asked = Ask::get(path).by("admin", &["system:masters"]).of(&cluster).await;
        assert_eq!(asked.status(), StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn login_token_is_short_and_comes_soon() {
    let cluster = Cluster::new().await;
    let long = "x".repeat(257);
    let mut ask = Ask::new(Method::POST, "/ui/session").with("x-coracle-dashboard", "1");
    ask.body = &long;
    assert_eq!(ask.of(&cluster).await.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let post = |body| {
        let mut request = Request::post("/ui/session").header("x-coracle-dashboard", "1");
        request = request.header("host", "127.0.0.1:6443");
        let mut request = request.body(body).unwrap();
        request.extensions_mut().insert(Arc::new(Origin::default()));
        cluster.server.handle(request)
    };
    let began = std::time::Instant::now();
    let slow = post(crate::body::stream(futures::stream::pending())).await;
    assert_eq!(slow.status(), StatusCode::GATEWAY_TIMEOUT);
    assert!(began.elapsed().as_secs() < 20);
}

#[tokio::test]
async fn anonymous_clients_get_no_terminal_token() {
    let cluster = Cluster::new().await;
    let ask = Ask::new(Method::POST, "/ui/terminal-token").with("x-coracle-dashboard", "1");
    assert_eq!(ask.of(&cluster).await.status(), StatusCode::UNAUTHORIZED);
}
