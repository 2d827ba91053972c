//! A recording machine and a small API server in memory, to drive workers without privileges.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use futures::FutureExt;
use futures::future::BoxFuture;
use oci_spec::image::ImageConfiguration;
use runtime::image::{Image, ImageSummary};
use runtime::sandbox::{
    ContainerSpec, ContainerStatus, ExecSpec, Exit, SandboxEvent, SandboxSpec, Session,
};
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};

use super::start::NAME_LABEL;
use crate::credential::Credential;
use crate::machine::{
    Adopted, Cause, ContainerRuntime, HostPort, ImageError, Images, Link, Machine, Network,
    PodSandbox, Pulled, Usages,
};
use crate::probe::Target;

/// What was done, in order, one word and a name each.
#[derive(Clone, Default)]
pub struct Journal(Arc<Mutex<Vec<String>>>);

impl Journal {
    fn note(&self, what: impl Into<String>) {
        self.0.lock().unwrap().push(what.into());
    }

    /// Everything so far.
    pub fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    /// How often something was done.
    pub fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|line| *line == what).count()
    }
}

/// One process, as far as the fake is concerned.
struct Process {
    labels: BTreeMap<String, String>,
    started_at: Option<SystemTime>,
    exit: Option<Exit>,
}

#[derive(Default)]
struct Inside {
    processes: HashMap<String, Process>,
    listeners: Vec<mpsc::Sender<SandboxEvent>>,
    /// Exit codes of programs that are run inside; 0 for others.
    programs: HashMap<String, i32>,
    /// Containers that do not end when asked to.
    stubborn: HashSet<String>,
    /// Containers whose end is not reported.
    wedged: HashSet<String>,
    /// The shim is gone, until another sandbox is made.
    lost: bool,
}

/// A sandbox whose containers run until the test ends them, or until they are asked to.
#[derive(Clone, Default)]
pub struct FakeSandbox {
    journal: Journal,
    inside: Arc<Mutex<Inside>>,
}

fn exit(code: i32, signal: Option<i32>) -> Exit {
    Exit { code, signal, oom_killed: false, finished_at: SystemTime::now() }
}

impl FakeSandbox {
    /// Ends the process of a container.
    pub fn end(&self, name: &str, code: i32) {
        self.finish(name, exit(code, None));
    }

    /// From now on a program that is run inside ends with that code.
    pub fn program(&self, program: &str, code: i32) {
        self.inside.lock().unwrap().programs.insert(program.to_owned(), code);
    }

    /// From now on a container ignores what it can ignore.
    pub fn ignore_signals(&self, name: &str) {
        self.inside.lock().unwrap().stubborn.insert(name.to_owned());
    }

    /// From now on the end of a container is not reported.
    pub fn wedge(&self, name: &str) {
        self.inside.lock().unwrap().wedged.insert(name.to_owned());
    }

    /// The shim dies when the next container is to start.
    pub fn lose_shim(&self) {
        self.inside.lock().unwrap().lost = true;
    }

    fn finish(&self, name: &str, exit: Exit) {
        let mut inside = self.inside.lock().unwrap();
        let running = inside.processes.iter_mut().find(|(_, process)| {
            process.labels[NAME_LABEL] == name
                && process.started_at.is_some()
                && process.exit.is_none()
        });
        let Some((id, process)) = running else { return };
        process.exit = Some(exit.clone());
        let event = SandboxEvent::Exited { container: id.clone(), exit };
        for listener in &inside.listeners {
            listener.try_send(event.clone()).unwrap();
        }
    }

    fn name(&self, id: &str) -> String {
        self.inside.lock().unwrap().processes[id].labels[NAME_LABEL].clone()
    }
}

impl PodSandbox for FakeSandbox {
    fn directory(&self) -> PathBuf {
        PathBuf::new()
    }

    fn create_container(&self, spec: ContainerSpec) -> BoxFuture<'_, Result<(), Cause>> {
        let process = Process { labels: spec.labels, started_at: None, exit: None };
        self.inside.lock().unwrap().processes.insert(spec.id, process);
        async { Ok(()) }.boxed()
    }

    fn start_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<u32, Cause>> {
        self.journal.note(format!("start {}", self.name(id)));
        let mut inside = self.inside.lock().unwrap();
        if inside.lost {
            for listener in &inside.listeners {
                listener.try_send(SandboxEvent::ShimLost).unwrap();
            }
            return async { Err(runtime::Error::ShimLost("u".into()).into()) }.boxed();
        }
        inside.processes.get_mut(id).unwrap().started_at = Some(SystemTime::now());
        async { Ok(1) }.boxed()
    }

    fn signal<'a>(&'a self, id: &'a str, signal: i32) -> BoxFuture<'a, Result<(), Cause>> {
        let name = self.name(id);
        self.journal.note(format!("signal {name} {signal}"));
        let inside = self.inside.lock().unwrap();
        let ends = signal == 9 || !inside.stubborn.contains(&name);
        let reported = !inside.wedged.contains(&name);
        drop(inside);
        if ends && reported {
            self.finish(&name, exit(128 + signal, Some(signal)));
        }
        async { Ok(()) }.boxed()
    }

    fn kill_all<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        self.journal.note(format!("kill all {}", self.name(id)));
        async { Ok(()) }.boxed()
    }

    fn status(&self) -> BoxFuture<'_, Result<Vec<ContainerStatus>, Cause>> {
        let inside = self.inside.lock().unwrap();
        let all = inside.processes.iter().map(|(id, process)| ContainerStatus {
            id: id.clone(),
            labels: process.labels.clone(),
            pid: process.started_at.map(|_| 1),
            started_at: process.started_at,
            exit: process.exit.clone(),
        });
        let all = all.collect();
        async { Ok(all) }.boxed()
    }

    fn exec(&self, spec: ExecSpec) -> BoxFuture<'_, Result<Session, Cause>> {
        let program = spec.args.join(" ");
        let known = self.inside.lock().unwrap().programs.get(&program).copied();
        self.journal.note(format!("exec {program}"));
        let (resize, _) = mpsc::channel(1);
        let (done, ended) = oneshot::channel();
        done.send(exit(known.unwrap_or(0), None)).unwrap();
        let session = Session {
            stdin: None,
            stdout: Box::new(tokio::io::empty()),
            stderr: None,
            resize,
            exit: ended,
            leash: None,
        };
        async { Ok(session) }.boxed()
    }

    fn attach<'a>(&'a self, _: &'a str, _: bool) -> BoxFuture<'a, Result<Session, Cause>> {
        async { Err("nobody attaches here".into()) }.boxed()
    }

    fn remove_container<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        self.inside.lock().unwrap().processes.remove(id);
        async { Ok(()) }.boxed()
    }

    fn remove(&self) -> BoxFuture<'_, Result<(), Cause>> {
        self.journal.note("remove sandbox");
        let mut inside = self.inside.lock().unwrap();
        inside.lost = false;
        inside.listeners.clear();
        async { Ok(()) }.boxed()
    }

    fn events(&self) -> mpsc::Receiver<SandboxEvent> {
        let (sender, receiver) = mpsc::channel(64);
        self.inside.lock().unwrap().listeners.push(sender);
        receiver
    }

    fn netns(&self) -> Option<PathBuf> {
        None
    }

    fn usage(&self) -> BoxFuture<'_, Result<Usages, Cause>> {
        async { Ok(Default::default()) }.boxed()
    }
}

/// A machine with one sandbox at a time, every image, and the address 10.44.0.9.
#[derive(Clone, Default)]
pub struct FakeMachine {
    /// What was done.
    pub journal: Journal,
    /// The sandbox that was made, or will be.
    pub sandbox: FakeSandbox,
    unreachable: Arc<Mutex<bool>>,
    /// The remains of an earlier process, by the pod's uid.
    pub left: Arc<Mutex<HashMap<String, Left>>>,
    /// Host ports that processes of the node have.
    pub conflicts: watch::Sender<Vec<netproxy::HostPortConflict>>,
}

/// A sandbox of an earlier process.
#[derive(Clone, Copy)]
pub enum Left {
    Running,
    Ended,
    /// It is found, and can be taken over at the next but so many attempts.
    Unreachable(u32),
}

impl FakeMachine {
    /// One journal for everything.
    pub fn new() -> Self {
        let journal = Journal::default();
        let sandbox = FakeSandbox { journal: journal.clone(), ..FakeSandbox::default() };
        Self { journal, sandbox, ..Self::default() }
    }

    /// From now on no registry answers.
    pub fn cut_registries(&self) {
        *self.unreachable.lock().unwrap() = true;
    }

    /// The seams.
    pub fn machine(&self) -> Machine {
        let this = Arc::new(self.clone());
        Machine { runtime: this.clone(), images: this.clone(), network: this }
    }
}

impl ContainerRuntime for FakeMachine {
    fn create_sandbox(&self, _: SandboxSpec) -> BoxFuture<'_, Result<Arc<dyn PodSandbox>, Cause>> {
        let made = self.journal.count("make sandbox") - self.journal.count("remove sandbox");
        self.journal.note("make sandbox");
        async move {
            if made > 0 {
                return Err("already exists".into());
            }
            Ok(Arc::new(self.sandbox.clone()) as Arc<dyn PodSandbox>)
        }
        .boxed()
    }

    fn adopt(&self) -> BoxFuture<'_, Result<Adopted, Cause>> {
        let mut found = Adopted::default();
        for (id, left) in self.left.lock().unwrap().clone() {
            match left {
                Left::Running => drop(found.sandboxes.insert(id, Arc::new(self.sandbox.clone()))),
                Left::Ended => drop(found.ended.insert(id, "record is lost".into())),
                Left::Unreachable(_) => drop(found.failed.insert(id, "no descriptor".into())),
            }
        }
        async move { Ok(found) }.boxed()
    }

    fn adopt_one<'a>(
        &'a self,
        id: &'a str,
    ) -> BoxFuture<'a, Result<Option<Arc<dyn PodSandbox>>, Cause>> {
        self.journal.note(format!("adopt {id}"));
        let found = match self.left.lock().unwrap().get_mut(id) {
            Some(Left::Unreachable(0) | Left::Running) => Ok(true),
            Some(Left::Unreachable(times)) => {
                *times -= 1;
                Err("no descriptor")
            }
            Some(Left::Ended) | None => Ok(false),
        };
        async move {
            let sandbox = || Arc::new(self.sandbox.clone()) as Arc<dyn PodSandbox>;
            Ok(found.map(|there| there.then(sandbox))?)
        }
        .boxed()
    }

    fn end<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        self.journal.note(format!("end {id}"));
        self.left.lock().unwrap().remove(id);
        async { Ok(()) }.boxed()
    }

    fn cleanup(&self, _: HashSet<String>) -> BoxFuture<'_, Result<(), Cause>> {
        async { Ok(()) }.boxed()
    }
}

fn image() -> Image {
    let config: ImageConfiguration = serde_json::from_value(json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": []}, "history": [],
    }))
    .unwrap();
    Image {
        id: "sha256:1".into(),
        tags: vec!["registry.example/a:1".into()],
        digests: Vec::new(),
        size_bytes: 1,
        config,
        layers: Vec::new(),
    }
}

impl Images for FakeMachine {
    fn normalize(&self, reference: &str) -> Result<String, ImageError> {
        Ok(reference.to_owned())
    }

    fn find<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Option<Image>> {
        async { Some(image()) }.boxed()
    }

    fn pull<'a>(
        &'a self,
        _: &'a str,
        reference: &'a str,
        _: &'a [Credential],
        patience: Option<Duration>,
    ) -> BoxFuture<'a, Result<Pulled, ImageError>> {
        self.journal.note(format!("pull {reference}"));
        let cut = *self.unreachable.lock().unwrap();
        async move {
            match (cut, patience) {
                (false, _) => Ok(Pulled { image: image(), took: Duration::ZERO }),
                (true, Some(_)) => Err(ImageError::Unreachable("no route to host".into())),
                (true, None) => Err(ImageError::Refused("asked without patience".into())),
            }
        }
        .boxed()
    }

    fn remove_abandoned(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn list(&self) -> BoxFuture<'_, Vec<ImageSummary>> {
        async {
            let Image { id, tags, digests, size_bytes, .. } = image();
            vec![ImageSummary { id, tags, digests, size_bytes }]
        }
        .boxed()
    }

    fn remove<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        async { Ok(()) }.boxed()
    }
}

impl Network for FakeMachine {
    fn attach<'a>(&'a self, _: &'a str, _: &'a [HostPort]) -> BoxFuture<'a, Result<Link, Cause>> {
        let link = Link { netns: "/dev/null".into(), addresses: vec![[10, 44, 0, 9].into()] };
        async { Ok(link) }.boxed()
    }

    fn detach<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Cause>> {
        self.journal.note("detach");
        async { Ok(()) }.boxed()
    }

    fn retain(&self, _: HashSet<String>) -> BoxFuture<'_, Result<(), Cause>> {
        async { Ok(()) }.boxed()
    }

    fn host_port_conflicts(&self) -> watch::Receiver<Vec<netproxy::HostPortConflict>> {
        self.conflicts.subscribe()
    }

    fn withdrawn<'a>(
        &'a self,
        _: &'a str,
        namespace: &'a str,
        services: Vec<String>,
    ) -> BoxFuture<'a, ()> {
        self.journal.note(format!("withdraw {namespace}/{}", services.join(",")));
        async {}.boxed()
    }
}

/// A container on loopback, for probes.
pub fn target() -> Target {
    Target {
        sandbox: Arc::new(FakeSandbox::default()),
        container: "c".into(),
        host: [127, 0, 0, 1].into(),
        ports: Vec::new(),
    }
}
