//! Names in proxy URLs: `name`, `name:port`, `scheme:name:port`.

/// A taken-apart name.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ProxyName<'a> {
    pub(super) scheme: &'a str,
    pub(super) name: &'a str,
    /// A number or the name of a port; empty when none is given.
    pub(super) port: &'a str,
}

/// Takes a name apart; `None` when it has another form.
pub(super) fn parse(text: &str) -> Option<ProxyName<'_>> {
    let parts: Vec<&str> = text.split(':').collect();
    let (scheme, name, port) = match parts.as_slice() {
        [name] => ("", *name, ""),
        [name, port] => ("", *name, *port),
        [scheme, name, port] => (*scheme, *name, *port),
        _ => return None,
    };
    (!name.is_empty() && ["", "http", "https"].contains(&scheme)).then_some(ProxyName {
        scheme,
        name,
        port,
    })
}

/// `host:port`, with brackets around IPv6 addresses.
pub(super) fn join(host: &str, port: u64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_apart() {
        let name = |scheme, name, port| Some(ProxyName { scheme, name, port });
        assert_eq!(parse("web"), name("", "web", ""));
        assert_eq!(parse("web:80"), name("", "web", "80"));
        assert_eq!(parse("http:web:"), name("http", "web", ""));
        assert_eq!(parse("ftp:web:1"), None);
        assert_eq!(parse(":80"), None);
        assert_eq!(parse("a:b:c:d"), None);
        assert_eq!(join("fd00::1", 80), "[fd00::1]:80");
    }
}
