//! Exec and attach: streams that reach the process without passing through the agent's protocol.

use std::os::fd::{AsFd, OwnedFd};

use nix::fcntl::OFlag;
use tokio::net::unix::pipe;
use tokio::sync::{mpsc, oneshot};

use super::{Sandbox, warn_once};
use crate::launch;
use crate::plan;
use crate::protocol::{Answer, Operation};
use crate::sandbox::{ExecSpec, Session};
use crate::sys::tty;
use crate::terminal::Terminal;
use crate::{Error, Result};

/// Terminal sizes a caller may be ahead.
const MAX_PENDING_SIZES: usize = 8;

impl Sandbox {
    /// Runs one more process in a running container.
    pub async fn exec(&self, exec: ExecSpec) -> Result<Session> {
        let container = self.record(&exec.container)?;
        let linux = container.spec.linux().as_ref();
        let mut process = plan::process(
            container.spec.process().as_ref(),
            linux.and_then(|l| l.seccomp().as_ref()),
        )?;
        process.args = exec.args;
        process.terminal = exec.tty;
        process.size = None;
        if exec.tty && !process.env.iter().any(|v| v.starts_with("TERM=")) {
            process.env.push("TERM=xterm".to_owned());
        }
        let mut stdin = None;
        let mut outputs = None;
        let mut descriptors = Vec::new();
        if !exec.tty {
            if exec.stdin {
                let (read, write) = pipe()?;
                descriptors.push(read);
                stdin = Some(sender(write)?);
            } else {
                let null = launch::null().map_err(Error::kernel("opening /dev/null"))?;
                descriptors.push(null.into());
            }
            let (out_read, out_write) = pipe()?;
            let (err_read, err_write) = pipe()?;
            descriptors.extend([out_write, err_write]);
            outputs = Some((receiver(out_read)?, receiver(err_read)?));
        }
        let (name, exit) = self.observed().expect_exec();
        // From here on: whoever gives up may do so before the process has started.
        let leash = exec.leashed.then(|| self.leash(name));
        let operation =
            Operation::Exec { container: exec.container, exec: name, process: Box::new(process) };
        let (answer, received) = self.request(operation, descriptors).await?;
        if let Answer::Started { warnings, .. } = answer {
            warn_once(warnings);
        }
        let (resize, sizes) = mpsc::channel(MAX_PENDING_SIZES);
        match outputs {
            Some((stdout, stderr)) => Ok(Session {
                stdin: stdin.map(|s| Box::new(s) as _),
                stdout: Box::new(stdout),
                stderr: Some(Box::new(stderr)),
                resize,
                exit,
                leash,
            }),
            None => {
                let master = received
                    .into_iter()
                    .next()
                    .ok_or_else(|| Error::ShimLost(self.spec().id.clone()))?;
                let failed = || Error::kernel("using a terminal");
                let copy = || master.try_clone().map_err(failed());
                let stdout = Terminal::new(copy()?).map_err(failed())?;
                let stdin = match exec.stdin {
                    true => Some(Box::new(Terminal::new(copy()?).map_err(failed())?) as _),
                    false => None,
                };
                tokio::spawn(resize_terminal(master, sizes));
                Ok(Session { stdin, stdout: Box::new(stdout), stderr: None, resize, exit, leash })
            }
        }
    }

    /// What kills an exec'd process once it is dropped.
    fn leash(&self, exec: u64) -> oneshot::Sender<()> {
        let (leash, released) = oneshot::channel();
        let this = self.clone();
        tokio::spawn(async move {
            if released.await.is_err() {
                let operation = Operation::SignalExec { exec, signal: libc::SIGKILL };
                if let Err(error) = this.request(operation, Vec::new()).await {
                    tracing::debug!(%error, "a process that nobody waits for was not killed");
                }
            }
        });
        leash
    }

    /// Attaches to the streams of a container's first process. Output from before the first
    /// attach is replayed, within a bound.
    pub async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        let mut descriptors = Vec::new();
        let mut input = None;
        if stdin {
            let (read, write) = pipe()?;
            descriptors.push(read);
            input = Some(sender(write)?);
        }
        let (out_read, out_write) = pipe()?;
        let (err_read, err_write) = pipe()?;
        descriptors.extend([out_write, err_write]);
        let exit = self.observed().expect_exit(id);
        let operation = Operation::Attach { container: id.to_owned(), stdin };
        let (answer, _) = self.request(operation, descriptors).await?;
        let terminal = matches!(answer, Answer::Attached { terminal: true });
        let (resize, mut sizes) = mpsc::channel(MAX_PENDING_SIZES);
        let (this, container) = (self.clone(), id.to_owned());
        tokio::spawn(async move {
            while let Some((columns, rows)) = sizes.recv().await {
                let container = container.clone();
                let operation = Operation::Resize { container, columns, rows };
                if this.request(operation, Vec::new()).await.is_err() {
                    break;
                }
            }
        });
        Ok(Session {
            stdin: input.map(|i| Box::new(i) as _),
            stdout: Box::new(receiver(out_read)?),
            stderr: match terminal {
                true => None,
                false => Some(Box::new(receiver(err_read)?)),
            },
            resize,
            exit,
            leash: None,
        })
    }
}

async fn resize_terminal(master: OwnedFd, mut sizes: mpsc::Receiver<(u16, u16)>) {
    while let Some((columns, rows)) = sizes.recv().await {
        let _ = tty::set_size(master.as_fd(), columns, rows);
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd)> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| Error::kernel("making a pipe")(e.into()))
}

fn sender(fd: OwnedFd) -> Result<pipe::Sender> {
    pipe::Sender::from_owned_fd(fd).map_err(Error::kernel("using a pipe"))
}

fn receiver(fd: OwnedFd) -> Result<pipe::Receiver> {
    pipe::Receiver::from_owned_fd(fd).map_err(Error::kernel("using a pipe"))
}
