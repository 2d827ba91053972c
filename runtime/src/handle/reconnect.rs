//! The connection to a shim, and another one in its place when this side of it fails.

use std::os::unix::net::UnixStream;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::Sandbox;
use crate::engine::shim::proves_absence;
use crate::link::{Link, News};
use crate::{Error, Result};

/// Attempts to connect to a shim again before it counts as lost, and the pause before each of
/// them.
const RECONNECT_ATTEMPTS: u32 = 5;
const RECONNECT_PAUSE: Duration = Duration::from_millis(200);

impl Sandbox {
    /// Makes a connected socket the sandbox's connection.
    pub(super) fn join(&self, stream: UnixStream) -> Result<()> {
        let inner = &self.inner;
        // The connection must not keep the sandbox that it belongs to.
        let sandbox = Arc::downgrade(inner);
        let (observed, cgroups) = (Arc::clone(&inner.observed), inner.engine.cgroups.clone());
        let (group, state) = (inner.spec.cgroup.clone(), inner.engine.state(&inner.spec.id));
        let mut place = inner.link.lock().unwrap_or_else(PoisonError::into_inner);
        let link = Link::new(inner.spec.id.clone(), stream, move |news| {
            let mut observed = observed.lock().unwrap_or_else(PoisonError::into_inner);
            match news {
                News::Event(event) => observed.event(event),
                News::Gone | News::Failed if observed.removing => {}
                News::Gone => {
                    // No caller waits for these processes any more.
                    cgroups.kill(&group);
                    observed.lose(&state);
                }
                News::Failed => {
                    observed.forget_execs();
                    if let Some(inner) = sandbox.upgrade() {
                        tokio::spawn(Self { inner }.reconnect());
                    }
                }
            }
        });
        *place = Some(link.map_err(Error::kernel("connecting to the shim"))?);
        Ok(())
    }

    /// Connects to a shim whose containers run on. If that fails, the sandbox is lost.
    async fn reconnect(self) {
        let id = &self.inner.spec.id;
        for _ in 0..RECONNECT_ATTEMPTS {
            tokio::time::sleep(RECONNECT_PAUSE).await;
            if self.observed().removing {
                return;
            }
            match self.inner.engine.dial(id) {
                Ok(stream) => match self.resume(stream).await {
                    Ok(()) => return,
                    Err(error) => {
                        tracing::warn!(sandbox = id, %error, "connecting to a shim again")
                    }
                },
                Err(error) if proves_absence(&error) => break,
                Err(error) => tracing::warn!(sandbox = id, %error, "connecting to a shim again"),
            }
        }
        tracing::error!(sandbox = id, "its shim cannot be reached again; killing its containers");
        self.inner.engine.kill_shim(id);
        self.inner.engine.cgroups.kill(&self.inner.spec.cgroup);
        self.observed().lose(&self.inner.engine.state(id));
    }

    async fn resume(&self, stream: UnixStream) -> Result<()> {
        self.join(stream)?;
        let reconciled = self.reconcile().await;
        if let (Err(_), Some(link)) = (&reconciled, self.link()) {
            link.abandon();
        }
        reconciled
    }
}

#[cfg(test)]
#[path = "reconnect_tests.rs"]
mod tests;
