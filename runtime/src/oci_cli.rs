//! `coracle oci …`: the standard OCI command line over the same engine, one sandbox for each
//! container, so that other engines and the public validation suites can drive it.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

use crate::document;
use crate::handle::Manner;
use crate::plan::NamespaceChoice;
use crate::protocol::Operation;
use crate::records::{self, Durability};
use crate::sandbox::{
    ContainerSpec, ContainerStatus, ExecSpec, NamespaceMode, RuntimeConfig, SandboxEvent,
    SandboxSpec, shim_group,
};
use crate::{Runtime, Sandbox};

/// Where containers of this command line are kept unless `--root` says otherwise.
const DEFAULT_ROOT: &str = "/run/coracle-oci";

/// The container inside its sandbox.
const CONTAINER: &str = "container";

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error("{0}")]
    Usage(&'static str),
    #[error("container {0:?} does not exist")]
    NotFound(String),
    #[error("container {id:?} is {status}, not {wanted}")]
    Status { id: String, status: &'static str, wanted: &'static str },
    #[error("signal {0:?} is unknown")]
    Signal(String),
    #[error("{operation}: {source}")]
    File { operation: String, source: std::io::Error },
    #[error("{path}: {source}", path = .path.display())]
    Spec { path: PathBuf, source: serde_json::Error },
    #[error(transparent)]
    Runtime(#[from] crate::Error),
}

/// What is remembered of a container besides what the runtime does.
#[derive(Serialize, Deserialize)]
struct Bundle {
    bundle: PathBuf,
    version: String,
    annotations: BTreeMap<String, String>,
    started: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct State<'a> {
    oci_version: &'a str,
    id: &'a str,
    status: &'a str,
    pid: u32,
    bundle: &'a Path,
    annotations: &'a BTreeMap<String, String>,
}

/// Runs one command; `args` are those after `coracle oci`. The result is the exit code.
pub fn main(args: &[std::ffi::OsString]) -> i32 {
    let args: Vec<String> = args.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let built = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let result = match built {
        Ok(tokio) => tokio.block_on(command(&Arguments::parse(&args))),
        Err(source) => {
            Err(CommandError::File { operation: "starting the event loop".to_owned(), source })
        }
    };
    result.unwrap_or_else(|error| {
        eprintln!("coracle oci: {error}");
        1
    })
}

/// Options with a value, flags, and the rest in order. After the container's name and a program
/// everything belongs to the program.
#[derive(Default)]
struct Arguments {
    options: BTreeMap<String, String>,
    rest: Vec<String>,
}

impl Arguments {
    fn parse(args: &[String]) -> Self {
        const FLAGS: [&str; 6] = ["force", "f", "all", "a", "tty", "t"];
        let mut parsed = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            // `exec <id> <program> …`: no options from the program on.
            if parsed.rest.len() >= 2 || arg == "--" || !arg.starts_with('-') {
                if arg != "--" || parsed.rest.len() >= 2 {
                    parsed.rest.push(arg.clone());
                }
                continue;
            }
            let name = arg.trim_start_matches('-');
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None if FLAGS.contains(&name) => (name, Some(String::new())),
                None => (name, args.next().cloned()),
            };
            parsed.options.insert(name.to_owned(), value.unwrap_or_default());
        }
        parsed
    }

    fn option(&self, long: &str, short: &str) -> Option<&String> {
        self.options.get(long).or_else(|| self.options.get(short))
    }

    fn id(&self) -> Result<&str, CommandError> {
        let id = self.rest.get(1).ok_or(CommandError::Usage("a container ID is missing"))?;
        crate::Error::check_name(id)?;
        Ok(id)
    }
}

async fn command(arguments: &Arguments) -> Result<i32, CommandError> {
    const USAGE: &str = "usage: coracle oci [--root DIR] \
        create|start|state|kill|delete|run|exec [options] <container-id> [args]";
    let name = arguments.rest.first().ok_or(CommandError::Usage(USAGE))?;
    let root = PathBuf::from(arguments.options.get("root").map_or(DEFAULT_ROOT, String::as_str));
    let runtime = Runtime::open(RuntimeConfig {
        state_dir: root.clone(),
        run_dir: root.join("run"),
        shim_binary: "/proc/self/exe".into(),
        shim_group: shim_group(""),
        sandbox_group: String::new(),
    })?;
    let id = arguments.id()?;
    match name.as_str() {
        "create" => Box::pin(create(&runtime, &root, id, arguments)).await.map(|_| 0),
        "start" => start(&runtime, &root, id).await.map(|_| 0),
        "state" => state(&runtime, &root, id).await,
        "kill" => kill(&runtime, &root, id, arguments).await,
        "delete" => delete(&runtime, &root, id, arguments).await,
        "exec" => exec(&runtime, id, arguments).await,
        "run" => {
            let sandbox = Box::pin(create(&runtime, &root, id, arguments)).await?;
            let mut events = sandbox.events();
            let code = match release(&sandbox, &root, id).await {
                Ok(()) => match events.recv().await {
                    Some(SandboxEvent::Exited { exit, .. }) => Ok(exit.code),
                    _ => Ok(255),
                },
                Err(error) => Err(error),
            };
            remove(&sandbox, &root, id).await?;
            code
        }
        _ => Err(CommandError::Usage(USAGE)),
    }
}

async fn create(
    runtime: &Runtime,
    root: &Path,
    id: &str,
    arguments: &Arguments,
) -> Result<Sandbox, CommandError> {
    let bundle = PathBuf::from(arguments.option("bundle", "b").map_or(".", String::as_str));
    let bundle = fs::canonicalize(&bundle).map_err(file(format!("opening {bundle:?}")))?;
    let path = bundle.join("config.json");
    let text = fs::read(&path).map_err(file(format!("reading {}", path.display())))?;
    let mut spec = document::read(&text).map_err(|source| CommandError::Spec { path, source })?;
    if let Some(base) = spec.root() {
        let mut base = base.clone();
        base.set_path(bundle.join(base.path()));
        spec.set_root(Some(base));
    }
    let linux = spec.linux().clone().unwrap_or_default();
    let cgroup = match linux.cgroups_path() {
        Some(path) => path.to_string_lossy().trim_start_matches('/').to_owned(),
        None => format!("coracle-oci/{id}"),
    };
    let sandbox = runtime
        .create_sandbox(SandboxSpec {
            id: id.to_owned(),
            hostname: None,
            netns: None,
            ipc: NamespaceMode::Host,
            pid: NamespaceMode::Host,
            cgroup,
            resources: None,
            sysctls: BTreeMap::new(),
            labels: BTreeMap::new(),
        })
        .await?;
    match create_in(&sandbox, root, id, bundle, spec, arguments).await {
        Ok(()) => Ok(sandbox),
        Err(error) => {
            remove(&sandbox, root, id).await?;
            Err(error)
        }
    }
}

async fn create_in(
    sandbox: &Sandbox,
    root: &Path,
    id: &str,
    bundle: PathBuf,
    spec: Spec,
    arguments: &Arguments,
) -> Result<(), CommandError> {
    let record = Bundle {
        bundle,
        version: spec.version().clone(),
        annotations: spec.annotations().clone().unwrap_or_default().into_iter().collect(),
        started: false,
    };
    write(root, id, &record)?;
    let container = ContainerSpec {
        id: CONTAINER.to_owned(),
        spec,
        layers: Vec::new(),
        log_path: PathBuf::new(),
        log_max_bytes: 0,
        log_max_files: 0,
        stdin: false,
        stdin_once: false,
        labels: BTreeMap::new(),
    };
    sandbox.create_container(container).await?;
    let stream = |number| crate::sys::inherited(number).map_err(file("duplicating a stream"));
    let streams = Some([stream(0)?, stream(1)?, stream(2)?]);
    let manner = Manner { namespaces: NamespaceChoice::Spec, gated: true, streams };
    let (pid, terminal) = sandbox.launch(CONTAINER, manner).await?;
    if let Some(terminal) = terminal {
        let socket = arguments
            .options
            .get("console-socket")
            .ok_or(CommandError::Usage("a terminal needs --console-socket"))?;
        send_terminal(Path::new(socket), &terminal)?;
    }
    if let Some(path) = arguments.options.get("pid-file") {
        fs::write(path, pid.to_string()).map_err(file(format!("writing {path}")))?;
    }
    Ok(())
}

fn send_terminal(socket: &Path, terminal: &OwnedFd) -> Result<(), CommandError> {
    use nix::sys::socket::{ControlMessage, MsgFlags, UnixAddr, sendmsg};
    let stream = UnixStream::connect(socket).map_err(file("connecting to the console socket"))?;
    let descriptors = [terminal.as_raw_fd()];
    let rights = [ControlMessage::ScmRights(&descriptors)];
    let name = [IoSlice::new(b"ptmx")];
    sendmsg::<UnixAddr>(stream.as_raw_fd(), &name, &rights, MsgFlags::empty(), None)
        .map_err(|errno| file("sending the terminal")(errno.into()))?;
    Ok(())
}

async fn find(runtime: &Runtime, id: &str) -> Result<Sandbox, CommandError> {
    let found = runtime.adopt_one(id).await?;
    found.map(|(_, sandbox)| sandbox).ok_or_else(|| CommandError::NotFound(id.to_owned()))
}

/// The container's record and observed state with the word the specification has for it.
async fn observe(
    sandbox: &Sandbox,
    root: &Path,
    id: &str,
) -> Result<(Bundle, Option<ContainerStatus>, &'static str), CommandError> {
    let path = record(root, id);
    let bundle: Option<Bundle> = records::read(&path).map_err(file(format!("reading {path:?}")))?;
    let bundle = bundle.ok_or_else(|| CommandError::NotFound(id.to_owned()))?;
    let status = sandbox.status().await?.into_iter().next();
    let word = match &status {
        Some(ContainerStatus { exit: Some(_), .. }) => "stopped",
        Some(ContainerStatus { pid: Some(_), .. }) if bundle.started => "running",
        Some(ContainerStatus { pid: Some(_), .. }) => "created",
        _ => "creating",
    };
    Ok((bundle, status, word))
}

async fn start(runtime: &Runtime, root: &Path, id: &str) -> Result<(), CommandError> {
    let sandbox = find(runtime, id).await?;
    let (_, _, status) = observe(&sandbox, root, id).await?;
    if status != "created" {
        return Err(CommandError::Status { id: id.to_owned(), status, wanted: "created" });
    }
    release(&sandbox, root, id).await
}

async fn release(sandbox: &Sandbox, root: &Path, id: &str) -> Result<(), CommandError> {
    let operation = Operation::Release { container: CONTAINER.to_owned() };
    sandbox.request(operation, Vec::new()).await?;
    let (mut bundle, ..) = observe(sandbox, root, id).await?;
    bundle.started = true;
    write(root, id, &bundle)
}

async fn state(runtime: &Runtime, root: &Path, id: &str) -> Result<i32, CommandError> {
    let sandbox = find(runtime, id).await?;
    let (bundle, status, word) = observe(&sandbox, root, id).await?;
    let pid = if word == "stopped" { 0 } else { status.and_then(|s| s.pid).unwrap_or(0) };
    let state = State {
        oci_version: &bundle.version,
        id,
        status: word,
        pid,
        bundle: &bundle.bundle,
        annotations: &bundle.annotations,
    };
    println!("{}", serde_json::to_string_pretty(&state).unwrap_or_default());
    Ok(0)
}

async fn kill(
    runtime: &Runtime,
    root: &Path,
    id: &str,
    arguments: &Arguments,
) -> Result<i32, CommandError> {
    let sandbox = find(runtime, id).await?;
    let (_, _, status) = observe(&sandbox, root, id).await?;
    if !matches!(status, "created" | "running") {
        return Err(CommandError::Status { id: id.to_owned(), status, wanted: "running" });
    }
    let text = arguments.rest.get(2).map_or("TERM", String::as_str);
    sandbox.signal(CONTAINER, signal(text)?).await?;
    Ok(0)
}

fn signal(text: &str) -> Result<i32, CommandError> {
    if let Ok(number) = text.parse() {
        return Ok(number);
    }
    let name = text.to_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    name.parse::<Signal>()
        .map(|signal| signal as i32)
        .map_err(|_| CommandError::Signal(text.to_owned()))
}

async fn delete(
    runtime: &Runtime,
    root: &Path,
    id: &str,
    arguments: &Arguments,
) -> Result<i32, CommandError> {
    let force = arguments.option("force", "f").is_some();
    let sandbox = match find(runtime, id).await {
        Err(CommandError::NotFound(_)) if force => return Ok(0),
        other => other?,
    };
    let (_, _, status) = observe(&sandbox, root, id).await?;
    if status != "stopped" && !force {
        return Err(CommandError::Status { id: id.to_owned(), status, wanted: "stopped" });
    }
    remove(&sandbox, root, id).await?;
    // Nothing but this container may have needed the groups above it.
    if runtime.census().await?.is_empty() {
        runtime.cleanup(&HashSet::new()).await?;
    }
    Ok(0)
}

async fn remove(sandbox: &Sandbox, root: &Path, id: &str) -> Result<(), CommandError> {
    sandbox.remove().await?;
    let _ = fs::remove_file(record(root, id));
    Ok(())
}

async fn exec(runtime: &Runtime, id: &str, arguments: &Arguments) -> Result<i32, CommandError> {
    let sandbox = find(runtime, id).await?;
    let args = arguments.rest.get(2..).unwrap_or_default().to_vec();
    if args.is_empty() {
        return Err(CommandError::Usage("a program is missing"));
    }
    let tty = arguments.option("tty", "t").is_some();
    let container = CONTAINER.to_owned();
    let spec = ExecSpec { container, args, tty, stdin: false, leashed: false };
    let mut session = sandbox.exec(spec).await?;
    let (mut out, mut err) = (tokio::io::stdout(), tokio::io::stderr());
    let errors = async {
        match &mut session.stderr {
            Some(stderr) => tokio::io::copy(stderr, &mut err).await,
            None => Ok(0),
        }
    };
    let _ = tokio::join!(tokio::io::copy(&mut session.stdout, &mut out), errors);
    Ok(session.exit.await.map_or(255, |exit| exit.code))
}

fn record(root: &Path, id: &str) -> PathBuf {
    root.join(format!("{id}.bundle.json"))
}

fn write(root: &Path, id: &str, bundle: &Bundle) -> Result<(), CommandError> {
    let path = record(root, id);
    records::write(&path, bundle, Durability::Cached).map_err(file(format!("writing {path:?}")))
}

fn file(operation: impl Into<String>) -> impl FnOnce(std::io::Error) -> CommandError {
    let operation = operation.into();
    move |source| CommandError::File { operation, source }
}
