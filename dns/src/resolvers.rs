//! Which resolvers the machine uses.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// systemd-resolved's stub: it may forward to us, and it hides the real resolvers, which it lists
/// in [`RESOLVED_LIST`].
const RESOLVED_STUBS: [IpAddr; 2] = [
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 53)),
    IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 54)),
];
const RESOLVED_LIST: &str = "/run/systemd/resolve/resolv.conf";
const DNS_PORT: u16 = 53;
/// The file is looked at no more often than this, and only when a query needs it.
const CHECK_INTERVAL: Duration = Duration::from_secs(2);
/// As many as the C library uses.
const MAX_RESOLVERS: usize = 3;

/// The machine's resolvers, read again when the file changes.
#[derive(Debug)]
pub struct Resolvers {
    file: PathBuf,
    fixed: Option<Vec<SocketAddr>>,
    own: Vec<SocketAddr>,
    seen: Option<(Instant, [Option<SystemTime>; 2])>,
    current: Vec<SocketAddr>,
}

impl Resolvers {
    /// `own` are addresses of this server, never to be asked.
    pub fn new(file: PathBuf, fixed: Option<Vec<SocketAddr>>, own: Vec<SocketAddr>) -> Self {
        Self { file, fixed, own, seen: None, current: Vec::new() }
    }

    /// The resolvers to ask, in order.
    pub fn current(&mut self, now: Instant) -> Vec<SocketAddr> {
        if let Some(fixed) = &self.fixed {
            return fixed.iter().copied().filter(|r| !self.own.contains(r)).collect();
        }
        let fresh =
            self.seen.is_some_and(|(at, _)| now.saturating_duration_since(at) < CHECK_INTERVAL);
        if !fresh {
            let times = [modified(&self.file), modified(Path::new(RESOLVED_LIST))];
            if self.seen.is_none_or(|(_, before)| before != times) {
                self.current = self.read();
            }
            self.seen = Some((now, times));
        }
        self.current.clone()
    }

    fn read(&self) -> Vec<SocketAddr> {
        let listed = |path: &Path| name_servers(&std::fs::read_to_string(path).unwrap_or_default());
        let mut addresses = listed(&self.file);
        if addresses.iter().any(|address| RESOLVED_STUBS.contains(address)) {
            addresses = listed(Path::new(RESOLVED_LIST));
        }
        addresses.retain(|address| !RESOLVED_STUBS.contains(address));
        addresses
            .into_iter()
            .map(|address| SocketAddr::new(address, DNS_PORT))
            .filter(|resolver| !self.own.contains(resolver))
            .take(MAX_RESOLVERS)
            .collect()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// The addresses of `nameserver` lines (resolv.conf(5)).
fn name_servers(text: &str) -> Vec<IpAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let keyword = words.next()?;
            let address = words.next().filter(|_| keyword == "nameserver")?;
            // A zone index (`fe80::1%eth0`) cannot be used as an address; such lines are skipped.
            address.parse().ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_and_stub_addresses_are_never_asked() {
        let directory = tempfile();
        let file = directory.join("resolv.conf");
        std::fs::write(&file, "# x\nsearch a\nnameserver 10.47.240.10\nnameserver 192.0.2.53 \n")
            .unwrap();
        let own = vec!["10.47.240.10:53".parse().unwrap()];
        let mut resolvers = Resolvers::new(file.clone(), None, own.clone());
        let now = Instant::now();
        assert_eq!(resolvers.current(now), ["192.0.2.53:53".parse().unwrap()]);
        std::fs::write(&file, "nameserver 192.0.2.54\n").unwrap();
        let late = std::fs::File::options().write(true).open(&file).unwrap();
        late.set_modified(SystemTime::now() + Duration::from_secs(5)).unwrap();
        assert_eq!(resolvers.current(now).len(), 1);
        let later = now + CHECK_INTERVAL;
        assert_eq!(resolvers.current(later), ["192.0.2.54:53".parse().unwrap()]);
        let fixed = vec!["10.47.240.10:53".parse().unwrap(), "192.0.2.1:5353".parse().unwrap()];
        let mut resolvers = Resolvers::new(file, Some(fixed), own);
        assert_eq!(resolvers.current(now), ["192.0.2.1:5353".parse().unwrap()]);
        std::fs::remove_dir_all(directory).unwrap();
    }

    fn tempfile() -> PathBuf {
        let path = std::env::temp_dir().join(format!("coracle-dns-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}
