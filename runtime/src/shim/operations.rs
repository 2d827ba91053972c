//! What a shim does when it is asked to.

use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::container::Container;
use super::launches::{Asker, Prospect, Purpose};
use super::log::{Log, Stream};
use super::{Shim, kill_group};
use crate::LaunchError;
use crate::launch::{self, Inside, Stdio};
use crate::plan::ProcessPlan;
use crate::protocol::{Answer, Failure, Operation, Refusal, Running, Start, VERSION};
use crate::sys::{memory, tty};

/// The answer, or `None` where it comes when a process was started.
type Outcome = Result<Option<(Answer, Vec<OwnedFd>)>, Failure>;

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        Self::Launch(error)
    }
}

impl Shim {
    pub(super) fn perform(
        &mut self,
        asker: Asker,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Outcome {
        let done = Ok(Some((Answer::Done, Vec::new())));
        match operation {
            Operation::Setup(setup) => {
                self.set_up(&setup).inspect_err(|_| self.done = true)?;
                ready()
            }
            Operation::Hello => ready(),
            Operation::Start(start) => self.start_container(asker, *start, descriptors),
            Operation::Release { container } => {
                let mut launch = self
                    .find(&container)?
                    .gate
                    .take()
                    .ok_or_else(|| Failure::State("is not waiting".to_owned()))?;
                launch.open()?;
                self.follow(launch, container, Purpose::Release, asker)?;
                Ok(None)
            }
            Operation::Signal { container, signal } => {
                if signal == libc::SIGKILL {
                    self.launches.kill(Some(&container));
                }
                let container = self.find(&container)?;
                if container.exit.is_none() {
                    send_signal(container.pid, signal)?;
                }
                done
            }
            Operation::Status => {
                let list = self.containers.values().map(|container| Running {
                    container: container.id.clone(),
                    pid: container.pid as u32,
                    exit: container.exit.clone(),
                });
                Ok(Some((Answer::Status(list.collect()), Vec::new())))
            }
            Operation::Exec { container, exec, process } => {
                self.start_exec(asker, container, exec, &process, descriptors)
            }
            Operation::SignalExec { exec, signal } => {
                let found = self.execs.iter().find(|(_, owner)| **owner == (exec, asker.token));
                if let Some((pid, _)) = found {
                    send_signal(*pid, signal)?;
                } else if signal == libc::SIGKILL {
                    self.launches.kill_exec(exec, asker.token);
                }
                done
            }
            Operation::Attach { container, stdin } => self.attach(&container, stdin, descriptors),
            Operation::Resize { container, columns, rows } => {
                let container = self.find(&container)?;
                if let Some(terminal) = &container.terminal {
                    use std::os::fd::AsFd;
                    tty::set_size(terminal.as_fd(), columns, rows)
                        .map_err(|e| Failure::refused("resizing", &e.into()))?;
                }
                done
            }
            Operation::Remove { container } => {
                self.launches.kill(Some(&container));
                if let Some(mut container) = self.containers.remove(&container) {
                    if container.exit.is_none() {
                        let _ = send_signal(container.pid, libc::SIGKILL);
                    }
                    kill_group(&container);
                    container.release(&mut self.poller);
                }
                memory::trim();
                done
            }
            Operation::Shutdown => {
                self.kill_everything();
                self.done = true;
                done
            }
        }
    }

    pub(super) fn kill_everything(&self) {
        self.launches.kill(None);
        for container in self.containers.values() {
            if container.exit.is_none() {
                let _ = send_signal(container.pid, libc::SIGKILL);
            }
            kill_group(container);
        }
        if let Some((pid, _)) = &self.init {
            let _ = send_signal(*pid, libc::SIGKILL);
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut Container, Failure> {
        self.containers.get_mut(id).ok_or_else(|| Failure::NotFound(id.to_owned()))
    }

    fn start_container(
        &mut self,
        asker: Asker,
        start: Start,
        descriptors: Vec<OwnedFd>,
    ) -> Outcome {
        if self.containers.contains_key(&start.container) || self.launches.starts(&start.container)
        {
            return Err(Failure::State("started already".to_owned()));
        }
        let mut outputs = Vec::new();
        let mut input = None;
        let stdio = if start.plan.process.terminal {
            Stdio::Terminal
        } else if start.inherit_streams {
            Stdio::Streams(three(descriptors)?)
        } else {
            let theirs_in = if start.stdin {
                let (read, write) = pipe()?;
                input = Some(write);
                read
            } else {
                launch::null().map_err(|e| Failure::refused("opening /dev/null", &e))?.into()
            };
            let (out_read, out_write) = pipe()?;
            let (err_read, err_write) = pipe()?;
            outputs.push((Stream::Stdout, out_read));
            outputs.push((Stream::Stderr, err_read));
            Stdio::Streams([theirs_in, out_write, err_write])
        };
        let log = start
            .log
            .clone()
            .map(Log::open)
            .transpose()
            .map_err(|e| Failure::refused("opening the log", &e))?;
        let sandbox_pid = self.init.as_ref().map(|(_, namespace)| namespace);
        let launch = launch::container(&start.plan, stdio, sandbox_pid)?;
        let container = start.container.clone();
        let prospect = Prospect { start, log, outputs, input };
        self.follow(launch, container, Purpose::Container(Box::new(prospect)), asker)?;
        Ok(None)
    }

    fn start_exec(
        &mut self,
        asker: Asker,
        id: String,
        exec: u64,
        process: &ProcessPlan,
        descriptors: Vec<OwnedFd>,
    ) -> Outcome {
        let container = self.find(&id)?;
        if container.exit.is_some() {
            return Err(Failure::State("not running".to_owned()));
        }
        let stdio =
            if process.terminal { Stdio::Terminal } else { Stdio::Streams(three(descriptors)?) };
        let inside = Inside { pid: container.pid, plan: &container.plan };
        let launch = launch::exec(&inside, process, stdio)?;
        self.follow(launch, id, Purpose::Exec(exec), asker)?;
        Ok(None)
    }

    fn attach(&mut self, id: &str, stdin: bool, mut descriptors: Vec<OwnedFd>) -> Outcome {
        let container =
            self.containers.get_mut(id).ok_or_else(|| Failure::NotFound(id.to_owned()))?;
        let terminal = container.plan.process.terminal;
        let wanted = usize::from(stdin) + if terminal { 1 } else { 2 };
        if descriptors.len() < wanted {
            return Err(refused("too few descriptors"));
        }
        let input = stdin.then(|| descriptors.remove(0));
        descriptors.truncate(if terminal { 1 } else { 2 });
        container
            .attach(input, descriptors, &mut self.poller)
            .map_err(|e| Failure::refused("attaching", &e))?;
        Ok(Some((Answer::Attached { terminal }, Vec::new())))
    }
}

fn ready() -> Outcome {
    Ok(Some((Answer::Ready { version: VERSION, pid: std::process::id() }, Vec::new())))
}

fn three(descriptors: Vec<OwnedFd>) -> Result<[OwnedFd; 3], Failure> {
    descriptors.try_into().map_err(|_| refused("three descriptors are needed"))
}

fn refused(message: &str) -> Failure {
    Failure::Refused(Refusal { message: message.to_owned(), errno: 0 })
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    nix::unistd::pipe2(OFlag::O_CLOEXEC).map_err(|e| Failure::refused("pipe", &e.into()))
}

/// Our child is not reaped before we know of its end, so its process ID cannot name another.
fn send_signal(pid: i32, signal: i32) -> Result<(), Failure> {
    let result = match Signal::try_from(signal) {
        Ok(signal) => kill(Pid::from_raw(pid), signal),
        Err(_) => crate::sys::process::send_signal(pid, signal),
    };
    match result {
        Ok(()) | Err(nix::errno::Errno::ESRCH) => Ok(()),
        Err(errno) => Err(Failure::refused("kill", &errno.into())),
    }
}
