//! A proxy without a kernel, for tests.
#![allow(clippy::unwrap_used)]

use std::collections::HashSet;
use std::io;
use std::sync::{Arc, Mutex};

use super::config::{Backend, ProxyConfig, ProxyError, Result};
use super::frontends::{Change, Installed};
use super::plan::Frontend;
use super::sync::Proxy;
use crate::held::Held;
use crate::netlink::NetlinkError;

/// A kernel that takes everything, unless it fails.
#[derive(Clone, Default)]
pub(super) struct Kernel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    frontends: HashSet<Frontend>,
    fails: bool,
}

impl Kernel {
    pub(super) fn fail(&self, fails: bool) {
        self.0.lock().unwrap().fails = fails;
    }

    pub(super) fn frontends(&self) -> usize {
        self.0.lock().unwrap().frontends.len()
    }
}

impl Backend for Kernel {
    fn replace(&mut self, all: &[Change]) -> Result<()> {
        self.0.lock().unwrap().frontends.clear();
        self.update(all)
    }

    fn update(&mut self, changes: &[Change]) -> Result<()> {
        let mut state = self.0.lock().unwrap();
        for change in changes {
            match change.after == Installed::default() {
                true => state.frontends.remove(&change.frontend),
                false => state.frontends.insert(change.frontend),
            };
        }
        Ok(())
    }

    fn forget(&mut self, _: &[Change]) -> Result<()> {
        Ok(())
    }

    fn hold(&mut self, _: &Held) -> Result<()> {
        if self.0.lock().unwrap().fails {
            let source = io::Error::from_raw_os_error(libc::ENOBUFS);
            let source = NetlinkError::Transfer { step: "send", source };
            return Err(ProxyError::Kernel { step: "hold ports of the host", source });
        }
        Ok(())
    }
}

/// A proxy whose kernel takes everything.
pub(super) fn proxy() -> Proxy {
    proxy_over(&Kernel::default())
}

/// A proxy over this kernel.
pub(super) fn proxy_over(kernel: &Kernel) -> Proxy {
    let config = ProxyConfig {
        node_name: "node".into(),
        pod_cidrs: vec!["10.44.0.0/16".parse().unwrap()],
        service_cidrs: vec!["10.47.240.0/20".parse().unwrap()],
        dns_ip: None,
        api: Vec::new(),
    };
    Proxy::with_backend(config, Box::new(kernel.clone()))
}
