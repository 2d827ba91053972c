//! `/etc/hosts` and `/etc/resolv.conf` of containers.

use std::net::IpAddr;

use k8s_openapi::api::core::v1::{Pod, PodDNSConfig};

/// Kubernetes' limits on what a resolver is given.
const MAX_NAMESERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_BYTES: usize = 2048;

/// The host name of a pod and, with a subdomain, its fully qualified name.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> (String, Option<String>) {
    let spec = pod.spec.as_ref();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let hostname = spec.and_then(|spec| spec.hostname.clone()).filter(|name| !name.is_empty());
    // A name of more than 63 characters does not fit the kernel; cut like upstream.
    let hostname = hostname.unwrap_or_else(|| {
        let cut: String = name.chars().take(63).collect();
        cut.trim_end_matches(['-', '.']).to_owned()
    });
    let subdomain = spec.and_then(|spec| spec.subdomain.clone()).filter(|name| !name.is_empty());
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let fqdn = subdomain
        .map(|subdomain| format!("{hostname}.{subdomain}.{namespace}.svc.{cluster_domain}"));
    (hostname, fqdn)
}

/// `/etc/hosts` that the agent manages.
pub fn hosts(
    pod: &Pod,
    addresses: &[IpAddr],
    cluster_domain: &str,
    host_file: Option<&str>,
) -> String {
    let mut text = match host_file {
        Some(file) => format!("# Kubernetes-managed hosts file (host network).\n{file}"),
        None => {
            let mut text = String::from(
                "# Kubernetes-managed hosts file.\n\
                 127.0.0.1\tlocalhost\n\
                 ::1\tlocalhost ip6-localhost ip6-loopback\n\
                 fe00::0\tip6-localnet\n\
                 fe00::0\tip6-mcastprefix\n\
                 fe00::1\tip6-allnodes\n\
                 fe00::2\tip6-allrouters\n",
            );
            let (hostname, fqdn) = hostname(pod, cluster_domain);
            for address in addresses {
                match &fqdn {
                    Some(fqdn) => text.push_str(&format!("{address}\t{fqdn}\t{hostname}\n")),
                    None => text.push_str(&format!("{address}\t{hostname}\n")),
                }
            }
            text
        }
    };
    let aliases = pod.spec.iter().flat_map(|spec| spec.host_aliases.iter().flatten());
    let aliases: Vec<String> = aliases
        .map(|alias| {
            format!("{}\t{}\n", alias.ip, alias.hostnames.clone().unwrap_or_default().join("\t"))
        })
        .collect();
    if !aliases.is_empty() {
        text.push_str("\n# Entries added by HostAliases.\n");
        text.extend(aliases);
    }
    text
}

/// The parts of a resolver configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolver {
    /// Servers in order of preference.
    pub nameservers: Vec<String>,
    /// Suffixes to try.
    pub searches: Vec<String>,
    /// `name` or `name:value`.
    pub options: Vec<String>,
}

impl Resolver {
    /// Reads a `resolv.conf`.
    pub fn parse(text: &str) -> Self {
        let mut resolver = Self::default();
        for line in text.lines() {
            let line = line.trim();
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => resolver.nameservers.extend(words.next().map(Into::into)),
                Some("search") => resolver.searches = words.map(Into::into).collect(),
                Some("options") => resolver.options = words.map(Into::into).collect(),
                _ => {}
            }
        }
        resolver
    }

    /// The text of a `resolv.conf`.
    pub fn text(&self) -> String {
        let mut text = String::new();
        if !self.searches.is_empty() {
            text.push_str(&format!("search {}\n", self.searches.join(" ")));
        }
        for server in &self.nameservers {
            text.push_str(&format!("nameserver {server}\n"));
        }
        if !self.options.is_empty() {
            text.push_str(&format!("options {}\n", self.options.join(" ")));
        }
        text
    }
}

/// The resolver of a pod by its `dnsPolicy` and `dnsConfig`.
pub fn resolver(pod: &Pod, host: &Resolver, cluster_dns: &[IpAddr], domain: &str) -> Resolver {
    let spec = pod.spec.as_ref();
    let host_network = spec.and_then(|spec| spec.host_network).unwrap_or(false);
    let policy = spec.and_then(|spec| spec.dns_policy.as_deref()).unwrap_or("ClusterFirst");
    let cluster = match policy {
        "ClusterFirstWithHostNet" => true,
        "ClusterFirst" => !host_network,
        _ => false,
    };
    let mut resolver = if policy == "None" {
        Resolver::default()
    } else if cluster && !cluster_dns.is_empty() {
        let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
        let mut searches =
            vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
        append_new(&mut searches, &host.searches);
        Resolver {
            nameservers: cluster_dns.iter().map(ToString::to_string).collect(),
            searches,
            options: vec!["ndots:5".into()],
        }
    } else {
        host.clone()
    };
    if let Some(config) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        add(&mut resolver, config);
    }
    resolver.nameservers.truncate(MAX_NAMESERVERS);
    resolver.searches.truncate(MAX_SEARCHES);
    while resolver.searches.join(" ").len() > MAX_SEARCH_BYTES {
        resolver.searches.pop();
    }
    resolver
}

fn append_new(list: &mut Vec<String>, more: &[String]) {
    for item in more {
        if !list.contains(item) {
            list.push(item.clone());
        }
    }
}

fn add(resolver: &mut Resolver, config: &PodDNSConfig) {
    append_new(&mut resolver.nameservers, config.nameservers.as_deref().unwrap_or_default());
    append_new(&mut resolver.searches, config.searches.as_deref().unwrap_or_default());
    for option in config.options.iter().flatten() {
        let Some(name) = &option.name else { continue };
        resolver.options.retain(|known| known.split(':').next() != Some(name));
        resolver.options.push(match option.value.as_deref().filter(|value| !value.is_empty()) {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        let metadata = json!({"name": "p", "namespace": "ns"});
        serde_json::from_value(json!({"metadata": metadata, "spec": spec})).unwrap()
    }

    #[test]
    fn cluster_first() {
        let host = Resolver::parse("nameserver 1.1.1.1\nsearch corp.example\noptions edns0\n");
        let dns = ["10.47.240.10".parse().unwrap()];
        let text = resolver(&pod(json!({"containers": []})), &host, &dns, "cluster.local").text();
        assert_eq!(
            text,
            "search ns.svc.cluster.local svc.cluster.local cluster.local corp.example\n\
             nameserver 10.47.240.10\noptions ndots:5\n"
        );
        let network = pod(json!({"containers": [], "hostNetwork": true}));
        assert_eq!(resolver(&network, &host, &dns, "cluster.local"), host);
        let own = pod(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["9.9.9.9"], "searches": ["x"], "options": [{"name": "ndots", "value": "2"}],
        }}));
        assert_eq!(
            resolver(&own, &host, &dns, "cluster.local").text(),
            "search x\nnameserver 9.9.9.9\noptions ndots:2\n"
        );
    }

    #[test]
    fn managed_hosts() {
        let pod = pod(json!({
            "containers": [], "hostname": "h", "subdomain": "sub",
            "hostAliases": [{"ip": "127.0.0.1", "hostnames": ["foo.local", "bar.local"]}],
        }));
        let text = hosts(&pod, &["10.44.0.5".parse().unwrap()], "cluster.local", None);
        assert!(text.contains("10.44.0.5\th.sub.ns.svc.cluster.local\th\n"), "{text}");
        assert!(
            text.ends_with("# Entries added by HostAliases.\n127.0.0.1\tfoo.local\tbar.local\n")
        );
    }
}
