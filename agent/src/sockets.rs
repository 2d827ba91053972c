//! What the kernel says of the TCP sockets in a container's network namespace.

use std::collections::HashSet;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::blocking::{self, Deadline};

/// State `TCP_SYN_RECV` in `/proc/net/tcp`: a connection whose handshake is not over.
const HANDSHAKE: u8 = 0x03;
/// State `TCP_LISTEN`.
const LISTEN: u8 = 0x0a;
/// The kernel tells nobody when a socket begins to listen or its queue empties: looked at after
/// these delays, the first and the longest.
const LOOKS: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(10));

/// Most bytes read of a table: some 28,000 sockets, those that listen first.
const MAX_TABLE_BYTES: u64 = 4 << 20;

/// One line of `/proc/net/tcp` or `tcp6`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    port: u16,
    state: u8,
    /// Bytes that wait to be read; of a listening socket, connections that wait to be accepted.
    waiting: u32,
}

/// Reads `/proc/net/tcp`; lines that are none of its form are left out.
fn parse(table: &str) -> Vec<Socket> {
    table.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Socket> {
    // `sl local_address rem_address st tx_queue:rx_queue …`, all in hexadecimal.
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (_, port) = fields.next()?.rsplit_once(':')?;
    let state = fields.nth(1)?;
    let (_, waiting) = fields.next()?.split_once(':')?;
    Some(Socket {
        port: u16::from_str_radix(port, 16).ok()?,
        state: u8::from_str_radix(state, 16).ok()?,
        waiting: u32::from_str_radix(waiting, 16).ok()?,
    })
}

fn all_listen(sockets: &[Socket], ports: &HashSet<u16>) -> bool {
    let listening: HashSet<u16> =
        sockets.iter().filter(|socket| socket.state == LISTEN).map(|socket| socket.port).collect();
    ports.is_subset(&listening)
}

fn none_wait(sockets: &[Socket]) -> bool {
    !sockets
        .iter()
        .any(|socket| socket.state == HANDSHAKE || (socket.state == LISTEN && socket.waiting > 0))
}

/// The sockets around a process, as long as it lives.
#[derive(Clone, Debug)]
pub struct Sockets {
    tables: [PathBuf; 2],
}

impl Sockets {
    /// Those of the network namespace that this process is in.
    pub fn around(pid: u32) -> Self {
        let net = Path::new("/proc").join(pid.to_string()).join("net");
        Self { tables: [net.join("tcp"), net.join("tcp6")] }
    }

    /// Waits until something listens on every one of the ports. False if the process ended.
    pub async fn all_listen(&self, ports: &HashSet<u16>) -> bool {
        self.until(|sockets| all_listen(sockets, ports)).await
    }

    /// Waits until every connection that was begun is accepted. False if the process ended.
    pub async fn all_accepted(&self) -> bool {
        self.until(none_wait).await
    }

    async fn until(&self, holds: impl Fn(&[Socket]) -> bool) -> bool {
        let mut wait = LOOKS.0;
        loop {
            let sockets = self.clone();
            let look = move || sockets.look();
            let owner = self.tables[0].to_string_lossy();
            let seen = blocking::run(&owner, "Looking at sockets", Deadline::Short, look).await;
            match seen.unwrap_or_else(|_| Some(Vec::new())) {
                Some(sockets) if holds(&sockets) => return true,
                Some(_) => tokio::time::sleep(wait).await,
                None => return false,
            }
            wait = (wait * 2).min(LOOKS.1);
        }
    }

    /// `None` once the process is gone.
    fn look(&self) -> Option<Vec<Socket>> {
        let [tcp, tcp6] = &self.tables;
        let read = |path: &Path| {
            let mut text = Vec::new();
            let file = std::fs::File::open(path)?;
            std::io::Read::take(file, MAX_TABLE_BYTES).read_to_end(&mut text)?;
            std::io::Result::Ok(parse(&String::from_utf8_lossy(&text)))
        };
        let mut sockets = read(tcp).ok()?;
        // A kernel without IPv6 has no second table.
        sockets.extend(read(tcp6).unwrap_or_default());
        Some(sockets)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0050 00000000:0000 0A 00000000:00000002 00:00000000 00000000     0        0 3139
   1: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 3140
   2: 0A2C0002:0050 0A2C0003:D431 01 00000000:00000010 00:00000000 00000000     0        0 3141
";

    #[test]
    fn listening_ports_and_waiting_connections_are_read_off_the_kernels_table() {
        let sockets = parse(TABLE);
        assert_eq!(sockets.len(), 3);
        assert_eq!(sockets[0], Socket { port: 80, state: LISTEN, waiting: 2 });
        assert!(all_listen(&sockets, &[80, 8080].into()));
        assert!(!all_listen(&sockets, &[80, 443].into()));
        assert!(!none_wait(&sockets), "two connections wait for accept");
        // Data that an accepted connection has not read yet is the program's own business.
        assert!(none_wait(&sockets[1..]));
        let handshake = TABLE.replace(" 01 ", " 03 ");
        assert!(!none_wait(&parse(&handshake)[2..]));
        assert_eq!(parse("x\n 0: y z"), []);
    }

    #[tokio::test]
    async fn the_own_sockets_are_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let sockets = Sockets::around(std::process::id());
        assert!(sockets.all_listen(&[port].into()).await);
        drop(listener);
        let gone = [port].into();
        let missing = tokio::time::timeout(Duration::from_millis(20), sockets.all_listen(&gone));
        assert!(missing.await.is_err());
        assert!(!Sockets::around(u32::MAX).all_listen(&[port].into()).await);
    }
}
