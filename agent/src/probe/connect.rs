//! Connections of probes and hooks to hosts that a pod names.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

use tokio::net::TcpStream;

use crate::blocking::{self, Deadline};

/// Addresses of one host name that are tried.
const MAX_ADDRESSES: usize = 8;

/// Connects to a host, by address or by name. Names are resolved on threads of their own, few for
/// each `owner`: the resolver's answer, and its time, may be the tenant's.
pub async fn connect(owner: &str, host: &str, port: u16) -> io::Result<TcpStream> {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if let Ok(address) = bare.parse::<IpAddr>() {
        return TcpStream::connect((address, port)).await;
    }
    let name = host.to_owned();
    let addresses: Vec<SocketAddr> =
        blocking::run(owner, "Resolving a host name", Deadline::Short, move || {
            let found = (name.as_str(), port).to_socket_addrs()?;
            io::Result::Ok(found.take(MAX_ADDRESSES).collect())
        })
        .await??;
    TcpStream::connect(&*addresses).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::connect;

    #[tokio::test]
    async fn addresses_and_names_are_connected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        for host in ["127.0.0.1", "localhost"] {
            assert!(connect("c", host, port).await.is_ok(), "{host}");
        }
        assert!(connect("c", "[::1]", 1).await.is_err());
    }
}
