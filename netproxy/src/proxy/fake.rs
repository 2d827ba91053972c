//! A proxy without a kernel, for tests.
#![allow(clippy::unwrap_used)]

use super::config::{Backend, ProxyConfig, Result};
use super::frontends::Change;
use super::sync::Proxy;

/// A kernel that takes everything.
struct Willing;

impl Backend for Willing {
    fn replace(&mut self, _: &[Change]) -> Result<()> {
        Ok(())
    }
    fn update(&mut self, _: &[Change]) -> Result<()> {
        Ok(())
    }
    fn forget(&mut self, _: &[Change]) -> Result<()> {
        Ok(())
    }
}

/// A proxy whose kernel takes everything.
pub(super) fn proxy() -> Proxy {
    let config = ProxyConfig {
        node_name: "node".into(),
        pod_cidrs: vec!["10.44.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.47.240.0/20".parse().unwrap()],
        dns_ip: None,
        api: Vec::new(),
    };
    Proxy::with_backend(config, Box::new(Willing))
}
