//! Opens foreign firewalls for pods and reports what was found, once.

use crate::firewall::{self, Openings, Report};
use crate::netlink::Socket;

use super::network::Chain;

/// Opens what drops; logs what is not as in `before`.
pub fn open(socket: &Socket, openings: &Openings, before: &Report) -> Report {
    let report = match firewall::open(socket, openings) {
        Ok(report) => report,
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "cannot read the rules of firewalls");
            return Report::default();
        }
    };
    if !report.opened.is_empty() && report.opened != before.opened {
        tracing::warn!(
            chains = report.opened.join(", "),
            "a firewall drops what it does not know; rules that accept pods' packets were added \
             there and go away with `coracle reset`"
        );
    }
    if report.closed != before.closed {
        for (chain, reason) in &report.closed {
            tracing::warn!(
                chain,
                reason,
                "a firewall drops what it does not know and lets nothing be added; make it accept \
                 packets from and to {} (firewalld: `firewall-cmd --permanent --zone=trusted \
                 --add-source={}`, then `--reload`)",
                openings.pods,
                openings.pods
            );
        }
    }
    report
}

/// Explains what to do about legacy `iptables`, whose rules cannot be changed from here.
pub fn explain_legacy(openings: &Openings) {
    if firewall::has_legacy_filter() {
        let pods = openings.pods;
        tracing::warn!(
            "legacy iptables is in use on this machine; where its chains drop, pods need \
             `iptables-legacy -I FORWARD -s {pods} -j ACCEPT`, \
             `iptables-legacy -I FORWARD -d {pods} -j ACCEPT` and \
             `iptables-legacy -I INPUT -s {pods} -j ACCEPT`"
        );
    }
}
