//! Which layers the containers of this machine run from, as their records tell.
//!
//! Their overlays are mounted in their own mount namespaces, so no mount table that others see
//! names them.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::records;

/// The layers of one container by directory name, base first.
pub(super) type Stack = Vec<String>;

#[derive(Deserialize)]
struct Container {
    layers: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Started {
    boot_id: String,
}

/// The layers of every container below the runtime's `state_dir` that runs or is about to.
pub(super) fn stacks(state_dir: &Path) -> io::Result<HashSet<Stack>> {
    let boot_id = records::boot_id();
    let mut stacks = HashSet::new();
    for sandbox in subdirectories(&state_dir.join("sandboxes"))? {
        for container in subdirectories(&sandbox)? {
            let record: Option<Container> = records::read(&container.join(records::CONTAINER))?;
            let Some(record) = record.filter(|_| !has_ended(&container, &boot_id)) else {
                continue;
            };
            stacks.insert(stack(&record.layers));
        }
    }
    Ok(stacks)
}

/// The names of layer directories.
pub(super) fn stack(layers: &[PathBuf]) -> Stack {
    let names = layers.iter().filter_map(|layer| layer.file_name());
    names.map(|name| name.to_string_lossy().into_owned()).collect()
}

/// Whether the container's processes are gone: it exited, or the machine was started anew since.
fn has_ended(container: &Path, boot_id: &str) -> bool {
    let started: Option<Started> = records::read(&container.join(records::STARTED)).ok().flatten();
    container.join(records::EXIT).exists() || started.is_some_and(|s| s.boot_id != boot_id)
}

fn subdirectories(path: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(path) {
        Ok(entries) => {
            Ok(entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect())
        }
        // A sandbox may go meanwhile.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
