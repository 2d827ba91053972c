//! A container as its shim holds it: its streams, its log, those attached to it.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::epoll::EpollFlags;

use super::log::{Log, Stream};
use super::poller::{Poller, Source, Token};
use crate::launch::Launch;
use crate::plan::Plan;
use crate::sandbox::Exit;

/// Output kept for the first client that attaches, in bytes.
const MAX_REPLAY_BYTES: usize = 64 << 10;

/// Output waiting for an attached client beyond which the container is made to wait, in bytes.
const MAX_PENDING_BYTES: usize = 64 << 10;

/// How long an attached client may take nothing before it is cut off.
pub const STALL_LIMIT: Duration = Duration::from_secs(10);

/// Read from a stream at once, in bytes.
pub const READ_BYTES: usize = 16 << 10;

/// A container.
pub struct Container {
    /// Its identifier.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// How it was started.
    pub plan: Plan,
    /// Where its records lie.
    pub records: PathBuf,
    /// Its log.
    pub log: Option<Log>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// Present while it waits before its program.
    pub gate: Option<Launch>,
    /// Its terminal's controlling side.
    pub terminal: Option<OwnedFd>,
    stdin_once: bool,
    /// Whether input is closed once all of it is written.
    closing: bool,
    outputs: [Option<Output>; 2],
    input: Option<Input>,
    replay: Option<Replay>,
    attached: Vec<Attached>,
}

struct Output {
    fd: OwnedFd,
    token: Token,
    paused: bool,
}

struct Input {
    fd: OwnedFd,
    token: Token,
    pending: Vec<u8>,
}

#[derive(Default)]
struct Replay {
    chunks: VecDeque<(Stream, Vec<u8>)>,
    bytes: usize,
}

/// One attached client.
#[derive(Default)]
struct Attached {
    input: Option<(OwnedFd, Token)>,
    outputs: [Option<Client>; 2],
}

struct Client {
    fd: OwnedFd,
    token: Token,
    pending: VecDeque<u8>,
    stalled_since: Option<Instant>,
}

/// What a container is made of besides its process.
pub struct Parts {
    /// Its identifier.
    pub id: String,
    /// Its first process.
    pub pid: i32,
    /// How it was started.
    pub plan: Plan,
    /// Where its records lie.
    pub records: PathBuf,
    /// Its log.
    pub log: Option<Log>,
    /// Present while it waits before its program.
    pub gate: Option<Launch>,
    /// Its terminal's controlling side.
    pub terminal: Option<OwnedFd>,
    /// Our ends of its output pipes.
    pub outputs: Vec<(Stream, OwnedFd)>,
    /// Our end of its input pipe.
    pub input: Option<OwnedFd>,
    /// Whether input closes after the first attach.
    pub stdin_once: bool,
    /// Whether output is kept for the first attach.
    pub replay: bool,
}

impl Container {
    /// Takes over a process that was started.
    pub fn new(parts: Parts, poller: &mut Poller) -> io::Result<Self> {
        let mut container = Self {
            id: parts.id,
            pid: parts.pid,
            plan: parts.plan,
            records: parts.records,
            log: parts.log,
            exit: None,
            gate: parts.gate,
            terminal: parts.terminal,
            stdin_once: parts.stdin_once,
            closing: false,
            outputs: [None, None],
            input: None,
            replay: parts.replay.then(Replay::default),
            attached: Vec::new(),
        };
        for (stream, fd) in parts.outputs {
            non_blocking(&fd)?;
            let source = Source::Output(container.id.clone(), stream);
            let token = poller.add(&fd, source, EpollFlags::EPOLLIN)?;
            container.outputs[stream as usize] = Some(Output { fd, token, paused: false });
        }
        if let Some(fd) = parts.input {
            non_blocking(&fd)?;
            let source = Source::Input(container.id.clone());
            let token = poller.add(&fd, source, EpollFlags::empty())?;
            container.input = Some(Input { fd, token, pending: Vec::new() });
        }
        Ok(container)
    }

    /// Reads output once; `false` when there was none.
    pub fn read_output(&mut self, stream: Stream, buffer: &mut [u8], poller: &mut Poller) -> bool {
        let Some(output) = &self.outputs[stream as usize] else { return false };
        match nix::unistd::read(&output.fd, buffer) {
            Ok(count) if count > 0 => {
                self.distribute(stream, &buffer[..count], poller);
                true
            }
            Err(Errno::EAGAIN) => false,
            Err(Errno::EINTR) => true,
            // The end; a terminal says EIO when the last process has closed its side.
            _ => {
                self.close_output(stream, poller);
                false
            }
        }
    }

    fn distribute(&mut self, stream: Stream, bytes: &[u8], poller: &mut Poller) {
        if let Some(log) = &mut self.log {
            log.append(stream, bytes, Timestamp::now());
        }
        if let Some(replay) = &mut self.replay {
            replay.push(stream, bytes);
        }
        for attached in &mut self.attached {
            if let Some(client) = &mut attached.outputs[stream as usize] {
                client.pending.extend(bytes);
            }
        }
        self.settle(poller);
    }

    fn close_output(&mut self, stream: Stream, poller: &mut Poller) {
        if let Some(output) = self.outputs[stream as usize].take() {
            poller.remove(&output.fd, output.token);
            if let Some(log) = &mut self.log {
                log.finish(stream, Timestamp::now());
            }
        }
        self.settle(poller);
    }

    /// Moves output on to the attached, and makes the container wait or go on as they keep up.
    pub fn settle(&mut self, poller: &mut Poller) {
        let mut full = [false, false];
        for attached in &mut self.attached {
            for (index, slot) in attached.outputs.iter_mut().enumerate() {
                let Some(client) = slot else { continue };
                let gone = client.write(poller).is_err();
                let finished = self.outputs[index].is_none() && client.pending.is_empty();
                if gone || finished {
                    poller.remove(&client.fd, client.token);
                    *slot = None;
                } else {
                    full[index] |= client.pending.len() > MAX_PENDING_BYTES;
                }
            }
        }
        for (slot, full) in self.outputs.iter_mut().zip(full) {
            let Some(output) = slot else { continue };
            if output.paused != full {
                output.paused = full;
                let flags = if full { EpollFlags::empty() } else { EpollFlags::EPOLLIN };
                poller.change(&output.fd, output.token, flags);
            }
        }
        self.drop_detached(poller);
    }

    /// Forgets clients that have closed their output; their input ends with it.
    fn drop_detached(&mut self, poller: &mut Poller) {
        let mut had_input = false;
        self.attached.retain_mut(|attached| {
            if attached.outputs.iter().any(Option::is_some) {
                return true;
            }
            if let Some((fd, token)) = attached.input.take() {
                poller.remove(&fd, token);
                had_input = true;
            }
            false
        });
        if had_input {
            self.input_ended(poller);
        }
    }

    /// Cuts off clients that take nothing; returns whether any is stalled.
    pub fn cut_stalled(&mut self, now: Instant, poller: &mut Poller) -> bool {
        let mut stalled = false;
        let mut cut = false;
        for attached in &mut self.attached {
            for slot in &mut attached.outputs {
                let Some(client) = slot else { continue };
                let Some(since) = client.stalled_since else { continue };
                if now.duration_since(since) > STALL_LIMIT {
                    poller.remove(&client.fd, client.token);
                    *slot = None;
                    cut = true;
                } else {
                    stalled = true;
                }
            }
        }
        if cut {
            self.settle(poller);
        }
        stalled
    }

    /// Attaches a client.
    pub fn attach(
        &mut self,
        input: Option<OwnedFd>,
        outputs: Vec<OwnedFd>,
        poller: &mut Poller,
    ) -> io::Result<()> {
        let mut attached = Attached::default();
        if let Some(fd) = input.filter(|_| self.input.is_some() || self.terminal.is_some()) {
            non_blocking(&fd)?;
            let source = Source::AttachInput(self.id.clone());
            let token = poller.add(&fd, source, EpollFlags::EPOLLIN)?;
            attached.input = Some((fd, token));
        }
        for (slot, fd) in attached.outputs.iter_mut().zip(outputs) {
            non_blocking(&fd)?;
            let source = Source::AttachOutput(self.id.clone());
            let token = poller.add(&fd, source, EpollFlags::empty())?;
            *slot = Some(Client { fd, token, pending: VecDeque::new(), stalled_since: None });
        }
        if let Some(replay) = self.replay.take() {
            for (stream, chunk) in replay.chunks {
                if let Some(client) = &mut attached.outputs[stream as usize] {
                    client.pending.extend(chunk);
                }
            }
        }
        self.attached.push(attached);
        self.settle(poller);
        Ok(())
    }

    /// Passes input of attached clients on, as far as the container takes it.
    pub fn pump_input(&mut self, buffer: &mut [u8], poller: &mut Poller) {
        self.write_input(poller);
        let mut ended = false;
        for index in 0..self.attached.len() {
            loop {
                let blocked = self.input.as_ref().is_some_and(|input| !input.pending.is_empty());
                let Some((fd, token)) = &self.attached[index].input else { break };
                if blocked {
                    poller.change(fd, *token, EpollFlags::empty());
                    break;
                }
                match nix::unistd::read(fd, buffer) {
                    Ok(count) if count > 0 => {
                        if let Some(input) = &mut self.input {
                            input.pending.extend_from_slice(&buffer[..count]);
                        }
                        self.write_input(poller);
                    }
                    Err(Errno::EAGAIN) => {
                        poller.change(fd, *token, EpollFlags::EPOLLIN);
                        break;
                    }
                    Err(Errno::EINTR) => {}
                    _ => {
                        poller.remove(fd, *token);
                        self.attached[index].input = None;
                        ended = true;
                        break;
                    }
                }
            }
        }
        if ended {
            self.input_ended(poller);
        }
    }

    fn write_input(&mut self, poller: &mut Poller) {
        let Some(input) = &mut self.input else { return };
        while !input.pending.is_empty() {
            match nix::unistd::write(&input.fd, &input.pending) {
                Ok(count) => drop(input.pending.drain(..count)),
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    poller.change(&input.fd, input.token, EpollFlags::EPOLLOUT);
                    return;
                }
                // The container has closed its input.
                Err(_) => {
                    input.pending.clear();
                    self.close_input(poller);
                    return;
                }
            }
        }
        poller.change(&input.fd, input.token, EpollFlags::empty());
        if self.closing {
            self.close_input(poller);
        }
    }

    fn input_ended(&mut self, poller: &mut Poller) {
        // A terminal has no end of input that its first client could cause by leaving.
        if self.stdin_once && self.terminal.is_none() {
            self.closing = true;
            self.write_input(poller);
        }
    }

    /// Closes the container's input.
    pub fn close_input(&mut self, poller: &mut Poller) {
        if let Some(input) = self.input.take() {
            poller.remove(&input.fd, input.token);
        }
    }

    /// Takes what is left of the output of a container that has ended, and closes its streams.
    pub fn drain(&mut self, buffer: &mut [u8], poller: &mut Poller) {
        /// Pipes hold 64 KiB, unless enlarged: this is more than they can.
        const MAX_READS: usize = 256;
        for stream in [Stream::Stdout, Stream::Stderr] {
            for _ in 0..MAX_READS {
                if !self.read_output(stream, buffer, poller) {
                    break;
                }
            }
            self.close_output(stream, poller);
        }
        self.close_input(poller);
        self.terminal = None;
        for attached in &mut self.attached {
            if let Some((fd, token)) = attached.input.take() {
                poller.remove(&fd, token);
            }
        }
        self.settle(poller);
    }

    /// Lets go of everything that is waited for.
    pub fn release(&mut self, poller: &mut Poller) {
        for output in self.outputs.iter_mut().filter_map(Option::take) {
            poller.remove(&output.fd, output.token);
        }
        self.close_input(poller);
        for attached in self.attached.drain(..) {
            if let Some((fd, token)) = attached.input {
                poller.remove(&fd, token);
            }
            for client in attached.outputs.into_iter().flatten() {
                poller.remove(&client.fd, client.token);
            }
        }
    }
}

impl Replay {
    fn push(&mut self, stream: Stream, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.chunks.push_back((stream, bytes.to_vec()));
        while self.bytes > MAX_REPLAY_BYTES {
            let Some((_, oldest)) = self.chunks.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

impl Client {
    /// Writes what waits; an error when the client has gone.
    fn write(&mut self, poller: &Poller) -> nix::Result<()> {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            match nix::unistd::write(&self.fd, front) {
                Ok(count) => {
                    self.pending.drain(..count);
                    self.stalled_since = None;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => {
                    self.stalled_since.get_or_insert_with(Instant::now);
                    poller.change(&self.fd, self.token, EpollFlags::EPOLLOUT);
                    return Ok(());
                }
                Err(errno) => return Err(errno),
            }
        }
        self.stalled_since = None;
        self.pending.shrink_to(0);
        poller.change(&self.fd, self.token, EpollFlags::empty());
        Ok(())
    }

    /// Whether the other end was closed.
    fn is_gone(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|count| count > 0)
    }
}

impl Container {
    /// Drops the outputs of clients that have gone; called when one reports an error.
    pub fn check_clients(&mut self, poller: &mut Poller) {
        for slot in self.attached.iter_mut().flat_map(|attached| &mut attached.outputs) {
            if let Some(client) = slot
                && client.is_gone()
            {
                poller.remove(&client.fd, client.token);
                *slot = None;
            }
        }
        self.settle(poller);
    }
}

fn non_blocking(fd: &OwnedFd) -> nix::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).map(drop)
}
