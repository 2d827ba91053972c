//! `kube::Client`s that run straight into the API server: no TCP, no TLS, no JSON-over-loopback.
//!
//! The handler of a request runs on the threads that serve the API, not on the caller's: it may hold
//! what other requests wait for (a turn, a lock), and must not stop where a computation of the node
//! does. The body of a watch is polled by the caller. The price is one wake-up across threads.

use std::sync::Arc;

use apiserver::ApiServer;
use apiserver::security::User;
use http_body_util::BodyExt;
use kube::Client;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// Returns a client that acts as `user`, who counts as authenticated; `threads` run the handlers of
/// its requests. A request whose future is dropped is cancelled, as over a connection.
pub fn client(server: &Arc<ApiServer>, user: User, threads: &Handle) -> Client {
    let (server, user, threads) = (server.clone(), Arc::new(user), threads.clone());
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let server = server.clone();
        let (user, threads) = (user.clone(), threads.clone());
        async move {
            let mut request =
                request.map(|body| body.map_err(apiserver::BoxError::from).boxed_unsync());
            user.send(request.extensions_mut());
            // Fails only when the threads have been stopped: the server catches panics.
            let answer: Result<_, JoinError> =
                AbortOnDropHandle::new(threads.spawn(server.handle(request))).await;
            answer
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
