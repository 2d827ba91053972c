//! `kube::Client`s that run straight into the API server: no TCP, no TLS, no JSON-over-loopback.

use std::convert::Infallible;
use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::security::User;
use http_body_util::BodyExt;
use kube::Client;

/// A client that acts as `user`, who counts as authenticated.
pub fn client(server: &Arc<ApiServer>, user: User) -> Client {
    let server = server.clone();
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let server = server.clone();
        let user = user.clone();
        async move {
            let mut request =
                request.map(|body| body.map_err(apiserver::BoxError::from).boxed_unsync());
            request.extensions_mut().insert(user);
            Ok::<_, Infallible>(server.handle(request).await)
        }
    });
    Client::new(service, "default")
}

/// A component of the control plane as an API user.
pub fn component(name: &str, groups: &[&str]) -> User {
    User {
        name: name.to_owned(),
        uid: String::new(),
        groups: groups
            .iter()
            .map(|g| (*g).to_owned())
            .chain(["system:authenticated".into()])
            .collect(),
        extra: Default::default(),
    }
}
