//! The remains of earlier pods on the disk: listed at the start of the agent, then removed.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use crate::blocking::{self, Deadline};

/// Something that an earlier pod left.
pub enum Leftover {
    /// The directory of a pod, with mounts below it.
    Pod(PathBuf),
    /// The logs of a pod.
    Logs(PathBuf),
    /// A link to logs that are gone, or are about to go.
    Link(PathBuf),
}

/// Lists what is left of pods that are not among the known ones.
pub fn list(pods: &Path, logs: &Path, links: &Path, known: &HashSet<String>) -> Vec<Leftover> {
    let entries = |path: &Path| std::fs::read_dir(path).into_iter().flatten().flatten();
    let mut found = Vec::new();
    for entry in entries(pods) {
        if !known.contains(&*entry.file_name().to_string_lossy()) {
            found.push(Leftover::Pod(entry.path()));
        }
    }
    let mut gone = HashSet::new();
    for entry in entries(logs) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let uid = name.rsplit('_').next().unwrap_or_default();
        // Only directories of the form that pods make are ours.
        if name.matches('_').count() == 2 && !known.contains(uid) {
            gone.insert(entry.path());
            found.push(Leftover::Logs(entry.path()));
        }
    }
    for entry in entries(links) {
        let target = std::fs::read_link(entry.path()).unwrap_or_default();
        let of_gone = target.ancestors().any(|directory| gone.contains(directory));
        if target.starts_with(logs) && (of_gone || !target.exists()) {
            found.push(Leftover::Link(entry.path()));
        }
    }
    found
}

/// Removes it, beside whatever else runs.
pub async fn remove(leftover: Leftover) {
    let (Leftover::Pod(path) | Leftover::Logs(path) | Leftover::Link(path)) = &leftover;
    let (path, owner) = (path.clone(), path.to_string_lossy().into_owned());
    let remove = move || match leftover {
        Leftover::Pod(path) => crate::volume::mount::remove_tree(&path),
        Leftover::Logs(path) => runtime::tree::remove(&path),
        Leftover::Link(path) => std::fs::remove_file(path),
    };
    let removed = blocking::run(&owner, "Removing what a pod left", Deadline::Long, remove).await;
    if let Err(error) = removed.unwrap_or_else(|error| Err(error.into())) {
        tracing::warn!(path = %path.display(), %error, "something of an earlier pod is left");
    }
}
