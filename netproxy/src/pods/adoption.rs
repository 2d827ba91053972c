//! The remains of the pod network of an earlier process: links that work, and the pods that have
//! them.

use std::collections::{HashMap, HashSet};

use crate::route::Routes;

use super::config::{NetworkError, Result};
use super::files::{Directories, Pin, Record};

/// Pins whose link is still there; the others are let go.
pub fn working_pins(directories: &Directories, routes: &Routes) -> Result<Vec<Pin>> {
    let links = routes.links().map_err(NetworkError::kernel("list links"))?;
    let names: HashSet<&str> = links.iter().map(|link| link.name.as_str()).collect();
    let (working, broken): (Vec<Pin>, Vec<Pin>) = directories
        .live_pins()?
        .into_iter()
        .partition(|pin| names.contains(pin.host_link.as_str()));
    for pin in broken {
        directories.unpin(&pin.file_name())?;
    }
    Ok(working)
}

/// Records whose pin works, by uid; the others are removed.
pub fn adopt(directories: &Directories, pins: &[Pin]) -> Result<HashMap<String, Record>> {
    let names: HashSet<String> = pins.iter().map(Pin::file_name).collect();
    let mut attached = HashMap::new();
    for (uid, record) in directories.read_records()? {
        if names.contains(&record.pin) {
            attached.insert(uid, record);
        } else {
            directories.remove_record(&uid)?;
        }
    }
    Ok(attached)
}
