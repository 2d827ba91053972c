//! The files and directories of the machine that a container sees: volumes and the agent's own files.

use std::path::{Path, PathBuf};

use super::start::{StartError, Work, config, hold, message_file};
use crate::container::clean_path::cleaned;
use crate::container::etc_files::{self, Resolver};
use crate::container::expand::expand_all;
use crate::container::own_file;
use crate::container::spec::Bind;
use crate::container::variables::Variables;
use crate::volume::mountinfo;
use crate::volume::propagation::{self, Wanted};
use crate::volume::sub_path;
use runtime::printable::chain;

/// Longest path that the kernel takes (`PATH_MAX`), and so the longest `subPathExpr` expanded.
const MAX_PATH_BYTES: usize = 4096;

impl Work {
    pub(super) fn binds(&self, variables: &Variables) -> Result<Vec<Bind>, StartError> {
        let failed = |message: String| hold("CreateContainerError", message, true);
        let directory = self.node.config.pod_dir(&self.uid);
        let mut binds = Vec::new();
        for (index, volume_mount) in self.container.volume_mounts.iter().flatten().enumerate() {
            let Some(volume) = self.volumes.get(&volume_mount.name) else {
                return Err(config(format!("volume \"{}\" is not mounted", volume_mount.name)));
            };
            let lookup = |name: &str| variables.get(name);
            let expression = volume_mount.sub_path_expr.as_deref().filter(|path| !path.is_empty());
            let sub = match expression {
                Some(expression) => {
                    Some(expand_all(expression, MAX_PATH_BYTES, lookup).map_err(config)?)
                }
                None => volume_mount.sub_path.clone().filter(|path| !path.is_empty()),
            };
            let source = match sub {
                None => volume.path.clone(),
                Some(sub) => {
                    let place = directory
                        .join("volume-subpaths")
                        .join(&volume_mount.name)
                        .join(&self.container.name)
                        .join(index.to_string());
                    sub_path::bind(&volume.path, &sub, &place).map_err(|error| {
                        let text = chain(&error);
                        let name = &volume_mount.name;
                        config(format!(
                            "failed to prepare subPath for volumeMount \"{name}\" of \
                             container \"{}\": {text}",
                            self.container.name
                        ))
                    })?;
                    place
                }
            };
            let (propagation, wanted) = match volume_mount.mount_propagation.as_deref() {
                Some("HostToContainer") => ("rslave", Some(Wanted::Inward)),
                Some("Bidirectional") => ("rshared", Some(Wanted::BothWays)),
                _ => ("rprivate", None),
            };
            if let Some(wanted) = wanted {
                propagates(&source, wanted).map_err(failed)?;
            }
            let target = cleaned(&volume_mount.mount_path);
            let recursive = volume_mount.recursive_read_only.as_deref();
            binds.push(Bind {
                source,
                target,
                read_only: volume_mount.read_only.unwrap_or(false) || volume.read_only,
                recursive_read_only: matches!(recursive, Some("Enabled" | "IfPossible")),
                propagation,
            });
        }
        let own = self.own_files(&directory).map_err(|error| failed(error.to_string()))?;
        for (source, target) in own {
            if !binds.iter().any(|bind| bind.target == Path::new(&target)) {
                binds.push(Bind {
                    source,
                    target: target.into(),
                    read_only: false,
                    recursive_read_only: false,
                    propagation: "rprivate",
                });
            }
        }
        Ok(binds)
    }

    /// Files that the agent makes for every container.
    fn own_files(&self, directory: &Path) -> std::io::Result<Vec<(PathBuf, String)>> {
        let config = &self.node.config;
        let spec = self.pod.spec.as_ref();
        let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
        let host_file = host_network.then(|| own_file::host_text(Path::new("/etc/hosts")));
        let addresses = self.link.as_ref().map(|link| link.addresses.clone()).unwrap_or_default();
        let hosts =
            etc_files::hosts(&self.pod, &addresses, &config.cluster_domain, host_file.as_deref());
        let host = own_file::host_text(&config.host_resolv_conf);
        let resolver = etc_files::resolver(
            &self.pod,
            &Resolver::parse(&host),
            &config.cluster_dns,
            &config.cluster_domain,
        );
        let etc = directory.join("etc");
        std::fs::create_dir_all(&etc)?;
        let mut files = Vec::new();
        let mut place = |name: &str, text: &str| -> std::io::Result<()> {
            let path = etc.join(name);
            own_file::write(&path, text.as_bytes())?;
            files.push((path, format!("/etc/{name}")));
            Ok(())
        };
        place("hosts", &hosts)?;
        place("resolv.conf", &resolver.text())?;
        if !host_network {
            let (hostname, _) = etc_files::hostname(&self.pod, &config.cluster_domain);
            place("hostname", &format!("{hostname}\n"))?;
        }
        let path = self.container.termination_message_path.as_deref();
        let path = path.filter(|path| !path.is_empty()).unwrap_or("/dev/termination-log");
        let file = message_file(directory, &self.container.name);
        if let Some(parent) = file.parent() {
            std::fs::create_dir_all(parent)?;
        }
        own_file::make_writable(&file)?;
        files.push((file, path.to_owned()));
        Ok(files)
    }
}
/// Checks that the mount that a path is on propagates as a container wants; says why it does not.
fn propagates(source: &Path, wanted: Wanted) -> Result<(), String> {
    let path = std::fs::canonicalize(source).map_err(|error| error.to_string())?;
    let mounts = mountinfo::read().map_err(|error| error.to_string())?;
    propagation::check(&path, wanted, &mounts).map_err(|unshared| unshared.to_string())
}
