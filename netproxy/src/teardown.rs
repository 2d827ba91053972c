//! Removes everything that this crate ever put on the machine.

use std::path::Path;

use crate::firewall;
use crate::netlink::{Protocol, Socket};
use crate::nft::{self, Batch, Family};
use crate::pods::{self, Directories, NetworkError, Result, Sysctls};
use crate::proxy;

/// Removes tables, links, routes, namespace pins and records, and restores kernel settings.
/// Works whether or not anything is there, and while no other process of ours runs.
pub fn teardown(run_dir: &Path) -> Result<()> {
    let directories = Directories::new(run_dir);
    let socket =
        Socket::open(Protocol::Netfilter).map_err(NetworkError::kernel("open netfilter socket"))?;
    for (family, table) in [
        (Family::Ipv4, proxy::TABLE),
        (Family::Ipv6, proxy::TABLE),
        (Family::Ipv4, pods::TABLE),
        (Family::Ipv6, pods::TABLE),
    ] {
        let mut batch = Batch::new(family, table);
        batch.delete_table();
        match nft::send(&socket, batch) {
            Err(error) if error.is_missing() || error.is_unsupported() => {}
            result => result.map_err(NetworkError::kernel("delete rules"))?,
        }
    }
    firewall::close(&socket).map_err(NetworkError::kernel("remove rules from firewalls"))?;
    pods::remove_links()?;
    Sysctls::restore(&directories.saved_sysctls())?;
    directories.remove()
}

/// Lists the chains of other programs that have rules of this crate: `family table chain`.
pub fn opened_firewalls() -> Result<Vec<String>> {
    let socket =
        Socket::open(Protocol::Netfilter).map_err(NetworkError::kernel("open netfilter socket"))?;
    firewall::opened(&socket).map_err(NetworkError::kernel("list rules of firewalls"))
}
