//! Processes that are being started. Nothing here waits: whatever a container does to a process
//! before its program (stop it, freeze it, take its CPU time), the shim goes on.

use std::collections::HashMap;
use std::fs;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::epoll::EpollFlags;

use super::container::{Container, Parts};
use super::log::{Log, Stream};
use super::poller::{Source, Token};
use super::{Ended, Shim};
use crate::launch::{Launch, Progress};
use crate::protocol::{Answer, Failure, LAUNCH_TIMEOUT_MS, Message, Start, StartedRecord};
use crate::records::{self, Durability};
use crate::sys::memory;
use crate::{LaunchError, LaunchErrorKind};

/// Ended processes that are kept because one of them may be that of a launch.
const MAX_STRAYS: usize = 1024;

/// The connection and the request that are answered when a process is started.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    pub token: Token,
    pub request: u64,
}

/// The purpose of a process.
pub(super) enum Purpose {
    /// The first process of a container.
    Container(Box<Prospect>),
    /// The same, which has waited at its gate since it was created.
    Release,
    /// An additional process, with its name.
    Exec(u64),
}

/// A container without a process so far.
pub(super) struct Prospect {
    pub start: Start,
    pub log: Option<Log>,
    pub outputs: Vec<(Stream, OwnedFd)>,
    pub input: Option<OwnedFd>,
}

struct Pending {
    launch: Launch,
    container: String,
    purpose: Purpose,
    asker: Asker,
    token: Token,
    deadline: Instant,
}

/// All launches that are under way.
#[derive(Default)]
pub(super) struct Launches {
    pending: HashMap<u64, Pending>,
    next: u64,
    /// Processes that ended before it was known whether they belong to a launch.
    strays: HashMap<i32, Ended>,
}

impl Launches {
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Returns whether a container of this name is being started.
    pub fn starts(&self, container: &str) -> bool {
        self.pending.values().any(|pending| {
            pending.container == container && matches!(pending.purpose, Purpose::Container(_))
        })
    }

    /// Kills what is being started in a container; in every one without a name.
    pub fn kill(&self, container: Option<&str>) {
        for pending in self.pending.values() {
            if container.is_none_or(|name| name == pending.container) {
                pending.launch.kill();
            }
        }
    }

    /// Kills an additional process that is being started.
    pub fn kill_exec(&self, exec: u64, token: Token) {
        for pending in self.pending.values() {
            if matches!(pending.purpose, Purpose::Exec(name) if name == exec)
                && pending.asker.token == token
            {
                pending.launch.kill();
            }
        }
    }

    /// Takes note of a child that was reaped and that nothing else is known of.
    pub fn stray(&mut self, ended: Ended) {
        for pending in self.pending.values_mut() {
            pending.launch.reaped(ended.pid);
        }
        if !self.pending.is_empty() && self.strays.len() < MAX_STRAYS {
            self.strays.insert(ended.pid, ended);
        }
    }

    fn take_stray(&mut self, pid: i32) -> Option<Ended> {
        let stray = self.strays.remove(&pid);
        if self.pending.is_empty() {
            self.strays.clear();
        }
        stray
    }
}

impl Shim {
    /// Follows a launch until the process runs its program; the request is answered then.
    pub(super) fn follow(
        &mut self,
        launch: Launch,
        container: String,
        purpose: Purpose,
        asker: Asker,
    ) -> Result<(), Failure> {
        let id = self.launches.next;
        self.launches.next += 1;
        let token = self
            .poller
            .add(launch.reports(), Source::Launch(id), EpollFlags::EPOLLIN)
            .inspect_err(|_| launch.kill())
            .map_err(|e| Failure::refused("epoll", &e.into()))?;
        let deadline = Instant::now() + Duration::from_millis(LAUNCH_TIMEOUT_MS);
        let pending = Pending { launch, container, purpose, asker, token, deadline };
        self.launches.pending.insert(id, pending);
        Ok(())
    }

    /// Goes on with a launch that has something to report.
    pub(super) fn advance(&mut self, id: u64) {
        let Some(pending) = self.launches.pending.get_mut(&id) else { return };
        match pending.launch.progress() {
            Progress::Waiting => {}
            Progress::Ready => self.ready(id),
            Progress::Executed => {
                if let Some(pending) = self.take(id) {
                    self.executed(pending);
                }
            }
            Progress::Failed(error) => self.failed(id, Failure::Launch(error)),
        }
    }

    /// Gives up launches that take too long.
    pub(super) fn expire(&mut self, now: Instant) {
        let late: Vec<u64> = self
            .launches
            .pending
            .iter()
            .filter(|(_, pending)| now >= pending.deadline)
            .map(|(id, _)| *id)
            .collect();
        for id in late {
            if let Some(pending) = self.launches.pending.get(&id) {
                pending.launch.kill();
            }
            let seconds = LAUNCH_TIMEOUT_MS / 1000;
            let error = LaunchError {
                kind: LaunchErrorKind::Other,
                message: format!(
                    "unable to start container process: its program was not executed within \
                     {seconds} seconds"
                ),
                errno: libc::ETIMEDOUT,
            };
            self.failed(id, Failure::Launch(error));
        }
    }

    fn take(&mut self, id: u64) -> Option<Pending> {
        let pending = self.launches.pending.remove(&id)?;
        self.poller.remove(pending.launch.reports(), pending.token);
        Some(pending)
    }

    /// The process is set up and waits at its gate.
    fn ready(&mut self, id: u64) {
        let Some(pending) = self.launches.pending.get_mut(&id) else { return };
        let Purpose::Container(prospect) = &pending.purpose else { return };
        let pid = pending.launch.pid().unwrap_or(0);
        // Whatever becomes of this shim, a program that may have run has its record.
        let record = StartedRecord {
            pid: pid as u32,
            start_ticks: records::start_ticks(pid as u32).unwrap_or(0),
            started_at: SystemTime::now(),
            boot_id: records::boot_id(),
        };
        let path = prospect.start.records.join(records::STARTED);
        let _ = records::write(&path, &record, Durability::Cached);
        if !prospect.start.gated {
            if let Err(error) = pending.launch.open() {
                self.failed(id, Failure::Launch(error));
            }
        } else if let Some(pending) = self.take(id) {
            self.executed(pending);
        }
    }

    fn failed(&mut self, id: u64, failure: Failure) {
        let Some(pending) = self.take(id) else { return };
        if let Purpose::Container(prospect) = &pending.purpose {
            let _ = fs::remove_file(prospect.start.records.join(records::STARTED));
        }
        if let Some(pid) = pending.launch.pid() {
            self.launches.take_stray(pid);
        }
        self.reply(pending.asker, Err(failure), Vec::new());
    }

    fn executed(&mut self, mut pending: Pending) {
        let asker = pending.asker;
        let pid = pending.launch.pid().unwrap_or(0);
        let warnings = std::mem::take(&mut pending.launch.warnings);
        let started = Answer::Started { pid: pid as u32, warnings };
        let ended = self.launches.take_stray(pid);
        match pending.purpose {
            Purpose::Release => self.reply(asker, Ok(Answer::Done), Vec::new()),
            Purpose::Exec(exec) => {
                let sent = pending.launch.terminal.take().into_iter().collect();
                self.execs.insert(pid, (exec, asker.token));
                self.reply(asker, Ok(started), sent);
            }
            Purpose::Container(prospect) => match self.contain(pid, pending.launch, *prospect) {
                Ok(sent) => self.reply(asker, Ok(started), sent),
                Err(failure) => {
                    let _ = crate::sys::process::send_signal(pid, libc::SIGKILL);
                    self.reply(asker, Err(failure), Vec::new());
                }
            },
        }
        memory::trim();
        if let Some(ended) = ended {
            self.child_ended(ended);
        }
    }

    /// Takes a container into the care of the shim; returns the terminal for who asked.
    fn contain(
        &mut self,
        pid: i32,
        mut launch: Launch,
        prospect: Prospect,
    ) -> Result<Vec<OwnedFd>, Failure> {
        let Prospect { start, log, mut outputs, mut input } = prospect;
        let mut sent = Vec::new();
        let mut kept = None;
        if let Some(master) = launch.terminal.take() {
            let copy = |fd: &OwnedFd| {
                fd.try_clone().map_err(|e| Failure::refused("duplicating a terminal", &e))
            };
            if start.inherit_streams {
                sent.push(master);
            } else {
                outputs.push((Stream::Stdout, copy(&master)?));
                input = Some(copy(&master)?);
                kept = Some(master);
            }
        }
        let replay = start.stdin || start.plan.process.terminal;
        let parts = Parts {
            id: start.container.clone(),
            pid,
            plan: start.plan,
            records: start.records,
            log,
            gate: start.gated.then_some(launch),
            terminal: kept,
            outputs,
            input,
            stdin_once: start.stdin_once,
            replay,
        };
        let container =
            Container::new(parts, &mut self.poller).map_err(|e| Failure::refused("epoll", &e))?;
        self.containers.insert(start.container, container);
        Ok(sent)
    }

    fn reply(&mut self, asker: Asker, result: Result<Answer, Failure>, sent: Vec<OwnedFd>) {
        let message = Message::Reply { id: asker.request, result };
        self.send(asker.token, &message, sent);
    }
}
