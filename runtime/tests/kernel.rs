//! The execution engine on the real kernel: busybox containers in cgroups and namespaces of their
//! own. Needs root; without it every case is skipped visibly.
//!
//! The binary is its own shim: executed as `… shim <id>` it becomes one.

#![allow(clippy::unwrap_used)]

#[path = "kernel/cases.rs"]
mod cases;
#[path = "kernel/hostile.rs"]
mod hostile;
#[path = "kernel/remains.rs"]
mod remains;
#[path = "../../integration/src/skip.rs"]
mod skip;
#[path = "kernel/world.rs"]
mod world;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    match args.get(1).and_then(|a| a.to_str()) {
        Some("shim") => return ExitCode::from(coracle_runtime::shim::main(&args[2..]) as u8),
        Some("hold") => return world::hold(&args[2..]),
        Some("oci") => return ExitCode::from(coracle_runtime::oci_cli::main(&args[2..]) as u8),
        _ => {}
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let flag = |name: &str| args.iter().any(|a| a == name);
    if flag("--list") {
        if !flag("--ignored") {
            all().for_each(|(name, _)| println!("{name}: test"));
        }
        return ExitCode::SUCCESS;
    }
    let wanted: Vec<&String> = args.iter().filter(|a| !a.starts_with('-')).collect();
    let chosen = all().filter(|(name, _)| {
        wanted.is_empty()
            || wanted.iter().any(|w| {
                if flag("--exact") { *name == w.as_str() } else { name.contains(w.as_str()) }
            })
    });
    if !nix::unistd::geteuid().is_root() {
        chosen.for_each(|(name, _)| skip::skip(&format!("{name} needs root"), "root"));
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, case) in chosen {
        let started = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(|| world::run(*case));
        let verdict = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("{name}: {verdict} ({} ms)", started.elapsed().as_millis());
        failed += usize::from(outcome.is_err());
    }
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn all() -> impl Iterator<Item = &'static (&'static str, world::Case)> {
    cases::ALL.iter().chain(hostile::ALL).chain(remains::ALL)
}
