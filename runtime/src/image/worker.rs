//! Pulls in a process of their own. A registry client keeps some 11 MiB (certificate roots,
//! connection pools) for good; in a child that lives as long as the pull they cost an idle node
//! nothing. The parent takes nothing of the child for granted: neither the length of its reports nor
//! that it ends or cleans up.

use std::collections::HashMap;
use std::io::{self, BufRead, Write};
use std::os::unix::process::ExitStatusExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, Once, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;

use super::pull::{Progress, PullError, PullOptions};
use super::reference::Reference;
use super::store::{Image, ImageStore};
use crate::cgroup::keyed;
use crate::printable::line;

/// Address space of a worker, in bytes. It streams layers, and holds one decompression window of
/// 128 MiB for each of those that it reads at a time.
const MAX_WORKER_BYTES: u64 = 4 << 30;
/// Longest report of a worker, in bytes: the digests of the layers of an image fit.
const MAX_REPORT_BYTES: usize = 128 << 10;
/// Longest text of a failed pull, in bytes; registries choose a part of it.
const MAX_MESSAGE_BYTES: usize = 1024;
/// Time between two reports of how much of the layers has arrived.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// What the parent writes to the worker's standard input, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullRequest {
    /// The image store's directory.
    pub store: PathBuf,
    /// The image.
    pub reference: String,
    /// How.
    pub options: PullOptions,
    /// The files that take the worker into its control group; none leaves it in its parent's.
    #[serde(default)]
    pub group: Vec<PathBuf>,
}

/// Is called with the steps of a pull.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// The program and the arguments that end up in [`worker_main`].
#[derive(Clone, Copy, Debug)]
pub struct WorkerCommand<'a> {
    /// The program.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: &'a [&'a str],
}

/// The worker's input: the request, and whether its steps are wanted.
#[derive(Serialize, Deserialize)]
struct Input {
    request: PullRequest,
    progress: bool,
}

/// What the worker writes to its standard output, one line of JSON each.
#[derive(Serialize, Deserialize)]
enum Report {
    /// It could not join its control group.
    Unconfined {
        message: String,
    },
    Progress(Progress),
    Done {
        id: String,
    },
    Failed {
        message: String,
        unreachable: bool,
    },
}

/// Pulls in a child process. The child dies with the returned future, and with this process: its
/// standard input ends then. `held` is dropped when the child has ended and nothing of an unfinished
/// pull is left in the store, which may be after the future was dropped.
pub async fn pull_in_child(
    command: WorkerCommand<'_>,
    store: &ImageStore,
    request: &PullRequest,
    progress: Option<OnProgress>,
    held: impl Send + 'static,
) -> Result<Image, PullError> {
    let failed = |message: String| PullError::Worker {
        message: format!("failed to pull and unpack image \"{}\": {message}", request.reference),
        unreachable: false,
    };
    let input = Input { request: request.clone(), progress: progress.is_some() };
    let mut child = Command::new(command.program);
    child
        .args(command.arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let (stop, stopped) = oneshot::channel();
    let pull = supervise(child, input, store.clone(), progress, stopped, held);
    let pull = tokio::spawn(Box::pin(pull));
    let outcome = pull.await.map_err(|error| failed(format!("supervise the pull: {error}")))?;
    drop(stop);
    match outcome.map_err(failed)? {
        Report::Done { id } => store
            .find_id(&id)
            .and_then(|image| image.map(|image| store.with_names(image)).transpose())
            .map_err(|e| failed(e.to_string()))?
            .ok_or_else(|| failed("the image vanished after the pull".into())),
        Report::Failed { message, unreachable } => Err(PullError::Worker { message, unreachable }),
        Report::Progress(_) | Report::Unconfined { .. } => {
            unreachable!("only a result ends a conversation")
        }
    }
}

/// Runs the child to its end and cleans up after it, also when the caller of the pull has gone.
async fn supervise(
    mut command: Command,
    input: Input,
    store: ImageStore,
    progress: Option<OnProgress>,
    mut stopped: oneshot::Receiver<()>,
    _held: impl Send,
) -> Result<Report, String> {
    let kills = out_of_memory_kills();
    let mut child = command.spawn().map_err(|e| format!("start the pull: {e}"))?;
    let outcome = tokio::select! {
        outcome = converse(&mut child, &input, progress.as_ref()) => outcome,
        _ = &mut stopped => Err("the pull was given up".into()),
    };
    let ended = match &outcome {
        Err(_) => killed(&mut child).await,
        Ok(_) => tokio::select! {
            ended = child.wait() => ended,
            _ = &mut stopped => killed(&mut child).await,
        },
    };
    // Its process ID names no process any more, and so everything that it was making is abandoned.
    let cleaned = tokio::task::spawn_blocking(move || store.remove_abandoned());
    if let Err(error) = cleaned.await {
        tracing::warn!(%error, "cleaning up after a pull failed");
    }
    match (outcome?, ended) {
        (Some(report), _) => Ok(report),
        (None, Ok(status)) => Err(ending(status, out_of_memory_kills() > kills)),
        (None, Err(error)) => Err(format!("wait for the pull: {error}")),
    }
}

async fn killed(child: &mut Child) -> io::Result<ExitStatus> {
    // It may have ended already.
    let _ = child.start_kill();
    child.wait().await
}

/// Hands the request over and reads the reports; returns the result, or `None` if the child ended
/// without one.
async fn converse(
    child: &mut Child,
    input: &Input,
    progress: Option<&OnProgress>,
) -> Result<Option<Report>, String> {
    static UNCONFINED: Once = Once::new();
    let mut stdin = child.stdin.take().expect("standard input was asked for");
    let stdout = child.stdout.take().expect("standard output was asked for");
    let mut line = serde_json::to_vec(input).expect("a pull request always serializes");
    line.push(b'\n');
    stdin.write_all(&line).await.map_err(|e| format!("talk to the pull: {e}"))?;
    // `stdin` is kept open: the child takes its end for that of its parent.
    let mut stdout = BufReader::new(stdout);
    let mut result = None;
    while let Some(line) = next_line(&mut stdout).await? {
        match serde_json::from_slice::<Report>(&line) {
            Ok(Report::Progress(step)) => {
                if let Some(progress) = progress {
                    progress(step);
                }
            }
            Ok(Report::Unconfined { message }) => UNCONFINED.call_once(|| {
                tracing::warn!(message, "pulls run without a control group of their own");
            }),
            Ok(report) => result = Some(report),
            Err(error) => return Err(format!("the pull sent a broken report: {error}")),
        }
    }
    drop(stdin);
    Ok(result)
}

/// Reads a line within the bound; `None` at the end.
async fn next_line(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<Vec<u8>>, String> {
    let mut line = Vec::new();
    loop {
        let bytes = input.fill_buf().await.map_err(|e| format!("listen to the pull: {e}"))?;
        if bytes.is_empty() {
            // A part of a report is the report of a child that was killed.
            return Ok(None);
        }
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let count = end.unwrap_or(bytes.len());
        if line.len() + count > MAX_REPORT_BYTES {
            return Err(format!("the pull sent a report of more than {MAX_REPORT_BYTES} bytes"));
        }
        line.extend_from_slice(&bytes[..count]);
        input.consume(count + usize::from(end.is_some()));
        if end.is_some() {
            return Ok(Some(line));
        }
    }
}

/// The reason why a child has ended without a result.
fn ending(status: ExitStatus, out_of_memory: bool) -> String {
    match status.signal() {
        Some(libc::SIGKILL) if out_of_memory => "the pull ran out of memory".into(),
        // An allocation that fails ends the process this way.
        Some(libc::SIGABRT) => "the pull was aborted; it may have run out of memory".into(),
        Some(signal) => format!("the pull was ended by signal {signal}"),
        None => "the pull ended without a result".into(),
    }
}

/// Processes that the kernel has killed because memory ran out, of a control group or of the machine.
fn out_of_memory_kills() -> u64 {
    let text = std::fs::read_to_string("/proc/vmstat").unwrap_or_default();
    keyed(&text, "oom_kill").unwrap_or(0)
}

/// The worker: reads one request from standard input, pulls, reports. Returns the exit code.
pub fn worker_main() -> i32 {
    // The agent may be protected from the kernel's OOM killer; unpacking what a tenant chose is not.
    let _ = crate::own_limits::set_oom_score(0);
    limit_memory();
    let mut line = String::new();
    let input = io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_str::<Input>(&line).map_err(|e| e.to_string()));
    drop(line);
    if let Ok(input) = &input {
        join_group(&input.request.group);
    }
    std::thread::spawn(|| {
        // Nobody writes more; the read ends when the parent does.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(1);
    });
    let report = match input {
        Ok(input) => match caught(&input.request.reference, || pull(&input)) {
            Ok(image) => Report::Done { id: image.id },
            Err(e) => failure(&e.to_string(), e.is_unreachable()),
        },
        Err(message) => failure(&message, false),
    };
    let code = i32::from(!matches!(report, Report::Done { .. }));
    send(&report);
    code
}

fn failure(message: &str, unreachable: bool) -> Report {
    Report::Failed { message: line(message, MAX_MESSAGE_BYTES), unreachable }
}

/// Runs a pull; one that panics has failed with the text of its first panic.
fn caught<T>(reference: &str, pull: impl FnOnce() -> Result<T, PullError>) -> Result<T, PullError> {
    let first = Arc::new(Mutex::new(None));
    let hook = first.clone();
    std::panic::set_hook(Box::new(move |panic| {
        let text = match panic.payload().downcast_ref::<String>() {
            Some(text) => text.as_str(),
            None => panic.payload().downcast_ref::<&str>().copied().unwrap_or_default(),
        };
        let mut first = hook.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| line(text, MAX_MESSAGE_BYTES));
    }));
    let result = catch_unwind(AssertUnwindSafe(pull));
    let _ = std::panic::take_hook();
    result.unwrap_or_else(|_| {
        let text = first.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default();
        let message = format!(
            "failed to pull and unpack image \"{reference}\": the pull failed unexpectedly: {text}"
        );
        Err(PullError::Worker { message, unreachable: false })
    })
}

/// An archive whose names and attributes do not fit into memory ends this process and no other.
fn limit_memory() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_AS) else { return };
    let _ = setrlimit(Resource::RLIMIT_AS, MAX_WORKER_BYTES.min(hard), hard);
}

/// Enters the control group of pulls, whose memory is bounded.
fn join_group(files: &[PathBuf]) {
    for file in files {
        // Zero is the process that writes.
        if let Err(error) = std::fs::write(file, "0") {
            let message = format!("{}: {error}", file.display());
            send(&Report::Unconfined { message: line(&message, MAX_MESSAGE_BYTES) });
        }
    }
}

fn pull(input: &Input) -> Result<Image, PullError> {
    let request = &input.request;
    let failed = |message: String| PullError::Worker { message, unreachable: false };
    // Another provider installed first serves as well.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| failed(format!("start the pull: {e}")))?;
    let reference: Reference =
        request.reference.parse().map_err(|e: super::ReferenceError| failed(e.to_string()))?;
    let store = ImageStore::open(&request.store).map_err(|e| failed(e.to_string()))?;
    let steps = Mutex::new(Steps::new(Instant::now()));
    tokio.block_on(store.pull(&reference, &request.options, &|step| {
        if input.progress {
            let mut steps = steps.lock().unwrap_or_else(PoisonError::into_inner);
            steps
                .take(step, Instant::now())
                .into_iter()
                .map(Report::Progress)
                .for_each(|r| send(&r));
        }
    }))
}

/// Sums up what arrives, so that the reports of it are few.
struct Steps {
    received: HashMap<String, u64>,
    reported: Instant,
}

impl Steps {
    fn new(now: Instant) -> Self {
        Self { received: HashMap::new(), reported: now }
    }

    /// Returns the steps that are to be reported now.
    fn take(&mut self, step: Progress, now: Instant) -> Vec<Progress> {
        let other = match step {
            Progress::Received { digest, bytes } => {
                *self.received.entry(digest).or_default() += bytes;
                if now.duration_since(self.reported) < PROGRESS_INTERVAL {
                    return Vec::new();
                }
                None
            }
            other => Some(other),
        };
        self.reported = now;
        let received = self.received.drain();
        received.map(|(digest, bytes)| Progress::Received { digest, bytes }).chain(other).collect()
    }
}

/// Writes a report; steps that do not fit into one are left out.
fn send(report: &Report) {
    let mut line = serde_json::to_vec(report).expect("a report always serializes");
    if line.len() > MAX_REPORT_BYTES && matches!(report, Report::Progress(_)) {
        return;
    }
    line.push(b'\n');
    // A parent that is gone needs no report.
    let _ = io::stdout().lock().write_all(&line);
}

#[cfg(test)]
#[path = "worker_tests.rs"]
mod tests;
