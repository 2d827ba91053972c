//! Pulls in a process of their own. A registry client keeps some 11 MiB (certificate roots,
//! connection pools) for good; in a child that lives as long as the pull they cost an idle node
//! nothing.

use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::pull::{Progress, PullError, PullOptions};
use super::reference::Reference;
use super::store::{Image, ImageStore};

/// Address space of a worker, in bytes. It streams layers, and holds one decompression window of
/// 128 MiB for each of those that it reads at a time.
const MAX_WORKER_BYTES: u64 = 4 << 30;

/// What the parent writes to the worker's standard input, as one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PullRequest {
    /// The image store's directory.
    pub store: PathBuf,
    /// The image.
    pub reference: String,
    /// How.
    pub options: PullOptions,
}

/// What the worker writes to its standard output, one line of JSON each.
#[derive(Serialize, Deserialize)]
enum Report {
    Progress(Progress),
    Done { id: String },
    Failed { message: String, unreachable: bool },
}

/// Pulls in a child process: `program` with `arguments` must end up in [`worker_main`]. The child
/// dies with the returned future, and with this process: its standard input ends then.
pub async fn pull_in_child(
    program: &Path,
    arguments: &[&str],
    store: &ImageStore,
    request: &PullRequest,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<Image, PullError> {
    let failed = |message: String| PullError::Worker {
        message: format!("failed to pull and unpack image \"{}\": {message}", request.reference),
        unreachable: false,
    };
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(format!("start the pull: {e}")))?;
    let mut stdin = child.stdin.take().expect("standard input was asked for");
    let stdout = child.stdout.take().expect("standard output was asked for");
    let mut line = serde_json::to_vec(request).expect("a pull request always serializes");
    line.push(b'\n');
    stdin.write_all(&line).await.map_err(|e| failed(format!("talk to the pull: {e}")))?;
    let mut lines = BufReader::new(stdout).lines();
    // Kept open: the child takes its end for ours.
    let _open = stdin;
    let mut outcome = None;
    while let Some(line) =
        lines.next_line().await.map_err(|e| failed(format!("listen to the pull: {e}")))?
    {
        match serde_json::from_str::<Report>(&line) {
            Ok(Report::Progress(step)) => progress(step),
            Ok(report) => outcome = Some(report),
            Err(e) => return Err(failed(format!("the pull spoke nonsense: {e}"))),
        }
    }
    let status = child.wait().await.map_err(|e| failed(format!("wait for the pull: {e}")))?;
    match outcome {
        Some(Report::Done { id }) => store
            .find_id(&id)
            .and_then(|image| image.map(|image| store.with_names(image)).transpose())
            .map_err(|e| failed(e.to_string()))?
            .ok_or_else(|| failed("the image vanished after the pull".into())),
        Some(Report::Failed { message, unreachable }) => {
            Err(PullError::Worker { message, unreachable })
        }
        _ => Err(failed(format!("the pull ended with {status}"))),
    }
}

/// The worker: reads one [`PullRequest`] from standard input, pulls, reports. Returns the exit
/// code.
pub fn worker_main() -> i32 {
    // The agent may be protected from the kernel's OOM killer; unpacking what a tenant chose is not.
    let _ = crate::own_limits::set_oom_score(0);
    limit_memory();
    let mut line = String::new();
    let request = io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|e| e.to_string())
        .and_then(|_| serde_json::from_str::<PullRequest>(&line).map_err(|e| e.to_string()));
    std::thread::spawn(|| {
        // Nobody writes more; the read ends when the parent does.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(1);
    });
    let report = match request {
        Ok(request) => match pull(&request) {
            Ok(image) => Report::Done { id: image.id },
            Err(e) => Report::Failed { message: e.to_string(), unreachable: e.is_unreachable() },
        },
        Err(message) => Report::Failed { message, unreachable: false },
    };
    let code = i32::from(!matches!(report, Report::Done { .. }));
    say(&report);
    code
}

/// An archive whose names and attributes do not fit into memory ends this process and no other.
fn limit_memory() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_AS) else { return };
    let _ = setrlimit(Resource::RLIMIT_AS, MAX_WORKER_BYTES.min(hard), hard);
}

fn pull(request: &PullRequest) -> Result<Image, PullError> {
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
    tokio.block_on(store.pull(&reference, &request.options, &|step| {
        say(&Report::Progress(step));
    }))
}

fn say(report: &Report) {
    let mut line = serde_json::to_vec(report).expect("a report always serializes");
    line.push(b'\n');
    // A parent that is gone needs no report.
    let _ = io::stdout().lock().write_all(&line);
}
