//! Makes pod network namespaces on a thread of their own, because a thread that enters another
//! namespace must never be one that tokio hands to others.

use std::fs::File;
use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use ipnet::Ipv4Net;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::sync::oneshot;

use crate::route::{Changes, Mac, POD_LINK_GROUP, Routes, Scope, VethEnd, Via};

use super::config::{NetworkError, Result};
use super::files::{Directories, Pin};

/// The interface's name inside the pod.
const POD_LINK: &str = "eth0";
const HOST_LINK_PREFIX: &str = "cor";
const LINK_READY_TIMEOUT: Duration = Duration::from_millis(200);
const LINK_READY_STEP: Duration = Duration::from_micros(200);
const THREAD_NAME: &str = "netns";

/// A namespace to be made.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Its address and interface name.
    pub pin: Pin,
    /// The next hop of its default route.
    pub gateway: Ipv4Addr,
    /// Largest packet in bytes.
    pub mtu: u32,
}

struct Job {
    blueprint: Blueprint,
    reply: oneshot::Sender<Result<()>>,
}

/// Hands jobs to the thread; the thread ends with its handle, and is replaced when it ended before.
#[derive(Debug)]
pub struct NamespaceMaker {
    node: File,
    directories: Directories,
    jobs: Mutex<mpsc::Sender<Job>>,
}

impl NamespaceMaker {
    /// Starts the thread; the namespace of the caller becomes the node's end of every link.
    pub fn start(directories: Directories) -> Result<Self> {
        let path = Path::new("/proc/thread-self/ns/net");
        let node = File::open(path).map_err(|e| NetworkError::file("open", path, e))?;
        let jobs = Mutex::new(Self::thread(&node, &directories)?);
        Ok(Self { node, directories, jobs })
    }

    /// Starts a thread in the node's namespace.
    fn thread(node: &File, directories: &Directories) -> Result<mpsc::Sender<Job>> {
        let node = node
            .try_clone()
            .map_err(|source| NetworkError::Namespace { step: "share node namespace", source })?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let mut workshop = Workshop { node, routes: None, directories: directories.clone() };
        std::thread::Builder::new()
            .name(THREAD_NAME.to_owned())
            .stack_size(256 << 10)
            .spawn(move || {
                for job in queue {
                    let result = workshop.make(&job.blueprint);
                    let stray = workshop.stray();
                    // The requester may have given up; the pin is then found at the next start.
                    let _ = job.reply.send(result);
                    if stray {
                        return;
                    }
                }
            })
            .map_err(|source| NetworkError::Namespace { step: "start netns thread", source })?;
        Ok(jobs)
    }

    /// Makes, wires and pins one namespace. After an error nothing of it is left.
    pub async fn make(&self, blueprint: Blueprint) -> Result<()> {
        let (reply, answer) = oneshot::channel();
        self.hand_over(Job { blueprint, reply })?;
        answer.await.map_err(|_| NetworkError::ThreadEnded)?
    }

    fn hand_over(&self, job: Job) -> Result<()> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        let Err(mpsc::SendError(job)) = jobs.send(job) else { return Ok(()) };
        tracing::error!("the thread that makes pod namespaces has ended; starting another");
        *jobs = Self::thread(&self.node, &self.directories)?;
        jobs.send(job).map_err(|_| NetworkError::ThreadEnded)
    }
}

struct Workshop {
    node: File,
    /// Opened in the node's namespace by the first job.
    routes: Option<Routes>,
    directories: Directories,
}

impl Workshop {
    fn make(&mut self, blueprint: &Blueprint) -> Result<()> {
        // Not into a namespace that the thread was started in by chance.
        self.return_to_node()?;
        if self.routes.is_none() {
            let routes = Routes::open().map_err(NetworkError::kernel("open route socket"))?;
            self.routes = Some(routes);
        }
        let name = blueprint.pin.file_name();
        let result = self.make_inside(blueprint, &self.directories.pin(&name));
        let back = self.return_to_node();
        let result = match (result, back) {
            (Ok(pod), Ok(())) => self.make_outside(blueprint, &pod),
            (Err(error), _) | (_, Err(error)) => Err(error),
        };
        if result.is_err() {
            let _ = self.directories.unpin(&name);
        }
        result
    }

    fn return_to_node(&self) -> Result<()> {
        setns(&self.node, CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Namespace {
            step: "return to the node's namespace",
            source: errno.into(),
        })
    }

    /// Whether this thread could not return to the node's namespace, and must not go on.
    fn stray(&self) -> bool {
        use std::os::unix::fs::MetadataExt;
        let identity = |metadata: std::io::Result<std::fs::Metadata>| {
            metadata.map(|m| (m.dev(), m.ino())).ok()
        };
        identity(std::fs::metadata("/proc/thread-self/ns/net")) != identity(self.node.metadata())
    }

    fn make_inside(&self, blueprint: &Blueprint, path: &PathBuf) -> Result<Routes> {
        unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| NetworkError::Namespace {
            step: "create network namespace",
            source: errno.into(),
        })?;
        File::create(path).map_err(|e| NetworkError::file("create", path, e))?;
        let none: Option<&str> = None;
        mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)
            .map_err(|errno| NetworkError::file("pin namespace at", path, errno.into()))?;

        let address = blueprint.pin.address;
        let routes = Routes::open().map_err(NetworkError::kernel("open route socket in pod"))?;
        let mut veth = Changes::new();
        veth.veth(
            VethEnd { name: POD_LINK, mac: pod_mac(address), mtu: blueprint.mtu, group: 0 },
            VethEnd {
                name: &blueprint.pin.host_link,
                mac: host_mac(address),
                mtu: blueprint.mtu,
                group: POD_LINK_GROUP,
            },
            Some(self.node.as_fd()),
        );
        routes.apply(&veth).map_err(NetworkError::kernel("create veth pair"))?;
        let links = routes.links().map_err(NetworkError::kernel("list links in pod"))?;
        let link = links
            .iter()
            .find(|link| link.name == POD_LINK)
            .ok_or_else(|| NetworkError::LinkGone(POD_LINK.to_owned()))?;
        let loopback = links.iter().find(|link| link.name == "lo");
        without_ipv6(&routes, link.index);
        refuse_ipv6(POD_LINK)?;
        let mut changes = Changes::new();
        if let Some(loopback) = loopback {
            changes.up(loopback.index);
        }
        changes
            .up(link.index)
            .address(link.index, address, Scope::Global)
            .route(host_route(blueprint.gateway), Via::Link(link.index))
            .route(Ipv4Net::default(), Via::Gateway(blueprint.gateway, link.index))
            .neighbour(link.index, blueprint.gateway, host_mac(address));
        routes.apply(&changes).map_err(NetworkError::kernel("set up pod link"))?;
        Ok(routes)
    }

    fn make_outside(&self, blueprint: &Blueprint, pod: &Routes) -> Result<()> {
        let name = &blueprint.pin.host_link;
        let address = blueprint.pin.address;
        let node = self.routes.as_ref().ok_or(NetworkError::ThreadEnded)?;
        let link = node
            .link(name)
            .map_err(NetworkError::kernel("find host link"))?
            .ok_or_else(|| NetworkError::LinkGone(name.clone()))?;
        without_ipv6(node, link.index);
        refuse_ipv6(name)?;
        // A pod may only send from its own address. Where the file is missing, it goes unchecked.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "1");
        // Nor may it change the node's routes; the kernel's own default depends on its history.
        let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{name}/accept_redirects"), "0");
        admit_localhost(name);
        let mut changes = Changes::new();
        changes
            .up(link.index)
            .neighbour(link.index, address, pod_mac(address))
            .route(host_route(address), Via::Link(link.index));
        node.apply(&changes).map_err(NetworkError::kernel("set up host link"))?;
        for (routes, name) in [(pod, POD_LINK), (node, name.as_str())] {
            wait_until_ready(routes, name)?;
        }
        Ok(())
    }
}

/// Lets answers of the pod reach connections that the node made to 127.0.0.1; the rules of pods
/// keep everything else from the loopback, so they come first. Where the kernel does not know the
/// setting, such connections fail.
pub fn admit_localhost(host_link: &str) {
    let _ = std::fs::write(format!("/proc/sys/net/ipv4/conf/{host_link}/route_localnet"), "1");
}

/// Waits for the kernel to let packets through; a link that takes too long is used all the same,
/// since what it loses now is sent again.
fn wait_until_ready(routes: &Routes, name: &str) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < LINK_READY_TIMEOUT {
        let link = routes.link(name).map_err(NetworkError::kernel("find link"))?;
        if link.is_some_and(|link| link.ready) {
            break;
        }
        std::thread::sleep(LINK_READY_STEP);
    }
    Ok(())
}

/// Keeps an interface silent; not possible, and not needed, on kernels without IPv6.
pub fn without_ipv6(routes: &Routes, index: u32) {
    let mut changes = Changes::new();
    changes.no_ipv6_autoconfiguration(index);
    let _ = routes.apply(&changes);
}

/// Turns IPv6 off on an interface of the calling thread's namespace, before it is brought up or
/// after. Pods have no IPv6 address, and a router advertisement of a pod must not give the node a
/// route (CVE-2020-10749). Does nothing on kernels without IPv6.
pub fn refuse_ipv6(link: &str) -> Result<()> {
    for (setting, value) in [("accept_ra", "0"), ("disable_ipv6", "1")] {
        let path = PathBuf::from(format!("/proc/sys/net/ipv6/conf/{link}/{setting}"));
        match std::fs::write(&path, value) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            // Where settings cannot be written, they may already be as they should.
            Err(_) if std::fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) => {}
            Err(error) => return Err(NetworkError::file("write", &path, error)),
        }
    }
    Ok(())
}

/// A name that no other interface of this machine ever had: the kernel dismantles links in the
/// background, so a name must not come back.
pub fn new_host_link() -> Result<String> {
    let path = Path::new("/dev/urandom");
    let mut random = [0u8; 6];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut random))
        .map_err(|source| NetworkError::file("read", path, source))?;
    let digits: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{HOST_LINK_PREFIX}{digits}"))
}

/// A single address as a network.
pub fn host_route(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn pod_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x58, a, b, c, d]
}

fn host_mac(address: Ipv4Addr) -> Mac {
    let [a, b, c, d] = address.octets();
    [0x0a, 0x59, a, b, c, d]
}
