//! Runs a process under ptrace: its changes of a directory are recorded, and chosen steps fail.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::faults::{Plan, Verdict};
use crate::model::{Model, Rules};
use crate::recording::{Change, Log};
use crate::syscalls::{Action, Decoder, Request};

/// Values of `ptrace_syscall_info.op`.
const ENTRY: u8 = 1;
const EXIT: u8 = 2;

/// A traced process.
pub struct Traced {
    pub pid: Pid,
    thread: JoinHandle<()>,
    ended: Receiver<WaitStatus>,
}

/// The purpose of a trace.
#[derive(Clone)]
pub struct Purpose {
    /// The directory whose changes are recorded.
    pub directory: PathBuf,
    pub log: Arc<Log>,
    pub plan: Arc<Plan>,
    /// Decides about the losses of failed syncs.
    pub seed: u64,
}

/// Starts a command; it is traced from its first instruction on.
pub fn spawn(command: &Command, purpose: Purpose) -> Traced {
    let mut stopped = Command::new("sh");
    stopped.args(["-c", "kill -STOP $$; exec \"$@\"", "sh"]);
    stopped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            stopped.env(name, value);
        }
    }
    let (started, start) = channel();
    let (end, ended) = channel();
    let log_file = purpose.directory.with_file_name("log");
    let thread = std::thread::spawn(move || {
        let log = std::fs::File::options().create(true).append(true).open(log_file).unwrap();
        stopped.stdin(std::process::Stdio::null());
        stopped.stdout(log.try_clone().unwrap()).stderr(log);
        // Its end is awaited by the tracer, not through the handle.
        let pid = Pid::from_raw(stopped.spawn().unwrap().id() as i32);
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).unwrap();
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEEXEC
            | Options::PTRACE_O_EXITKILL;
        ptrace::seize(pid, options).unwrap();
        kill(pid, Signal::SIGCONT).unwrap();
        started.send(pid).unwrap();
        let _ = end.send(Tracer { leader: pid, purpose, calls: HashMap::new() }.run());
    });
    Traced { pid: start.recv().unwrap(), thread, ended }
}

impl Traced {
    /// Returns the status with which the process ended, once it has.
    pub fn try_wait(&self) -> Option<WaitStatus> {
        self.ended.try_recv().ok()
    }

    /// Kills the process at once.
    pub fn kill(self) {
        let _ = kill(self.pid, Signal::SIGKILL);
        self.thread.join().unwrap();
    }
}

/// A system call that is being made.
struct Call {
    request: Request,
    /// The error that replaces the result.
    error: Option<Errno>,
    /// The length that the process passed, if another one was put in its place.
    length: Option<u64>,
}

struct Tracer {
    leader: Pid,
    purpose: Purpose,
    calls: HashMap<Pid, Call>,
}

impl Tracer {
    /// Serves the process until its end.
    fn run(mut self) -> WaitStatus {
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD;
        let mut end = WaitStatus::Exited(self.leader, -1);
        loop {
            let (pid, signal) = match waitpid(None, Some(flags)) {
                Ok(WaitStatus::PtraceSyscall(pid)) => {
                    // A thread that was killed in between is reported by the next wait.
                    let _ = self.system_call(pid);
                    (pid, None)
                }
                Ok(WaitStatus::PtraceEvent(pid, ..)) => (pid, None),
                Ok(WaitStatus::Stopped(pid, signal)) => (pid, Some(signal)),
                Ok(status @ (WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..))) => {
                    self.calls.remove(&pid);
                    if pid == self.leader {
                        end = status;
                    }
                    continue;
                }
                Ok(_) | Err(Errno::EINTR) => continue,
                Err(_) => return end,
            };
            let _ = ptrace::syscall(pid, signal);
        }
    }

    fn system_call(&mut self, pid: Pid) -> nix::Result<()> {
        match ptrace::syscall_info(pid)?.op {
            ENTRY => self.enter(pid),
            EXIT => self.exit(pid),
            _ => Ok(()),
        }
    }

    fn enter(&mut self, pid: Pid) -> nix::Result<()> {
        let mut regs = ptrace::getregs(pid)?;
        let Purpose { directory, log, plan, .. } = &self.purpose;
        let Some(request) = (Decoder { directory, log }).enter(pid, &regs) else { return Ok(()) };
        let mut call = Call { request, error: None, length: None };
        match plan.next(&call.request.action) {
            Verdict::Pass => {}
            Verdict::Fail(errno) => {
                // No system call has this number, so that the kernel does nothing.
                regs.orig_rax = u64::MAX;
                ptrace::setregs(pid, regs)?;
                call.error = Some(errno);
            }
            Verdict::Half => {
                call.length = Some(regs.rdx);
                // The vectors of `writev` are left whole but for their number.
                regs.rdx = (regs.rdx / 2).max(1);
                ptrace::setregs(pid, regs)?;
            }
            Verdict::Kill => {
                let _ = kill(self.leader, Signal::SIGKILL);
                return Ok(());
            }
        }
        self.calls.insert(pid, call);
        Ok(())
    }

    fn exit(&mut self, pid: Pid) -> nix::Result<()> {
        let Some(Call { request, error, length }) = self.calls.remove(&pid) else { return Ok(()) };
        let mut regs = ptrace::getregs(pid)?;
        if let Some(errno) = error {
            regs.rax = -(errno as i64) as u64;
        }
        if let Some(length) = length {
            regs.rdx = length;
        }
        if error.is_some() || length.is_some() {
            ptrace::setregs(pid, regs)?;
        }
        let Purpose { directory, log, .. } = &self.purpose;
        // Opening a file that is there changes nothing and happens often.
        let idle = matches!(&request.action, Action::Open { existed: true, flags, .. }
            if flags & libc::O_TRUNC == 0);
        if idle {
            return Ok(());
        }
        let dropped = match &request.action {
            Action::Change(Change::DropCache(path)) => Some(path.clone()),
            _ => None,
        };
        (Decoder { directory, log }).exit(pid, request, regs.rax as i64);
        if let Some(path) = dropped {
            self.drop_cache(&path);
        }
        Ok(())
    }

    /// Puts the contents that the model has on the disk into a file whose cached pages were dropped.
    /// The file system under the recording has written everything; one that fails would not have.
    fn drop_cache(&self, path: &Path) {
        let Purpose { directory, log, seed, .. } = &self.purpose;
        let (Some(events), Some(root)) = (log.after_failed_sync(), directory.parent()) else {
            return;
        };
        let mut model = Model::new(Rules::Strict, root, *seed);
        events.iter().enumerate().for_each(|(at, event)| model.apply(at, event));
        if let Some(bytes) = model.cached(path)
            && std::fs::read(path).unwrap() != bytes
        {
            let file = std::fs::File::options().write(true).open(path).unwrap();
            file.write_all_at(bytes, 0).unwrap();
        }
    }
}
