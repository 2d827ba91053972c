//! Sandboxes of an earlier process of the agent: taken over, or ended.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;

use super::remains::Remains;
use super::{Inner, Runtime, make_private, shim};
use crate::link::Link;
use crate::protocol::Operation;
use crate::records::{self, Unreadable};
use crate::sandbox::SandboxSpec;
use crate::{Error, Result, Sandbox};

/// Levels of empty groups above a sandbox's that a cleanup removes.
const MAX_GROUP_DEPTH: usize = 8;

/// Longest time that a shim may take to answer when it is adopted.
const ADOPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts to adopt a shim, and the pause between two of them.
const ADOPT_ATTEMPTS: u32 = 3;
const ADOPT_PAUSE: Duration = Duration::from_millis(500);

/// Sandboxes that are adopted at the same time: each may wait for a shim without an answer.
const ADOPT_CONCURRENCY: usize = 16;

/// The sandboxes of an earlier process of the agent that were found.
#[derive(Default)]
pub struct Adoption {
    /// Sandboxes that were taken over, with what they were made from.
    pub adopted: Vec<(SandboxSpec, Sandbox)>,
    /// Sandboxes that ran and were ended, because their records are lost or cannot be read.
    pub ended: BTreeMap<String, Error>,
    /// Sandboxes that may run and could be neither taken over nor ended. The failure may pass.
    pub failed: BTreeMap<String, Error>,
}

/// The outcome for one sandbox.
enum Found {
    Adopted(Box<(SandboxSpec, Sandbox)>),
    /// It ran, and was ended for this reason.
    Ended(Error),
    /// Nothing runs of it, or nothing may be done to it.
    Nothing,
}

impl Runtime {
    /// Finds the sandboxes of an earlier process of the agent and connects to their shims; a failure
    /// of one does not keep the others.
    ///
    /// A sandbox whose shim is gone (the machine restarted, or another process killed it) or cannot
    /// be reached (its socket is lost) is returned too: its [`Sandbox::events`] say
    /// [`crate::sandbox::SandboxEvent::ShimLost`] at once and its status is what was recorded.
    ///
    /// A sandbox whose record is lost or cannot be read is not adopted. If the record is of a newer
    /// version of this program, everything is left as it is; otherwise what runs of the sandbox is
    /// ended, and a record that is there is kept in `unreadable` for inspection.
    pub async fn adopt(&self) -> Result<Adoption> {
        let remains = self.remains().await?;
        let mut ids: BTreeSet<String> = self.census().await?.into_iter().collect();
        ids.extend(remains.ids());
        let found = futures::stream::iter(ids).map(|id| async {
            let found = self.adopt_found(&id, &remains).await;
            (id, found)
        });
        let mut found = std::pin::pin!(found.buffer_unordered(ADOPT_CONCURRENCY));
        let mut adoption = Adoption::default();
        while let Some((id, found)) = found.next().await {
            match found {
                Ok(Found::Adopted(found)) => adoption.adopted.push(*found),
                Ok(Found::Ended(reason)) => drop(adoption.ended.insert(id, reason)),
                Ok(Found::Nothing) => {}
                Err(error) => drop(adoption.failed.insert(id, error)),
            }
        }
        Ok(adoption)
    }

    /// The same for one sandbox; `None` if nothing runs of it.
    pub async fn adopt_one(&self, id: &str) -> Result<Option<(SandboxSpec, Sandbox)>> {
        let remains = self.remains().await?;
        match self.adopt_found(id, &remains).await? {
            Found::Adopted(found) => Ok(Some(*found)),
            Found::Ended(_) | Found::Nothing => Ok(None),
        }
    }

    /// Ends a sandbox that cannot be adopted, and removes what is left of it.
    pub async fn end(&self, id: &str) -> Result<()> {
        let remains = self.remains().await?;
        self.end_unknown(id, &remains).await?;
        let (inner, name) = (Arc::clone(&self.inner), id.to_owned());
        let forgotten = tokio::task::spawn_blocking(move || inner.forget(&name)).await;
        forgotten.map_err(|error| Error::kernel("removing a sandbox")(error.into()))?
    }

    async fn adopt_found(&self, id: &str, remains: &Remains) -> Result<Found> {
        let record = self.inner.state(id).join(records::SANDBOX);
        let spec: SandboxSpec = match records::load(&record) {
            Ok(spec) => spec,
            Err(Unreadable::TooNew(format)) => {
                tracing::error!(
                    sandbox = id,
                    format,
                    "the sandbox was made by a newer version; leaving it alone"
                );
                return Ok(Found::Nothing);
            }
            Err(Unreadable::Missing) if !remains.ids().contains(id) => return Ok(Found::Nothing),
            Err(error) => {
                tracing::error!(sandbox = id, %error, "sandbox record cannot be used; ending the sandbox");
                if !matches!(error, Unreadable::Missing) {
                    self.inner.set_aside(id, &record);
                }
                self.end_unknown(id, remains).await?;
                return Ok(Found::Ended(Error::Record { sandbox: id.to_owned(), source: error }));
            }
        };
        let sandbox = self.connect(spec.clone(), remains).await?;
        Ok(Found::Adopted(Box::new((spec, sandbox))))
    }

    /// Ends a sandbox of which nothing but the name is known. Its shim kills the containers, if it
    /// can be reached; what is left then is ended whatever the shim does.
    async fn end_unknown(&self, id: &str, remains: &Remains) -> Result<()> {
        if let Ok(stream) = shim::connect(&self.inner.socket(id))
            && let Ok(link) = Link::new(id.to_owned(), stream, |_| {})
        {
            let request = link.request(Operation::Shutdown, Vec::new());
            let _ = tokio::time::timeout(ADOPT_TIMEOUT, request).await;
        }
        self.inner.kill_shim(id);
        self.inner.end_remains(id, remains).await
    }

    /// Connects to the shim of a sandbox. The sandbox counts as lost, and what runs in it is
    /// killed, only when no shim listens, or when it speaks another protocol or gives no answer in
    /// [`ADOPT_ATTEMPTS`]; a failure on this side is returned.
    async fn connect(&self, spec: SandboxSpec, remains: &Remains) -> Result<Sandbox> {
        let inner = Arc::clone(&self.inner);
        let lost = |spec: SandboxSpec| {
            // One may run whose socket is lost.
            if let Some(shims) = remains.shims.get(&spec.id) {
                self.inner.kill_shims(&spec.id, shims);
            }
            Sandbox::lost(spec, Arc::clone(&self.inner))
        };
        let mut failure = None;
        for attempt in 0..ADOPT_ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(ADOPT_PAUSE).await;
            }
            let stream = match shim::connect(&inner.socket(&spec.id)) {
                Ok(stream) => stream,
                Err(error) if shim::proves_absence(&error) => return lost(spec),
                Err(error) => {
                    failure = Some(error);
                    continue;
                }
            };
            let sandbox = Sandbox::connected(spec.clone(), Arc::clone(&inner), None, stream)?;
            match tokio::time::timeout(ADOPT_TIMEOUT, sandbox.reconcile()).await {
                Ok(Ok(())) => return Ok(sandbox),
                Ok(Err(error @ Error::ShimVersion { .. })) => {
                    tracing::warn!(%error, "restarting its containers under a new shim");
                    sandbox.abandon();
                    return lost(spec);
                }
                Ok(Err(_)) | Err(_) => sandbox.abandon(),
            }
            failure = None;
        }
        match failure {
            Some(error) => Err(Error::kernel("connecting to a shim")(error)),
            None => {
                tracing::error!(sandbox = spec.id, "its shim gives no answer; killing it");
                lost(spec)
            }
        }
    }

    /// The identifiers of all sandboxes that have left a record or a directory.
    pub async fn census(&self) -> Result<Vec<String>> {
        for directory in [self.inner.states(), self.inner.runs()] {
            fs::read_dir(&directory).map_err(Error::file("reading", &directory))?;
        }
        Ok(self.inner.recorded().into_iter().collect())
    }

    /// Returns what the kernel knows of this node's sandboxes, whatever became of their records.
    pub async fn remains(&self) -> Result<Remains> {
        let inner = Arc::clone(&self.inner);
        let looked = tokio::task::spawn_blocking(move || inner.remains()).await;
        looked.map_err(|error| Error::kernel("looking for sandboxes")(error.into()))
    }

    /// Removes every sandbox that is not in `keep`: processes, cgroups, mounts, records. One that
    /// cannot be removed does not keep the others; the first failure is returned.
    pub async fn cleanup(&self, keep: &HashSet<String>) -> Result<()> {
        let remains = self.remains().await?;
        let mut ids: BTreeSet<String> = self.census().await?.into_iter().collect();
        ids.extend(remains.ids());
        let mut failure = None;
        for id in ids.into_iter().filter(|id| !keep.contains(id)) {
            if let Err(error) = self.clean(&id, keep, &remains).await {
                tracing::warn!(sandbox = id, %error, "a sandbox cannot be removed");
                failure.get_or_insert(error);
            }
        }
        if keep.is_empty() {
            self.remove_groups();
        }
        failure.map_or(Ok(()), Err)
    }

    async fn clean(&self, id: &str, keep: &HashSet<String>, remains: &Remains) -> Result<()> {
        let record = self.inner.state(id).join(records::SANDBOX);
        match records::load::<SandboxSpec>(&record) {
            Ok(spec) => match self.connect(spec.clone(), remains).await {
                Ok(sandbox) => {
                    sandbox.remove().await?;
                    self.inner.cgroups.prune(&spec.cgroup, 2);
                    // A shim that could not be reached, and a group that the record does not name.
                    self.inner.end_remains(id, remains).await
                }
                Err(error) => {
                    tracing::warn!(sandbox = id, %error, "a sandbox is ended without its shim");
                    self.end_unknown(id, remains).await?;
                    self.inner.forget(id)
                }
            },
            Err(Unreadable::TooNew(_)) if !keep.is_empty() => Ok(()),
            Err(_) => {
                self.end_unknown(id, remains).await?;
                self.inner.forget(id)
            }
        }
    }

    /// Removes the groups that sandboxes and shims were in, as far as they are empty.
    fn remove_groups(&self) {
        for group in self.inner.parents() {
            self.inner.cgroups.prune(&format!("{group}/sandbox"), MAX_GROUP_DEPTH);
        }
        let _ = fs::remove_file(self.inner.parents_file());
        // Fails while a shim is still leaving; the next cleanup takes it.
        let shims = &self.inner.config.shim_group;
        let _ = self.inner.cgroups.try_remove(shims);
        self.inner.cgroups.prune(shims, MAX_GROUP_DEPTH);
    }
}

impl Inner {
    /// Keeps a record that cannot be read, for inspection.
    fn set_aside(&self, id: &str, record: &Path) {
        let aside = self.config.state_dir.join("unreadable");
        let kept = make_private(&aside).map_err(|error| error.to_string()).and_then(|()| {
            fs::rename(record, aside.join(format!("{id}.json"))).map_err(|e| e.to_string())
        });
        if let Err(error) = kept {
            tracing::error!(sandbox = id, %error, "the record cannot be set aside");
        }
    }
}
