//! The command line. Every flag of `up` may also stand in a configuration file (see
//! [`crate::config_file`]).

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use apiserver::audit::FileOptions;
use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;

use crate::registries::Mirror;

/// Kubernetes for one Linux machine, in one binary.
#[derive(Parser)]
#[command(name = "coracle", version, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Run the node: API server, controllers, scheduler, pods, Services and DNS, in the foreground.
    Up(Box<UpOptions>),
    /// Say what this machine lacks to run pods, and how to get it.
    Check(DirOptions),
    /// Say whether a node runs here and how it is.
    Status(DirOptions),
    /// Print a link that opens the dashboard once, logged in as the administrator.
    Dashboard(DirOptions),
    /// Stop every pod and leave nothing behind: no file, mount, namespace, rule or process.
    Reset(ResetOptions),
    /// Write the objects, certificates and keys of this node to a file, whether or not it runs.
    Backup(BackupOptions),
    /// Put a backup in the place of the state of a node that does not run.
    Restore(RestoreOptions),
    /// Look at the stored objects of a node that does not run, and remove those that are in its way.
    State {
        #[command(subcommand)]
        command: StateCommand,
    },
    /// Work with the images of this machine, whether or not the node runs.
    Image {
        #[command(subcommand)]
        command: ImageCommand,
    },
}

#[derive(Subcommand)]
pub enum StateCommand {
    /// List the keys of the objects, with their sizes in bytes.
    #[command(visible_alias = "list")]
    Ls(PrefixOptions),
    /// Print one object as it is stored.
    Get(KeyOptions),
    /// Remove objects.
    #[command(visible_alias = "remove")]
    Rm(RemoveKeysOptions),
    /// Print the objects as a List that kubectl can create again.
    Export(PrefixOptions),
}

#[derive(Subcommand)]
pub enum ImageCommand {
    /// Load images from archives (docker save or OCI layout, plain, gzip or zstd).
    #[command(visible_alias = "import")]
    Load(LoadOptions),
    /// Pull an image from its registry.
    Pull(PullOptions),
    /// List the images.
    #[command(visible_alias = "list")]
    Ls(DirOptions),
    /// Remove images by name or ID.
    #[command(visible_alias = "remove")]
    Rm(RemoveOptions),
    /// Remove every image that no pod uses.
    Prune(DirOptions),
}

/// Where a node keeps its files. Two nodes on one machine need different directories and groups.
#[derive(Args, Clone, Debug)]
pub struct DirOptions {
    /// Durable state: objects, images, volumes, certificates.
    #[arg(long, default_value = "/var/lib/coracle", value_name = "DIR")]
    pub data_dir: PathBuf,
    /// State of this boot: sockets and namespace mounts.
    #[arg(long, default_value = "/run/coracle", value_name = "DIR")]
    pub run_dir: PathBuf,
    /// Container logs (`<namespace>_<pod>_<uid>/<container>/<n>.log`).
    #[arg(long, default_value = "/var/log/pods", value_name = "DIR")]
    pub log_dir: PathBuf,
    /// The control group above `kubepods`; empty for the top.
    #[arg(long, default_value = "", value_name = "PATH")]
    pub cgroup_root: String,
    /// The kubeconfig that `up` writes (mode 0600).
    #[arg(long, default_value = "/etc/coracle/kubeconfig", value_name = "FILE")]
    pub kubeconfig: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct UpOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// A YAML file with the same names as these flags (`data-dir: /srv/coracle`); flags win.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Also merge the kubeconfig into this one (created if missing), as context `coracle`.
    #[arg(long, value_name = "FILE")]
    pub merge_kubeconfig: Option<PathBuf>,
    /// Addresses of the API; default 127.0.0.1:6443 and port 6443 of the node address.
    #[arg(long, value_name = "ADDRESS:PORT", value_delimiter = ',')]
    pub listen: Vec<SocketAddr>,
    /// The node's address; default: the one that the default route uses.
    #[arg(long, value_name = "ADDRESS")]
    pub node_ip: Option<IpAddr>,
    /// The node's name; default: the host name.
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Addresses of pods.
    #[arg(long, default_value = "10.44.0.0/16", value_name = "CIDR")]
    pub pod_cidr: Ipv4Net,
    /// Addresses of Services: the first is the API, the tenth the DNS.
    #[arg(long, default_value = "10.47.240.0/20", value_name = "CIDR")]
    pub service_cidr: Ipv4Net,
    /// The DNS domain of Services.
    #[arg(long, default_value = "cluster.local", value_name = "DOMAIN")]
    pub cluster_domain: String,
    /// What forwards Service traffic.
    #[arg(long, default_value = "nftables", value_parser = ["nftables"])]
    pub proxy_mode: String,
    /// The Kubernetes version that the API reports; some clients choose themselves by it.
    #[arg(long, default_value = "v1.33.0", value_name = "VERSION")]
    pub report_version: String,
    /// Where names outside the cluster are resolved; default: the machine's own resolvers.
    #[arg(long, value_name = "FILE")]
    pub resolv_conf: Option<PathBuf>,
    /// Ask this mirror first for a registry's images (`docker.io=http://127.0.0.1:5000`).
    #[arg(long, value_name = "REGISTRY=MIRROR", value_delimiter = ',')]
    pub registry_mirror: Vec<Mirror>,
    /// A registry besides those on loopback that speaks plain HTTP.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub plain_http_registry: Vec<String>,
    /// What the node must have left of a resource, lest pods are evicted; an empty value is none.
    /// Default: memory.available<100Mi, nodefs.available<10%, nodefs.inodesFree<5%,
    /// imagefs.available<15%, imagefs.inodesFree<5%, where 2 GiB of a disk are always enough.
    #[arg(long, value_name = "SIGNAL<AMOUNT", value_delimiter = ',')]
    pub eviction_hard: Option<Vec<String>>,
    /// How long a shortage is reported after it was last seen, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub eviction_pressure_transition_period: u64,
    /// How long an Event is kept after it last happened, in seconds.
    #[arg(long, default_value_t = 3600, value_name = "SECONDS",
          value_parser = clap::value_parser!(u64).range(1..))]
    pub event_ttl: u64,
    /// Remove unused images when their disk is fuller than this. Default: 85, unless 2 GiB are
    /// left.
    #[arg(long, value_name = "PERCENT")]
    pub image_gc_high_threshold: Option<u8>,
    /// Then remove them until it is no fuller than this.
    #[arg(long, default_value_t = 80, value_name = "PERCENT")]
    pub image_gc_low_threshold: u8,
    /// Keep unused images for so long after they came or were used, in seconds.
    #[arg(long, default_value_t = 120, value_name = "SECONDS")]
    pub image_gc_minimum_age: u64,
    /// Begin another file when a container's log has so many bytes.
    #[arg(long, default_value = "10Mi", value_name = "SIZE")]
    pub container_log_max_size: String,
    /// Keep so many files of a container's log.
    #[arg(long, default_value_t = 5, value_name = "FILES")]
    pub container_log_max_files: u32,
    /// Memory that the stored objects may take; growth beyond is refused. [default: a quarter of
    /// the memory that the node may use, at most 512Mi]
    #[arg(long, value_name = "SIZE")]
    pub store_max_size: Option<String>,
    /// Run no pods and no network: only the API and the controllers, to repair objects that keep the
    /// node from starting.
    #[arg(long)]
    pub no_pods: bool,
    /// Apply the manifests (YAML or JSON) in this directory at start.
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// A name (besides this machine's own) that the dashboard answers to, as behind a proxy.
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub dashboard_host: Vec<String>,
    /// Record requests to the API in this file, a line of JSON each; `-` is standard output.
    #[arg(long, value_name = "FILE", requires = "audit_policy_file")]
    pub audit_log_path: Option<PathBuf>,
    /// Rules for which requests are recorded, and how much of them (a `Policy` of audit.k8s.io/v1).
    #[arg(long, value_name = "FILE", requires = "audit_log_path")]
    pub audit_policy_file: Option<PathBuf>,
    /// Remove files of the audit log that are older than this, in days; 0 is never.
    #[arg(long, default_value_t = 0, value_name = "DAYS")]
    pub audit_log_maxage: u32,
    /// Keep so many older files of the audit log; 0 is all.
    #[arg(long, default_value_t = 0, value_name = "FILES")]
    pub audit_log_maxbackup: u32,
    /// Begin another file when the audit log has so many megabytes; 0 is 100.
    #[arg(long, default_value_t = 0, value_name = "MEGABYTES")]
    pub audit_log_maxsize: u32,
    /// Do not reconstruct `kubectl set image` as change-cause where the client left a stale one.
    #[arg(long)]
    pub no_change_cause: bool,
}

impl UpOptions {
    /// The policy and the file of the audit log, if there is to be one.
    pub fn audit(&self) -> Option<(PathBuf, FileOptions)> {
        let file = FileOptions {
            path: self.audit_log_path.clone()?,
            max_age_days: self.audit_log_maxage,
            max_backups: self.audit_log_maxbackup,
            max_megabytes: self.audit_log_maxsize,
        };
        Some((self.audit_policy_file.clone()?, file))
    }
}

#[derive(Args, Clone, Debug)]
pub struct ResetOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Do not ask.
    #[arg(long, short)]
    pub yes: bool,
    /// Keep the images.
    #[arg(long)]
    pub keep_images: bool,
}

#[derive(Args, Clone, Debug)]
pub struct BackupOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Also the contents of provisioned volumes, as they are while the backup reads them.
    #[arg(long)]
    pub volumes: bool,
    /// The tar archive to write (mode 0600; it holds keys and Secrets).
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct RestoreOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Replace the state that is there.
    #[arg(long)]
    pub force: bool,
    /// The file that `coracle backup` wrote.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

#[derive(Args, Clone, Debug)]
pub struct PrefixOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Only keys that begin so (`core.configmaps/default/`).
    #[arg(default_value = "", value_name = "PREFIX")]
    pub prefix: String,
}

#[derive(Args, Clone, Debug)]
pub struct KeyOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// A key that `ls` prints (`core.pods/default/web`).
    #[arg(value_name = "KEY")]
    pub key: String,
}

#[derive(Args, Clone, Debug)]
pub struct KeysOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Keys that `ls` prints.
    #[arg(required = true, value_name = "KEY")]
    pub keys: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct RemoveKeysOptions {
    #[command(flatten)]
    pub keys: KeysOptions,
    /// Remove the objects in a Namespace with it.
    #[arg(long, short)]
    pub recursive: bool,
}

#[derive(Args, Clone, Debug)]
pub struct LoadOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// The name for an image that its archive leaves without one.
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// Archives; `-` is standard input.
    #[arg(required = true, value_name = "FILE")]
    pub archives: Vec<PathBuf>,
}

#[derive(Args, Clone, Debug)]
pub struct PullOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Ask this mirror first for a registry's images.
    #[arg(long, value_name = "REGISTRY=MIRROR", value_delimiter = ',')]
    pub registry_mirror: Vec<Mirror>,
    /// A registry besides those on loopback that speaks plain HTTP.
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',')]
    pub plain_http_registry: Vec<String>,
    /// `user:password` for the registry.
    #[arg(long, value_name = "USER:PASSWORD")]
    pub creds: Option<String>,
    /// The images.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}

#[derive(Args, Clone, Debug)]
pub struct RemoveOptions {
    #[command(flatten)]
    pub dirs: DirOptions,
    /// Names or IDs.
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
}
