//! `kube::Client`s that run straight into the API server: no TCP, no TLS, no JSON-over-loopback.
//!
//! A request is begun on the caller's thread, where most reads are answered at once. What has to wait
//! (for the store, a turn, a lock) goes on on the threads that serve the API: it may hold what other
//! requests wait for, and must not stop where a computation of the node does. The body of a watch is
//! polled by the caller.

use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use apiserver::ApiServer;
use apiserver::security::User;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use kube::Client;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;

/// Returns a client that acts as `user`, who counts as authenticated; `threads` run the handlers of
/// its requests that have to wait. A request whose future is dropped is cancelled, as over a
/// connection.
pub fn client(server: &Arc<ApiServer>, user: User, threads: &Handle) -> Client {
    let (server, user, threads) = (server.clone(), Arc::new(user), threads.clone());
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let server = server.clone();
        let (user, threads) = (user.clone(), threads.clone());
        async move {
            let mut request =
                request.map(|body| body.map_err(apiserver::BoxError::from).boxed_unsync());
            user.send(request.extensions_mut());
            let mut handler = server.handle(request);
            if let Poll::Ready(answer) = begin(&mut handler, &threads) {
                return Ok(answer);
            }
            // Fails only when the threads have been stopped: the server catches panics.
            let answer: Result<_, JoinError> = AbortOnDropHandle::new(threads.spawn(handler)).await;
            answer
        }
    });
    Client::new(service, "default")
}

/// Polls `work` once, as if on one of `threads`: its timers and tasks are theirs. It is not woken for
/// the caller, so it has to be polled again.
fn begin<T>(work: &mut BoxFuture<'static, T>, threads: &Handle) -> Poll<T> {
    let _entered = threads.enter();
    work.poll_unpin(&mut Context::from_waker(Waker::noop()))
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::runtime::Builder;

    use super::*;

    #[test]
    fn work_that_waits_goes_on_on_the_threads() {
        let threads = Builder::new_multi_thread().thread_name("api").enable_all().build().unwrap();
        // Without timers: those of the work are not the caller's.
        let caller = Builder::new_current_thread().build().unwrap();
        let name = || std::thread::current().name().map(str::to_owned);
        let here = name();
        caller.block_on(async {
            let mut work = async move {
                let begun_on = name();
                tokio::time::sleep(Duration::from_millis(1)).await;
                (begun_on, name())
            }
            .boxed();
            assert!(begin(&mut work, threads.handle()).is_pending());
            let (begun_on, ended_on) = threads.spawn(work).await.unwrap();
            assert_eq!((begun_on, ended_on.as_deref()), (here, Some("api")));
            let mut at_once = async move { name() }.boxed();
            assert!(begin(&mut at_once, threads.handle()).is_ready());
        });
    }
}
