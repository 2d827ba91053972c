//! epoll with a meaning for every descriptor.

use std::collections::HashMap;
use std::os::fd::AsFd;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::log::Stream;

/// What a ready descriptor stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A new connection.
    Listener,
    /// A child ended.
    Signals,
    /// A request, or room for a reply.
    Connection,
    /// Output of a container.
    Output(String, Stream),
    /// Room for a container's input.
    Input(String),
    /// Input from an attached client.
    AttachInput(String),
    /// Room for output to an attached client, or its end.
    AttachOutput(String),
    /// A report of a process that is being started.
    Launch(u64),
}

/// Names a registration.
pub type Token = u64;

/// The descriptors waited for.
pub struct Poller {
    epoll: Epoll,
    sources: HashMap<Token, Source>,
    next: Token,
}

impl Poller {
    /// An empty one.
    pub fn new() -> nix::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        Ok(Self { epoll, sources: HashMap::new(), next: 1 })
    }

    /// Waits for a descriptor.
    pub fn add(&mut self, fd: impl AsFd, source: Source, flags: EpollFlags) -> nix::Result<Token> {
        let token = self.next;
        self.epoll.add(fd, EpollEvent::new(flags, token))?;
        self.next += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Changes what is waited for.
    pub fn change(&self, fd: impl AsFd, token: Token, flags: EpollFlags) {
        let _ = self.epoll.modify(fd, &mut EpollEvent::new(flags, token));
    }

    /// Waits no more; to be called before the descriptor is closed.
    pub fn remove(&mut self, fd: impl AsFd, token: Token) {
        let _ = self.epoll.delete(fd);
        self.sources.remove(&token);
    }

    /// What a token stands for, if it is still waited for.
    pub fn source(&self, token: Token) -> Option<Source> {
        self.sources.get(&token).cloned()
    }

    /// Waits until something is ready.
    pub fn wait(&self, events: &mut [EpollEvent], timeout: EpollTimeout) -> nix::Result<usize> {
        self.epoll.wait(events, timeout)
    }
}
