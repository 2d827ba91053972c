//! Starts the binary on an image, and compares every object through the API.

use std::path::Path;
use std::sync::{Mutex, PoisonError};

use coracle_integration::{Node, NodeOptions};

use crate::ledger::{Entries, Ledger, violations};
use crate::recording::{Log, Position};
use crate::run::copy_tree;
use crate::workload::Load;

/// The node that images are started with.
pub struct ImageNode(Mutex<Node>);

impl ImageNode {
    pub fn new() -> Self {
        let options = NodeOptions { without_images: true, ..NodeOptions::default() };
        Self(Mutex::new(Node::prepare(options)))
    }

    /// Returns the violations that a node on this data directory shows, for a cut after `cut` events.
    pub fn check(&self, data: &Path, entries: &Entries, cut: Position) -> Vec<String> {
        let mut node = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = std::fs::remove_dir_all(node.data());
        copy_tree(data, &node.data());
        if let Err(said) = node.try_up() {
            let said: Vec<&str> = said.lines().rev().take(3).collect();
            return vec![format!("coracle up fails: {}", said.join(" | "))];
        }
        let (log, ledger) = (Log::default(), Ledger::default());
        let load =
            Load { kubeconfig: node.kubeconfig(), log: &log, ledger: &ledger, netns: &node.ns };
        let seen = load.look();
        node.kill_agent();
        match seen {
            Some((found, revision)) => violations(entries, &found, revision, cut),
            None => vec!["the node ended after its start".into()],
        }
    }
}
