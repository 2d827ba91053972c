//! Listens, answers, and hands what is not the cluster's to the machine's resolvers.
//!
//! UDP queries are answered on one thread per address that does nothing else: it blocks in the
//! kernel while idle and needs no scheduler when busy. Whatever must wait for a resolver leaves
//! that thread.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use ::watch::restart::panic_text;
use kube::Client;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::answer::{Outcome, Zone, write_aliases};
use crate::clients::{Clients, Shares};
use crate::config::{DnsConfig, DnsError, Result};
use crate::datagrams::Datagrams;
use crate::load::{GATHERING, Load, Moment};
use crate::name::Name;
use crate::records::Records;
use crate::resolvers::Resolvers;
use crate::upstream::{Answer, Upstream, may_follow_alias};
use crate::wire::{HEADER, Owner, Query, Rcode, Reply, Section, Unanswerable};

/// Room for a burst of queries while the thread is not scheduled.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;
/// Queries that wait for a resolver; beyond, clients are told to try elsewhere.
const MAX_WAITING: usize = 1024;
const MAX_CONNECTIONS: usize = 128;
/// Queries of one client that wait for a resolver.
const CLIENT_WAITING_MAX: usize = 128;
/// TCP connections of one client.
const CLIENT_CONNECTIONS_MAX: usize = 16;
/// The largest query over TCP; the connection of a client that announces more is closed.
const TCP_QUERY_BYTES_MAX: usize = 4096;
/// The stack of a thread that answers over UDP.
const UDP_STACK_BYTES: usize = 256 << 10;
/// An idle TCP client is let go (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);

/// Serves cluster DNS until cancelled.
pub async fn run(client: Client, config: DnsConfig, token: CancellationToken) -> Result<()> {
    let server = Server::new(&config)?;
    let mut listeners = Vec::new();
    for address in &config.listen {
        let fail =
            |transport| move |source| DnsError::Listen { address: *address, transport, source };
        let udp = bind(*address, Type::DGRAM).map_err(fail("UDP"))?;
        let tcp = bind(*address, Type::STREAM).map_err(fail("TCP"))?;
        tcp.listen(128).map_err(fail("TCP"))?;
        tcp.set_nonblocking(true).map_err(fail("TCP"))?;
        let tcp = TcpListener::from_std(tcp.into()).map_err(fail("TCP"))?;
        listeners.push((Arc::new(UdpSocket::from(udp)), tcp));
    }
    let mut threads = UdpThreads::default();
    let mut tasks = tokio::task::JoinSet::new();
    let (ends, mut ended) = mpsc::channel(1);
    for (udp, tcp) in listeners {
        threads.start(&server, udp, &ends)?;
        tasks.spawn(serve_tcp(Arc::clone(&server), tcp));
    }
    let over = |transport, reason| Err(DnsError::Ended { transport, reason });
    tokio::select! {
        () = crate::watch::follow(client, &server.records, &server.zone.domain, &token) => Ok(()),
        Some(reason) = ended.recv() => over("UDP", reason),
        Some(outcome) = tasks.join_next() => {
            let panic = outcome.err().and_then(|error| error.try_into_panic().ok());
            let reason = panic.map(|panic| panic_text(&*panic).to_owned()).unwrap_or_default();
            over("TCP", reason)
        }
    }
}

/// The threads that answer over UDP. They end when this is dropped.
#[derive(Default)]
struct UdpThreads {
    stopped: Arc<AtomicBool>,
    sockets: Vec<Arc<UdpSocket>>,
}

impl UdpThreads {
    /// Starts a thread; should it panic, `ends` gets the reason.
    fn start(
        &mut self,
        server: &Arc<Server>,
        socket: Arc<UdpSocket>,
        ends: &mpsc::Sender<String>,
    ) -> Result<()> {
        let worker = UdpWorker {
            server: Arc::clone(server),
            socket: Arc::clone(&socket),
            handle: Handle::current(),
            stopped: Arc::clone(&self.stopped),
        };
        let ends = ends.clone();
        let run = move || {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| worker.run())) {
                // The channel is full or closed only if the server ends anyway.
                let _ = ends.try_send(panic_text(&*panic).to_owned());
            }
        };
        std::thread::Builder::new()
            .name("dns".to_owned())
            .stack_size(UDP_STACK_BYTES)
            .spawn(run)
            .map_err(DnsError::Thread)?;
        self.sockets.push(socket);
        Ok(())
    }
}

impl Drop for UdpThreads {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for socket in &self.sockets {
            wake(socket);
        }
    }
}

/// The thread blocks in `recv`; a datagram of our own lets it see that it is to stop.
fn wake(socket: &UdpSocket) {
    if let Ok(address) = socket.local_addr() {
        let any: IpAddr = match address.ip() {
            IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
        };
        if let Ok(waker) = UdpSocket::bind((any, 0)) {
            let _ = waker.send_to(&[], address);
        }
    }
}

fn bind(address: SocketAddr, kind: Type) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv4() {
        // The address may be set up later than we start.
        socket.set_freebind_v4(true)?;
    } else {
        socket.set_only_v6(true)?;
        socket.set_freebind_v6(true)?;
    }
    if kind == Type::DGRAM {
        socket.set_recv_buffer_size(RECEIVE_BUFFER_BYTES)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

#[derive(Debug)]
struct Server {
    zone: Zone,
    records: Arc<RwLock<Records>>,
    upstream: Arc<Upstream>,
    clients: Clients,
    waiting: Arc<Semaphore>,
    /// Of [`Server::waiting`], by client.
    client_waiting: Arc<Shares>,
}

impl Server {
    fn new(config: &DnsConfig) -> Result<Arc<Self>> {
        let bad = || DnsError::BadDomain(config.cluster_domain.clone());
        let domain = Name::parse(&config.cluster_domain).ok_or_else(bad)?;
        let own: Vec<IpAddr> = config.listen.iter().map(SocketAddr::ip).collect();
        let networks = vec![config.service_cidr, config.pod_cidr];
        let zone = Zone::new(domain, networks, own).ok_or_else(bad)?;
        let resolvers = Resolvers::new(
            config.resolv_conf.clone(),
            config.upstreams.clone(),
            config.listen.clone(),
        );
        Ok(Arc::new(Self {
            zone,
            records: Arc::default(),
            upstream: Arc::new(Upstream::new(resolvers)),
            clients: Clients::new(config.pod_cidr),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            client_waiting: Shares::new(CLIENT_WAITING_MAX),
        }))
    }

    fn records(&self) -> RwLockReadGuard<'_, Records> {
        self.records.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer when it is known at once: `Ok(None)` means that none is due, `Err` that a
    /// resolver must be asked.
    fn answer_now(&self, bytes: &[u8], udp: bool) -> Result<Option<Vec<u8>>, Outcome> {
        let query = match Query::parse(bytes) {
            Ok(query) => query,
            Err(Unanswerable::Ignore) => return Ok(None),
            Err(Unanswerable::Refuse(reply)) => return Ok(Some(reply)),
        };
        match self.zone.answer(&query, &self.records(), udp) {
            Outcome::Reply(reply) => Ok(Some(reply)),
            // A query without recursion gets what is known here: no resolver is queried, and
            // answers to queries of other clients are not disclosed.
            Outcome::Forward if !query.recursion_desired() => {
                Ok(Some(query.failure(Rcode::Refused)))
            }
            Outcome::Chase(targets) if !query.recursion_desired() => {
                let mut reply = Reply::new(&query, Rcode::NoError, true);
                write_aliases(&mut reply, &targets);
                Ok(Some(reply.finish(query.limit(udp))))
            }
            Outcome::Forward => match self.upstream.remembered(&query) {
                Some(reply) => Ok(Some(addressed(reply, &query, udp))),
                None => Err(Outcome::Forward),
            },
            chase => Err(chase),
        }
    }

    /// The answer that needs a resolver.
    async fn answer_later(&self, bytes: &[u8], udp: bool, outcome: Outcome) -> Option<Vec<u8>> {
        let query = Query::parse(bytes).ok()?;
        match outcome {
            Outcome::Reply(reply) => Some(reply),
            Outcome::Forward => Some(match self.upstream.forward(&query).await {
                Some(answer) => addressed(answer.bytes.clone(), &query, udp),
                None => query.failure(Rcode::ServFail),
            }),
            Outcome::Chase(targets) => {
                let last = targets.last()?;
                let answer = self.upstream.resolve(last, query.kind).await;
                Some(alias_reply(&query, &targets, answer.as_deref()).finish(query.limit(udp)))
            }
        }
    }
}

/// A resolver's answer as the client expects it: its id, its capitals, its size limit.
fn addressed(mut reply: Vec<u8>, query: &Query<'_>, udp: bool) -> Vec<u8> {
    if reply.len() > query.limit(udp) {
        return query.truncated();
    }
    reply[..2].copy_from_slice(&query.id());
    let question = query.question();
    reply[HEADER..HEADER + question.len()].copy_from_slice(question);
    reply
}

/// The aliases, and what is known of the last one's target.
fn alias_reply<'q>(query: &Query<'q>, targets: &[Name], answer: Option<&Answer>) -> Reply<'q> {
    let code = if answer.is_some() { Rcode::NoError } else { Rcode::ServFail };
    let mut reply = Reply::new(query, code, true);
    write_aliases(&mut reply, targets);
    for record in answer.iter().flat_map(|answer| &answer.response.answers) {
        let bytes = answer.map_or(&[][..], |answer| &answer.bytes);
        let wanted = may_follow_alias(record.kind, query.kind);
        if let (true, Some(owner), Some(value)) =
            (wanted, record.owner(bytes), record.expanded_data(bytes))
        {
            reply.record(Section::Answer, Owner::Name(&owner), record.kind, record.ttl, |data| {
                data.extend_from_slice(&value);
            });
        }
    }
    reply
}

struct UdpWorker {
    server: Arc<Server>,
    socket: Arc<UdpSocket>,
    handle: Handle,
    stopped: Arc<AtomicBool>,
}

impl UdpWorker {
    fn run(&self) {
        let mut datagrams = Datagrams::new(&self.socket);
        let mut replies = Vec::new();
        let mut load = Load::new(Moment::now());
        loop {
            if load.is_heavy() {
                std::thread::sleep(GATHERING);
            }
            let received = datagrams.receive();
            if self.stopped.load(Ordering::SeqCst) {
                return;
            }
            if received.is_err() {
                continue;
            }
            load.note(datagrams.received().count(), Moment::now);
            for (query, client) in datagrams.received() {
                // Others are not answered at all: an answer would reach a forged sender.
                if !self.server.clients.contains(client.ip()) {
                    continue;
                }
                match self.server.answer_now(query, true) {
                    Ok(Some(reply)) => replies.push((reply, client)),
                    Ok(None) => {}
                    Err(outcome) => self.ask_resolver(query, client, outcome),
                }
            }
            datagrams.send(replies.drain(..));
        }
    }

    fn ask_resolver(&self, query: &[u8], client: SocketAddr, outcome: Outcome) {
        let share = self.server.client_waiting.take(client.ip());
        let permit = Arc::clone(&self.server.waiting).try_acquire_owned().ok();
        let Some(permit) = share.zip(permit) else {
            if let Ok(parsed) = Query::parse(query) {
                let _ = self.socket.send_to(&parsed.failure(Rcode::ServFail), client);
            }
            return;
        };
        let (server, socket) = (Arc::clone(&self.server), Arc::clone(&self.socket));
        let query = query.to_vec();
        self.handle.spawn(async move {
            let _permit = permit;
            if let Some(reply) = server.answer_later(&query, true, outcome).await {
                let _ = socket.send_to(&reply, client);
            }
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let shares = Shares::new(CLIENT_CONNECTIONS_MAX);
    // Ended with the server.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        while connections.try_join_next().is_some() {}
        match listener.accept().await {
            Ok((stream, client)) => {
                let server = Arc::clone(&server);
                let share = shares.take(client.ip());
                let Some(share) = share.filter(|_| server.clients.contains(client.ip())) else {
                    continue;
                };
                connections.spawn(async move {
                    let _held = (slot, share);
                    // A client that breaks off is not worth a word.
                    let _ = serve_connection(&server, stream).await;
                });
            }
            // Out of file descriptors, most likely: let some be closed.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn serve_connection(server: &Server, mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let Ok(length) = timeout(IDLE, stream.read_u16()).await else { return Ok(()) };
        let length = usize::from(length?);
        if length > TCP_QUERY_BYTES_MAX {
            return Ok(());
        }
        let mut query = vec![0; length];
        let Ok(read) = timeout(IDLE, stream.read_exact(&mut query)).await else { return Ok(()) };
        read?;
        let reply = match server.answer_now(&query, false) {
            Ok(reply) => reply,
            Err(outcome) => server.answer_later(&query, false, outcome).await,
        };
        let Some(reply) = reply else { return Ok(()) };
        let mut framed = (reply.len() as u16).to_be_bytes().to_vec();
        framed.extend_from_slice(&reply);
        let Ok(written) = timeout(IDLE, stream.write_all(&framed)).await else { return Ok(()) };
        written?;
    }
}

#[cfg(test)]
mod tests;
