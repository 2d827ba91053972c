//! A process between its creation and its program.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::report::{Received, Report, Step};
use super::{Wording, plain, with_errno};
use crate::LaunchError;
use crate::sys::process;

/// A process that is being started. The shim never waits for it: it asks for the
/// [`Launch::progress`] when [`Launch::reports`] is readable.
pub struct Launch {
    pub(super) reports: OwnedFd,
    /// The process that was cloned, until it is reaped.
    pub(super) child: Option<i32>,
    /// The process that executes the program: the same one or its sibling.
    pub(super) pid: Option<i32>,
    pub(super) gate: Option<OwnedFd>,
    pub(super) wording: Wording,
    /// The controlling side of its terminal.
    pub terminal: Option<OwnedFd>,
    /// Messages about what could not be granted and was left out.
    pub warnings: Vec<String>,
    pub(super) ended: bool,
}

/// The progress of a launch.
pub enum Progress {
    /// Nothing new.
    Waiting,
    /// The process is set up and waits for [`Launch::open`].
    Ready,
    /// It has executed its program.
    Executed,
    /// It never will.
    Failed(LaunchError),
}

impl Launch {
    /// The descriptor that becomes readable when there is progress; it does not block.
    pub fn reports(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// The process on the machine that executes the program, once that is known.
    pub fn pid(&self) -> Option<i32> {
        self.pid
    }

    /// Takes what the process has reported.
    pub fn progress(&mut self) -> Progress {
        loop {
            match Report::receive(&self.reports) {
                Received::Nothing => return Progress::Waiting,
                Received::Report(Report { step: Step::Ready, .. }) => return Progress::Ready,
                Received::Report(Report { step: Step::Pid, errno: pid, .. }) => {
                    self.pid = Some(pid);
                }
                Received::Report(report) => {
                    return Progress::Failed(report.explain(&self.wording));
                }
                Received::End if self.pid.is_some() && self.gate.is_none() => {
                    return Progress::Executed;
                }
                Received::End => {
                    return Progress::Failed(plain(
                        "the process ended before its program was executed",
                    ));
                }
            }
        }
    }

    /// Lets the process go on to its program.
    pub fn open(&mut self) -> Result<(), LaunchError> {
        let gate = self.gate.take().ok_or_else(|| plain("it does not wait"))?;
        nix::unistd::write(&gate, b"!")
            .map(drop)
            .map_err(|errno| with_errno("opening the gate", errno))
    }

    /// Takes note that a child of the shim was reaped: its process ID may be used again.
    pub fn reaped(&mut self, pid: i32) {
        if self.child == Some(pid) {
            self.child = None;
        }
        self.ended |= self.pid == Some(pid);
    }

    /// Kills the processes of this launch.
    pub fn kill(&self) {
        let pid = self.pid.filter(|_| !self.ended);
        for pid in self.child.into_iter().chain(pid) {
            let _ = process::send_signal(pid, libc::SIGKILL);
        }
    }
}
