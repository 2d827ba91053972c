//! Forwards queries to the machine's resolvers: cached, each question asked once at a time.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::cache::Cache;
use crate::name::Name;
use crate::resolvers::Resolvers;
use crate::wire::{Query, Question, Response, kind, read_response};

/// Wait for one resolver before the next is tried.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Questions under way at once; more wait.
const MAX_UNDER_WAY: usize = 256;

/// An answer of a resolver.
#[derive(Debug)]
pub struct Answer {
    /// The message; its id is arbitrary.
    pub bytes: Vec<u8>,
    /// What it says.
    pub response: Response,
}

type Pending = Shared<BoxFuture<'static, Option<Arc<Answer>>>>;

/// The way to the machine's resolvers.
#[derive(Debug)]
pub struct Upstream {
    resolvers: Mutex<Resolvers>,
    cache: Mutex<Cache>,
    /// Equal questions share one forwarded query. This also ends forwarding loops: a question
    /// that comes back to us waits for itself and times out, once.
    under_way: Mutex<HashMap<Question, Pending>>,
    slots: Semaphore,
}

impl Upstream {
    /// Forwards to these resolvers.
    pub fn new(resolvers: Resolvers) -> Self {
        Self {
            resolvers: Mutex::new(resolvers),
            cache: Mutex::default(),
            under_way: Mutex::default(),
            slots: Semaphore::new(MAX_UNDER_WAY),
        }
    }

    /// A remembered answer to the query, ready to be sent.
    pub fn remembered(&self, query: &Query<'_>) -> Option<Vec<u8>> {
        lock(&self.cache).get(&Question::of(query), Instant::now())
    }

    /// Forwards a client's question; `None` when no resolver answered.
    pub async fn forward(self: &Arc<Self>, query: &Query<'_>) -> Option<Arc<Answer>> {
        self.ask(Question::of(query)).await
    }

    /// Asks for records of a name; `None` when no resolver answered.
    pub async fn resolve(self: &Arc<Self>, name: &Name, kind: u16) -> Option<Arc<Answer>> {
        let question = Question::about(name, kind);
        let cached = lock(&self.cache).get(&question, Instant::now());
        if let Some(bytes) = cached
            && let Some(response) = read_response(&bytes, id_of(&bytes), &question.wire)
        {
            return Some(Arc::new(Answer { bytes, response }));
        }
        self.ask(question).await
    }

    async fn ask(self: &Arc<Self>, question: Question) -> Option<Arc<Answer>> {
        let pending = {
            let mut under_way = lock(&self.under_way);
            let existing = under_way.get(&question).cloned();
            existing.unwrap_or_else(|| {
                let entry = UnderWay { upstream: Arc::clone(self), question: question.clone() };
                let work = async move {
                    let UnderWay { upstream, question } = &entry;
                    let answer = upstream.ask_resolvers(question).await.map(Arc::new);
                    if let Some(answer) = &answer {
                        let (key, now) = (question.clone(), Instant::now());
                        lock(&upstream.cache).put(key, &answer.bytes, &answer.response, now);
                    }
                    answer
                };
                let pending = work.boxed().shared();
                under_way.insert(question, pending.clone());
                // It comes to its end even when every client gives up.
                tokio::spawn(pending.clone());
                pending
            })
        };
        pending.await
    }

    async fn ask_resolvers(&self, question: &Question) -> Option<Answer> {
        let _slot = self.slots.acquire().await.ok()?;
        let resolvers = lock(&self.resolvers).current(Instant::now());
        let mut failure = None;
        for resolver in resolvers {
            match timeout(RESOLVER_TIMEOUT, ask_one(resolver, question)).await {
                Ok(Ok(answer)) if is_failure(&answer.response) => failure = Some(answer),
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%resolver, %error, "resolver failed"),
                Err(_) => tracing::debug!(%resolver, "resolver did not answer in time"),
            }
        }
        failure
    }
}

/// A question that resolvers are asked; dropped, also by a panic, it can be asked again.
struct UnderWay {
    upstream: Arc<Upstream>,
    question: Question,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        lock(&self.upstream.under_way).remove(&self.question);
    }
}

/// The resolver could not answer; another one may.
fn is_failure(response: &Response) -> bool {
    const SERVFAIL: u16 = 2;
    const REFUSED: u16 = 5;
    matches!(response.code, SERVFAIL | REFUSED)
}

async fn ask_one(resolver: SocketAddr, question: &Question) -> io::Result<Answer> {
    let any: SocketAddr = if resolver.is_ipv6() {
        (Ipv6Addr::UNSPECIFIED, 0).into()
    } else {
        (Ipv4Addr::UNSPECIFIED, 0).into()
    };
    // A fresh id and port each time make answers hard to forge.
    let id = rand::random();
    let query = question.query(id);
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(&query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let received = socket.recv(&mut buffer).await?;
        // Anything else on this port is a forgery or a stray.
        if let Some(response) = read_response(&buffer[..received], id, &question.wire) {
            if response.truncated {
                return ask_over_tcp(resolver, id, question).await;
            }
            buffer.truncate(received);
            return Ok(Answer { bytes: buffer, response });
        }
    }
}

async fn ask_over_tcp(resolver: SocketAddr, id: u16, question: &Question) -> io::Result<Answer> {
    let query = question.query(id);
    let mut stream = TcpStream::connect(resolver).await?;
    let mut framed = (query.len() as u16).to_be_bytes().to_vec();
    framed.extend_from_slice(&query);
    stream.write_all(&framed).await?;
    let size = stream.read_u16().await?;
    let mut bytes = vec![0; usize::from(size)];
    stream.read_exact(&mut bytes).await?;
    let response = read_response(&bytes, id, &question.wire)
        .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
    Ok(Answer { bytes, response })
}

fn id_of(message: &[u8]) -> u16 {
    u16::from_be_bytes([message[0], message[1]])
}

/// Whether records of this type may follow an alias in an answer.
pub fn may_follow_alias(found: u16, asked: u16) -> bool {
    found == asked || found == kind::CNAME
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
