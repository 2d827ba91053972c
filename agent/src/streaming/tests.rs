//! Both framings, and sessions over both.

#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures::FutureExt;
use runtime::sandbox::{Exit, Session};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::negotiate::Transport;
use super::remote_command::{Purpose, StreamOptions, open, run};
use super::spdy_frame::{Decoder, Encoder, Frame};
use super::websocket_frame::Message;
use super::wire::PIECE_BYTES;
use super::{Pod, dictionary, port_forward, websocket_frame};

#[test]
fn the_dictionary_is_the_one_everybody_has() {
    let bytes = &dictionary::DICTIONARY;
    assert_eq!(bytes.len(), 1423);
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in bytes.iter() {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    assert_eq!(b << 16 | a, 0xe3c6_a7c2);
}

#[test]
fn spdy_frames_survive_the_way() {
    let mut encoder = Encoder::new().unwrap();
    let mut decoder = Decoder::new();
    let headers = vec![("streamtype".to_owned(), "stdin".to_owned())];
    let long = vec![("x".to_owned(), "abc".repeat(5000))];
    let frames = [
        Frame::SynStream { id: 1, headers: headers.clone(), fin: false },
        Frame::SynReply { id: 1, headers: Vec::new() },
        Frame::SynStream { id: 3, headers: long, fin: true },
        Frame::SynStream { id: 5, headers, fin: false },
        Frame::Data { id: 1, bytes: Bytes::from_static(b"hello"), fin: true },
        Frame::Reset { id: 3, status: 5 },
        Frame::Ping(7),
        Frame::GoAway { last: 5, status: 0 },
    ];
    let mut bytes = BytesMut::new();
    for frame in &frames {
        encoder.encode(frame, &mut bytes).unwrap();
    }
    let mut arrived = BytesMut::new();
    let mut got = Vec::new();
    for byte in bytes {
        arrived.put_u8(byte);
        while let Some(frame) = decoder.decode(&mut arrived).unwrap() {
            match (got.last_mut(), frame) {
                // Data comes in pieces.
                (
                    Some(Frame::Data { id, bytes, fin: end @ false }),
                    Frame::Data { id: same, bytes: more, fin },
                ) if *id == same => {
                    *bytes = [&bytes[..], &more[..]].concat().into();
                    *end = fin;
                }
                (_, frame) => got.push(frame),
            }
        }
    }
    assert_eq!(got, frames);
}

#[test]
fn long_frames_come_in_pieces() {
    let content: Vec<u8> = noise(5).take(3 * PIECE_BYTES + 7).collect();
    let mut bytes = BytesMut::new();
    let bytes_of = Bytes::from(content.clone());
    let frame = Frame::Data { id: 9, bytes: bytes_of, fin: true };
    Encoder::new().unwrap().encode(&frame, &mut bytes).unwrap();
    let (mut decoder, mut got, mut pieces) = (Decoder::new(), Vec::new(), 0);
    while let Some(Frame::Data { id: 9, bytes, fin }) = decoder.decode(&mut bytes).unwrap() {
        got.extend_from_slice(&bytes);
        pieces += 1;
        assert!(bytes.len() <= PIECE_BYTES);
        assert_eq!(fin, got.len() == content.len());
    }
    assert_eq!((got, pieces), (content, 4));
}

/// Messages of any size, in any fragments, with pings between them, in buffers of any size.
#[test]
fn messages_arrive_whole_in_pieces() {
    for seed in 1..200_u64 {
        let mut random = noise(seed).map(usize::from);
        let mut pick =
            |below: usize| (random.next().unwrap() * 256 + random.next().unwrap()) % below;
        let size = [0, 1, 5, PIECE_BYTES, PIECE_BYTES + 1, 3 * PIECE_BYTES][pick(6)] + pick(3);
        let content: Vec<u8> = noise(seed + 1000).take(size).collect();
        let mut wire = BytesMut::new();
        let mut rest = &content[..];
        let mut opcode = 2;
        loop {
            let (part, left) = rest.split_at(pick(rest.len() + 1));
            rest = left;
            let mut frame = masked(opcode, part);
            frame[0] = if rest.is_empty() { 0x80 } else { 0 } | opcode;
            wire.extend_from_slice(&frame);
            wire.extend_from_slice(&masked(9, b"ping"));
            opcode = 0;
            if rest.is_empty() {
                break;
            }
        }
        let (mut decoder, mut got) = (websocket_frame::Decoder::default(), Vec::new());
        let (mut arrived, mut ended) = (BytesMut::new(), false);
        while !wire.is_empty() {
            let count = 1 + pick(wire.len());
            arrived.extend_from_slice(&wire.split_to(count));
            while let Some(message) = decoder.decode(&mut arrived).unwrap() {
                let Message::Data { bytes, first, last } = message else { continue };
                assert!(!ended && bytes.len() <= PIECE_BYTES);
                assert_eq!(first, got.is_empty(), "seed {seed}");
                got.extend_from_slice(&bytes);
                ended = last;
            }
        }
        assert!(ended && got == content, "seed {seed}: {} of {size} bytes", got.len());
    }
}

/// A small generator of pseudo-random bytes (xorshift).
fn noise(seed: u64) -> impl Iterator<Item = u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
}

#[test]
fn noise_is_refused_not_believed() {
    for seed in 1..3000 {
        let bytes: Vec<u8> = noise(seed).take(300).collect();
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut decoder = Decoder::new();
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
        // Well-formed heads with noise behind them reach further.
        let mut framed = BytesMut::new();
        for (kind, chunk) in bytes.chunks(20).enumerate() {
            framed.put_u16(0x8003);
            framed.put_u16((kind % 10) as u16);
            framed.put_u8(0);
            framed.put_uint(chunk.len() as u64, 3);
            framed.put_slice(chunk);
        }
        let mut decoder = Decoder::new();
        while let Ok(Some(_)) = decoder.decode(&mut framed) {}
        let mut buffer = BytesMut::from(&bytes[..]);
        let mut decoder = websocket_frame::Decoder::default();
        while let Ok(Some(_)) = decoder.decode(&mut buffer) {}
    }
}

fn masked(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x80 | opcode];
    match payload.len() {
        small @ ..126 => frame.push(0x80 | small as u8),
        medium if medium <= usize::from(u16::MAX) => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(medium as u16).to_be_bytes());
        }
        large => {
            frame.push(0x80 | 127);
            frame.extend_from_slice(&(large as u64).to_be_bytes());
        }
    }
    let mask = [1, 2, 3, 4];
    frame.extend_from_slice(&mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b));
    frame
}

/// A process that echoes its standard input to its output, says `err` on stderr, and exits with 3
/// at the end of its input; it prints terminal sizes.
fn cat() -> Session {
    let (stdin, mut input) = tokio::io::duplex(64);
    let (mut output, stdout) = tokio::io::duplex(64);
    let (mut errors, stderr) = tokio::io::duplex(64);
    let (resize, mut sizes) = mpsc::channel(4);
    let (done, exit) = oneshot::channel();
    tokio::spawn(async move {
        errors.write_all(b"err").await.unwrap();
        drop(errors);
        let mut buffer = [0; 50];
        loop {
            tokio::select! {
                count = input.read(&mut buffer) => match count.unwrap() {
                    0 => break,
                    count => output.write_all(&buffer[..count]).await.unwrap(),
                },
                Some((columns, rows)) = sizes.recv() => {
                    output.write_all(format!("[{columns}x{rows}]").as_bytes()).await.unwrap();
                }
            }
        }
        let finished_at = SystemTime::now();
        done.send(Exit { code: 3, signal: None, oom_killed: false, finished_at }).unwrap();
    });
    Session {
        stdin: Some(Box::new(stdin)),
        stdout: Box::new(stdout),
        stderr: Some(Box::new(stderr)),
        resize,
        exit,
        leash: None,
    }
}

/// The client's end of a SPDY connection.
struct Client {
    io: DuplexStream,
    encoder: Encoder,
    decoder: Decoder,
    buffer: BytesMut,
}

impl Client {
    fn new(io: DuplexStream) -> Self {
        let encoder = Encoder::new().unwrap();
        Self { io, encoder, decoder: Decoder::new(), buffer: BytesMut::new() }
    }

    async fn send(&mut self, frame: Frame) {
        let mut bytes = BytesMut::new();
        self.encoder.encode(&frame, &mut bytes).unwrap();
        self.io.write_all(&bytes).await.unwrap();
    }

    async fn open(&mut self, id: u32, headers: &[(&str, &str)]) {
        let headers = headers.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.send(Frame::SynStream { id, headers, fin: false }).await;
    }

    async fn data(&mut self, id: u32, bytes: &'static [u8], fin: bool) {
        self.send(Frame::Data { id, bytes: Bytes::from_static(bytes), fin }).await;
    }

    /// All data of the streams until GOAWAY or, given ids, until these are finished.
    async fn collect(&mut self, until: &[u32]) -> std::collections::BTreeMap<u32, Vec<u8>> {
        let mut data = std::collections::BTreeMap::<u32, Vec<u8>>::new();
        let mut finished = Vec::new();
        loop {
            match self.decoder.decode(&mut self.buffer).unwrap() {
                Some(Frame::Data { id, bytes, fin }) => {
                    data.entry(id).or_default().extend_from_slice(&bytes);
                    if fin {
                        finished.push(id);
                    }
                    if !until.is_empty() && until.iter().all(|id| finished.contains(id)) {
                        return data;
                    }
                }
                Some(Frame::GoAway { .. }) => {
                    assert_eq!(finished.len(), data.len(), "every stream is finished");
                    return data;
                }
                Some(_) => {}
                None => {
                    if self.io.read_buf(&mut self.buffer).await.unwrap() == 0 {
                        return data;
                    }
                }
            }
        }
    }
}

const ALL: StreamOptions = StreamOptions { stdin: true, stdout: true, stderr: true, tty: false };

#[tokio::test]
async fn exec_over_spdy() {
    let (near, far) = tokio::io::duplex(256);
    let server = tokio::spawn(async move {
        let transport = Transport::Spdy("v4.channel.k8s.io".to_owned());
        let (streams, connection) =
            open(far, transport, ALL, CancellationToken::new()).await.unwrap();
        run(streams, connection, Purpose::Exec, async { Ok(cat()) }).await;
    });
    let mut client = Client::new(near);
    for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.open(id, &[("streamtype", kind)]).await;
    }
    client.data(3, b"hello ", false).await;
    client.data(3, b"world", true).await;
    let data = client.collect(&[1, 5, 7]).await;
    assert_eq!(data[&5], b"hello world");
    assert_eq!(data[&7], b"err");
    let status: serde_json::Value = serde_json::from_slice(&data[&1]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    drop(client);
    server.await.unwrap();
}

#[tokio::test]
async fn attach_does_not_tell_the_exit_code() {
    for (protocol, expected) in [
        ("v5.channel.k8s.io", r#"{"metadata":{},"status":"Success"}"#),
        ("v4.channel.k8s.io", r#"{"metadata":{},"status":"Success"}"#),
        ("v3.channel.k8s.io", ""),
    ] {
        let (near, far) = tokio::io::duplex(256);
        let server = tokio::spawn(async move {
            let transport = Transport::Spdy(protocol.to_owned());
            let (streams, connection) =
                open(far, transport, ALL, CancellationToken::new()).await.unwrap();
            run(streams, connection, Purpose::Attach, async { Ok(cat()) }).await;
        });
        let mut client = Client::new(near);
        for (id, kind) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
            client.open(id, &[("streamtype", kind)]).await;
        }
        client.data(3, b"hello", true).await;
        let data = client.collect(&[1, 5, 7]).await;
        assert_eq!(data[&5], b"hello");
        assert_eq!(String::from_utf8_lossy(&data[&1]), expected, "{protocol}");
        drop(client);
        server.await.unwrap();
    }
}

#[tokio::test]
async fn a_start_that_fails_is_told() {
    let (near, far) = tokio::io::duplex(256);
    tokio::spawn(async move {
        let transport = Transport::Spdy("v5.channel.k8s.io".to_owned());
        let options = StreamOptions { stdout: true, ..StreamOptions::default() };
        let (streams, connection) =
            open(far, transport, options, CancellationToken::new()).await.unwrap();
        run(streams, connection, Purpose::Exec, async { Err("no such file".to_owned()) }).await;
    });
    let mut client = Client::new(near);
    client.open(1, &[("streamtype", "error")]).await;
    client.open(3, &[("streamtype", "stdout")]).await;
    let data = client.collect(&[1, 3]).await;
    let status: serde_json::Value = serde_json::from_slice(&data[&1]).unwrap();
    assert_eq!(status["message"], "Internal error occurred: no such file");
}

#[tokio::test]
async fn exec_over_websocket() {
    let (mut near, far) = tokio::io::duplex(256);
    let server = tokio::spawn(async move {
        let transport = Transport::WebSocket("v5.channel.k8s.io".to_owned());
        let options = StreamOptions { tty: true, ..ALL };
        let (streams, connection) =
            open(far, transport, options, CancellationToken::new()).await.unwrap();
        run(streams, connection, Purpose::Exec, async { Ok(cat()) }).await;
    });
    near.write_all(&masked(2, b"\x04{\"Width\":80,\"Height\":24}\n")).await.unwrap();
    let mut channels = vec![Vec::new(); 5];
    let mut buffer = BytesMut::new();
    let mut sent = 0;
    loop {
        let length = match buffer.get(1).copied() {
            Some(126) if buffer.len() >= 4 => {
                Some((4, usize::from(u16::from_be_bytes([buffer[2], buffer[3]]))))
            }
            Some(small @ ..126) => Some((2, usize::from(small))),
            _ => None,
        };
        let whole = length.filter(|(head, body)| buffer.len() >= head + body);
        let Some((head, body)) = whole else {
            near.read_buf(&mut buffer).await.unwrap();
            continue;
        };
        let opcode = buffer[0] & 15;
        buffer.advance(head);
        let payload = buffer.split_to(body);
        if opcode == 8 {
            break;
        }
        channels[usize::from(payload[0])].extend_from_slice(&payload[1..]);
        if sent == 0 && channels[1].starts_with(b"[80x24]") {
            near.write_all(&masked(2, b"\x00hi")).await.unwrap();
            near.write_all(&masked(2, b"\xff\x00")).await.unwrap();
            sent = 1;
        }
    }
    assert_eq!(channels[1], b"[80x24]hi");
    assert_eq!(channels[2], b"err");
    let status: serde_json::Value = serde_json::from_slice(&channels[3]).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    near.write_all(&masked(8, b"")).await.unwrap();
    server.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_ends_the_session() {
    let (near, far) = tokio::io::duplex(256);
    let server = tokio::spawn(async move {
        let transport = Transport::WebSocket("v4.channel.k8s.io".to_owned());
        let (streams, connection) =
            open(far, transport, ALL, CancellationToken::new()).await.unwrap();
        run(streams, connection, Purpose::Exec, async { Ok(cat()) }).await;
    });
    drop(near);
    server.await.unwrap();
}

/// A process that does not read, and what its standard input gets, if anybody reads it.
fn deaf() -> (Session, DuplexStream) {
    let (stdin, input) = tokio::io::duplex(64);
    let (_, stdout) = tokio::io::duplex(64);
    let (resize, _) = mpsc::channel(4);
    let (done, exit) = oneshot::channel();
    std::mem::forget(done);
    let session = Session {
        stdin: Some(Box::new(stdin)),
        stdout: Box::new(stdout),
        stderr: None,
        resize,
        exit,
        leash: None,
    };
    (session, input)
}

#[tokio::test]
async fn unread_session_is_bounded_and_ends_with_client() {
    for base64 in [false, true] {
        let (mut near, far) = tokio::io::duplex(1024);
        let gone = CancellationToken::new();
        let closed = gone.child_token();
        let (session, mut input) = deaf();
        let server = tokio::spawn(async move {
            let protocol = if base64 { "v4.base64.channel.k8s.io" } else { "v4.channel.k8s.io" };
            let transport = Transport::WebSocket(protocol.to_owned());
            let options = StreamOptions { stdin: true, stdout: true, ..StreamOptions::default() };
            let (streams, connection) = open(far, transport, options, closed).await.unwrap();
            run(streams, connection, Purpose::Exec, async { Ok(session) }).await;
        });
        let content: Vec<u8> = noise(3).take(2 << 20).collect();
        let payload = match base64 {
            false => [b"\0", &content[..]].concat(),
            true => format!("0{}", STANDARD.encode(&content)).into_bytes(),
        };
        let message = masked(2, &payload);
        let sent = Arc::new(AtomicUsize::new(0));
        let count = sent.clone();
        let client = tokio::spawn(async move {
            for chunk in message.chunks(1024) {
                if near.write_all(chunk).await.is_err() {
                    return;
                }
                count.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        });
        let mut first = vec![0; 100_000];
        input.read_exact(&mut first).await.unwrap();
        assert!(first == content[..first.len()], "the first bytes are others");
        let mut before = usize::MAX;
        while before != sent.load(Ordering::Relaxed) {
            before = sent.load(Ordering::Relaxed);
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        assert!(before < 1 << 20, "{before} bytes were taken");
        gone.cancel();
        server.await.unwrap();
        client.await.unwrap();
    }
}

#[tokio::test]
async fn ports_are_forwarded_side_by_side() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = Vec::new();
                socket.read_to_end(&mut request).await.unwrap();
                request.reverse();
                socket.write_all(&request).await.unwrap();
            });
        }
    });
    let dial: port_forward::Dial = Arc::new(move |port| {
        async move {
            if port == 81 {
                return Err(io::Error::from(io::ErrorKind::ConnectionRefused));
            }
            tokio::net::TcpStream::connect(address).await
        }
        .boxed()
    });
    let (near, far) = tokio::io::duplex(1024);
    let transport = Transport::Spdy("portforward.k8s.io".to_owned());
    let pod = Pod { name: "p_default".into(), dial, places: Arc::new(Semaphore::new(10)) };
    let server = tokio::spawn(port_forward::forward(far, transport, pod, CancellationToken::new()));
    let mut client = Client::new(near);
    let pair = |kind: &'static str, port: &'static str, id: &'static str| {
        [("streamtype", kind), ("port", port), ("requestid", id)]
    };
    client.open(1, &pair("error", "80", "0")).await;
    client.open(3, &pair("data", "80", "0")).await;
    client.open(5, &pair("error", "80", "1")).await;
    client.open(7, &pair("data", "80", "1")).await;
    client.open(9, &pair("error", "81", "2")).await;
    client.open(11, &pair("data", "81", "2")).await;
    client.data(7, b"second", true).await;
    client.data(3, b"first", true).await;
    let data = client.collect(&[1, 3, 5, 7, 9, 11]).await;
    assert_eq!(data[&3], b"tsrif");
    assert_eq!(data[&7], b"dnoces");
    assert!(data[&1].is_empty() && data[&5].is_empty());
    let text = String::from_utf8(data[&9].clone()).unwrap();
    assert_eq!(text, "error forwarding port 81 to pod p_default: connection refused");
    drop(client);
    server.await.unwrap();
}
