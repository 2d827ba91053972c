//! The shim: one process per sandbox that parents its containers and outlives the agent.

mod channel;
mod container;
mod launches;
mod log;
mod operations;
mod poller;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::{EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::{getsockopt, sockopt};

use crate::launch;
use crate::own_limits;
use crate::protocol::{Event, Failure, Message, Setup, VERSION};
use crate::records::{self, Durability};
use crate::sandbox::Exit;
use crate::sys::clone::{self, Ended};
use crate::sys::{memory, process};
use channel::Channel;
use container::{Container, READ_BYTES};
use launches::{Asker, Launches};
use poller::{Poller, Source, Token};

/// Events taken from the kernel at once.
const EVENTS: usize = 16;

/// How often a client that takes nothing is looked at, in milliseconds.
const STALL_CHECK_MS: u16 = 1000;

/// Time in which no connection is taken after one could not be, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// Who tells every process that the machine goes down: systemd does, and waits a minute and a half
/// for those that do not listen, such as a container's first process.
const FIRST_PROCESS: u32 = 1;

/// How long containers have then, as they were told at the same time.
const FAREWELL: Duration = Duration::from_secs(10);

/// Runs the shim until its sandbox is removed; `args` are those after `coracle shim`, of which the
/// first names the sandbox for `ps`. Descriptor 0 is the agent's socket.
///
/// Must be called before any thread is started. The result is the exit code of the process.
pub fn main(args: &[OsString]) -> i32 {
    let name = args.first().map(|a| a.to_string_lossy().into_owned()).unwrap_or_default();
    match Shim::start().and_then(|mut shim| shim.run()) {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("shim of sandbox {name}: {error}");
            1
        }
    }
}

struct Shim {
    poller: Poller,
    signals: SignalFd,
    listener: Option<(UnixListener, PathBuf)>,
    listening: Option<Token>,
    /// The time at which connections are taken again, after one could not be.
    listener_paused: Option<Instant>,
    connections: HashMap<Token, Channel>,
    containers: BTreeMap<String, Container>,
    /// Additional processes by process ID: their name and whose connection they belong to.
    execs: HashMap<i32, (u64, Token)>,
    /// Processes that do not run their program yet.
    launches: Launches,
    /// The first process of the shared PID namespace, and that namespace.
    init: Option<(i32, OwnedFd)>,
    set_up: bool,
    /// When the machine, which is going down, waits for the containers no longer.
    farewell: Option<Instant>,
    done: bool,
    buffer: Vec<u8>,
}

impl Shim {
    fn start() -> io::Result<Self> {
        let _ = nix::unistd::setsid();
        process::control(libc::PR_SET_CHILD_SUBREAPER, 1)?;
        // Keeps processes of the same user without CAP_SYS_PTRACE from looking into us and into a
        // child that has not executed its program. One with that capability is not kept off: such
        // a child has given up what is the machine's before it can be seen (`launch::exec`).
        process::control(libc::PR_SET_DUMPABLE, 0)?;
        // It is executed from a descriptor, which would be its name.
        process::set_name(c"coracle-shim");
        // The agent's limit is raised; containers get the one that it was started with.
        own_limits::restore_open_files()?;
        std::env::set_current_dir("/")?;
        // Where this is withheld, the agent has said so about itself.
        let _ = own_limits::set_oom_score(own_limits::SHIM_OOM_SCORE);
        process::set_umask(0o022);
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            mask.add(signal);
        }
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        let agent = UnixStream::from(crate::sys::inherited(0)?);
        let null = launch::null()?;
        process::duplicate(null.as_fd(), 0)?;
        process::duplicate(null.as_fd(), 1)?;
        process::close_on_exec_from(3)?;

        let mut poller = Poller::new()?;
        poller.add(&signals, Source::Signals, EpollFlags::EPOLLIN)?;
        let mut shim = Self {
            poller,
            signals,
            listener: None,
            listening: None,
            listener_paused: None,
            connections: HashMap::new(),
            containers: BTreeMap::new(),
            execs: HashMap::new(),
            launches: Launches::default(),
            init: None,
            set_up: false,
            farewell: None,
            done: false,
            buffer: vec![0; READ_BYTES],
        };
        shim.accept(agent)?;
        Ok(shim)
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        let mut stalled = false;
        while !self.done {
            if self.connections.is_empty() && !self.set_up {
                return Ok(());
            }
            let timed = stalled
                || self.farewell.is_some()
                || self.listener_paused.is_some()
                || !self.launches.is_empty();
            let timeout =
                if timed { EpollTimeout::from(STALL_CHECK_MS) } else { EpollTimeout::NONE };
            let count = match self.poller.wait(&mut events, timeout) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => 0,
                Err(errno) => return Err(errno.into()),
            };
            for event in &events[..count] {
                self.handle(event.data(), event.events());
            }
            let now = Instant::now();
            stalled = false;
            for container in self.containers.values_mut() {
                stalled |= container.cut_stalled(now, &mut self.poller);
            }
            self.expire(now);
            if self.listener_paused.is_some_and(|until| now >= until) {
                self.resume_listener();
            }
            self.take_leave(now);
        }
        if let Some((_, path)) = &self.listener {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }

    fn handle(&mut self, token: Token, flags: EpollFlags) {
        // An earlier event of the same batch may have closed it.
        let Some(source) = self.poller.source(token) else { return };
        match source {
            Source::Listener => self.accept_waiting(),
            Source::Signals => {
                while let Ok(Some(signal)) = self.signals.read_signal() {
                    // Nobody else's ends a pod: shims outlive who started them.
                    if signal.ssi_signo == libc::SIGTERM as u32 && signal.ssi_pid == FIRST_PROCESS {
                        self.farewell.get_or_insert_with(|| Instant::now() + FAREWELL);
                    }
                }
                self.reap();
            }
            Source::Connection => self.serve(token),
            Source::Launch(id) => self.advance(id),
            Source::Output(id, stream) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    container.read_output(stream, &mut self.buffer, &mut self.poller);
                }
            }
            Source::Input(id) | Source::AttachInput(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    if flags.intersects(EpollFlags::EPOLLERR)
                        && !flags.contains(EpollFlags::EPOLLIN)
                        && matches!(self.poller.source(token), Some(Source::Input(_)))
                    {
                        container.close_input(&mut self.poller);
                    }
                    container.pump_input(&mut self.buffer, &mut self.poller);
                }
            }
            Source::AttachOutput(id) => {
                if let Some(container) = self.containers.get_mut(&id) {
                    if flags.intersects(EpollFlags::EPOLLERR | EpollFlags::EPOLLHUP) {
                        container.check_clients(&mut self.poller);
                    } else {
                        container.settle(&mut self.poller);
                    }
                }
            }
        }
    }

    /// While the machine goes down: ends the containers that do not by themselves, then this shim.
    /// What they left is found after the next boot.
    fn take_leave(&mut self, now: Instant) {
        let Some(deadline) = self.farewell else { return };
        let ended = self.containers.values().all(|container| container.exit.is_some());
        if ended || now >= deadline {
            self.kill_everything();
        }
        self.done |= ended;
    }

    fn accept_waiting(&mut self) {
        loop {
            let Some((listener, _)) = &self.listener else { return };
            let stream = match listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    if error.kind() != io::ErrorKind::WouldBlock {
                        // Descriptors or memory are short: it stays readable until they are not.
                        self.pause_listener();
                    }
                    return;
                }
            };
            // Only root, or whoever runs the shim, may command it.
            let own = nix::unistd::geteuid().as_raw();
            let allowed = getsockopt(&stream, sockopt::PeerCredentials)
                .is_ok_and(|peer| peer.uid() == 0 || peer.uid() == own);
            if allowed {
                let _ = self.accept(stream);
            }
        }
    }

    fn pause_listener(&mut self) {
        if let (Some((listener, _)), Some(token)) = (&self.listener, self.listening) {
            self.poller.change(listener, token, EpollFlags::empty());
            self.listener_paused = Some(Instant::now() + ACCEPT_PAUSE);
        }
    }

    fn resume_listener(&mut self) {
        if let (Some((listener, _)), Some(token)) = (&self.listener, self.listening) {
            self.poller.change(listener, token, EpollFlags::EPOLLIN);
        }
        self.listener_paused = None;
    }

    fn accept(&mut self, stream: UnixStream) -> io::Result<()> {
        let channel = Channel::new(stream)?;
        let token = self.poller.add(channel.socket(), Source::Connection, EpollFlags::EPOLLIN)?;
        self.connections.insert(token, channel);
        Ok(())
    }

    fn disconnect(&mut self, token: Token) {
        if let Some(channel) = self.connections.remove(&token) {
            self.poller.remove(channel.socket(), token);
        }
        memory::trim();
    }

    fn serve(&mut self, token: Token) {
        let Some(channel) = self.connections.get_mut(&token) else { return };
        let closed = channel.receive().is_err();
        loop {
            let Some(channel) = self.connections.get_mut(&token) else { return };
            match channel.next_request() {
                Ok(Some((request, descriptors))) => {
                    let asker = Asker { token, request: request.id };
                    let (result, sent) = match self.perform(asker, request.operation, descriptors) {
                        Ok(Some((answer, sent))) => (Ok(answer), sent),
                        Ok(None) => continue,
                        Err(failure) => (Err(failure), Vec::new()),
                    };
                    self.send(token, &Message::Reply { id: request.id, result }, sent);
                }
                Ok(None) => break,
                Err(_) => return self.disconnect(token),
            }
        }
        if closed {
            return self.disconnect(token);
        }
        if let Some(channel) = self.connections.get_mut(&token) {
            if channel.flush().is_err() {
                self.disconnect(token);
            } else {
                self.expect(token);
            }
        }
    }

    fn send(&mut self, token: Token, message: &Message, descriptors: Vec<OwnedFd>) {
        let Some(channel) = self.connections.get_mut(&token) else { return };
        if channel.send(message, descriptors).is_err() {
            self.disconnect(token);
        } else {
            self.expect(token);
        }
    }

    fn expect(&self, token: Token) {
        let Some(channel) = self.connections.get(&token) else { return };
        let mut flags = EpollFlags::EPOLLIN;
        if channel.has_unsent() {
            flags |= EpollFlags::EPOLLOUT;
        }
        self.poller.change(channel.socket(), token, flags);
    }

    fn announce(&mut self, container: &str, exit: &Exit) {
        let tokens: Vec<Token> = self.connections.keys().copied().collect();
        for token in tokens {
            let event = Event::Exited { container: container.to_owned(), exit: exit.clone() };
            self.send(token, &Message::Event(event), Vec::new());
        }
    }

    fn reap(&mut self) {
        while let Ok(Some(ended)) = clone::reap() {
            self.child_ended(ended);
        }
    }

    fn child_ended(&mut self, ended: Ended) {
        let (code, signal) = clone::exit_code(ended.status);
        let exit = Exit { code, signal, oom_killed: false, finished_at: SystemTime::now() };
        if let Some((exec, token)) = self.execs.remove(&ended.pid) {
            self.send(token, &Message::Event(Event::ExecExited { exec, exit }), Vec::new());
            return;
        }
        let id = self
            .containers
            .values()
            .find(|c| c.pid == ended.pid && c.exit.is_none())
            .map(|c| c.id.clone());
        match id {
            Some(id) => self.container_ended(&id, exit),
            None => self.launches.stray(ended),
        }
    }

    fn container_ended(&mut self, id: &str, mut exit: Exit) {
        let Some(container) = self.containers.get_mut(id) else { return };
        exit.oom_killed = container.plan.cgroup.oom_file.as_ref().is_some_and(|file| {
            fs::read_to_string(file)
                .is_ok_and(|text| crate::cgroup::keyed(&text, "oom_kill").unwrap_or(0) > 0)
        });
        let own_pids = container
            .plan
            .namespaces
            .iter()
            .any(|n| n.flag == libc::CLONE_NEWPID as u64 && n.path.is_none());
        if !own_pids {
            // The kernel kills a PID namespace with its first process; without one we do.
            kill_group(container);
        }
        container.drain(&mut self.buffer, &mut self.poller);
        container.exit = Some(exit.clone());
        // The record is on disk before anybody hears of the end.
        let path = container.records.join(records::EXIT);
        if let Err(error) = records::write(&path, &exit, Durability::Synced) {
            eprintln!("writing {}: {error}", path.display());
        }
        self.announce(id, &exit);
        memory::trim();
    }

    fn set_up(&mut self, setup: &Setup) -> Result<(), Failure> {
        let step = |operation: &'static str| {
            move |errno: nix::errno::Errno| Failure::refused(operation, &errno.into())
        };
        if self.set_up {
            return Err(Failure::State("set up already".to_owned()));
        }
        if setup.version != VERSION {
            let message = format!("protocol {} instead of {VERSION}", setup.version);
            return Err(Failure::State(message));
        }
        if let Some(path) = &setup.netns {
            let file = fs::File::open(path)
                .map_err(|e| Failure::refused("opening the network namespace", &e))?;
            process::join_namespaces(file.as_fd(), libc::CLONE_NEWNET)
                .map_err(step("joining the network namespace"))?;
        }
        let mut flags = 0;
        if setup.hostname.is_some() {
            flags |= libc::CLONE_NEWUTS;
        }
        if setup.own_ipc {
            flags |= libc::CLONE_NEWIPC;
        }
        if flags != 0 {
            process::unshare(flags).map_err(step("unsharing namespaces"))?;
        }
        if let Some(hostname) = &setup.hostname {
            nix::unistd::sethostname(hostname).map_err(step("setting the host name"))?;
        }
        for (name, value) in &setup.sysctls {
            let path = launch::sysctl_path(name);
            fs::write(&path, value)
                .map_err(|e| Failure::refused(&format!("setting sysctl {name:?}"), &e))?;
        }
        // Out of the agent's group, so that a kill of that group leaves us, and before the first
        // process is made: a neighbour may take that one over, and what it uses is not the agent's.
        for file in &setup.cgroup_procs {
            if let Err(error) = fs::write(file, "0") {
                eprintln!("entering {}: {error}", file.display());
            }
        }
        if setup.shared_pid {
            let pid = launch::init().map_err(step("starting the sandbox's first process"))?;
            for file in &setup.init_procs {
                fs::write(file, pid.to_string())
                    .map_err(|e| Failure::refused("moving the sandbox's first process", &e))?;
            }
            let namespace = fs::File::open(format!("/proc/{pid}/ns/pid"))
                .map_err(|e| Failure::refused("opening the PID namespace", &e))?;
            self.init = Some((pid, namespace.into()));
        }
        let _ = fs::remove_file(&setup.socket);
        let listener = UnixListener::bind(&setup.socket)
            .and_then(|listener| {
                fs::set_permissions(&setup.socket, fs::Permissions::from_mode(0o600))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })
            .map_err(|e| Failure::refused("binding the socket", &e))?;
        let listening = self.poller.add(&listener, Source::Listener, EpollFlags::EPOLLIN);
        self.listening = Some(listening.map_err(step("epoll"))?);
        self.listener = Some((listener, setup.socket.clone()));
        self.set_up = true;
        Ok(())
    }
}

/// Kills what is left in a container's control group.
fn kill_group(container: &Container) {
    let plan = &container.plan.cgroup;
    let killed = plan.kill_file.as_ref().is_some_and(|file| fs::write(file, "1").is_ok());
    if !killed {
        let files = plan.directory.iter().map(|d| d.join("cgroup.procs"));
        for file in files.chain(plan.procs.iter().cloned()) {
            if let Some(directory) = file.parent() {
                crate::cgroup::kill_all(directory);
            }
        }
    }
}
