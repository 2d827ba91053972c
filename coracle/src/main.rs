//! coracle: Kubernetes for one Linux machine. Arguments → parts → exit code.

mod backup;
mod check;
mod cli;
mod config_file;
mod dashboard;
mod give_back;
mod host_ports;
mod images;
mod in_process;
mod manifests;
mod memory_limit;
mod notify;
mod paths;
mod records;
mod registries;
mod remote;
mod reset;
mod restore;
mod state;
mod status;
mod store_alarm;
mod supervise;
mod up;

use std::process::ExitCode;

use clap::Parser;
use runtime::printable::printable;

use cli::{Cli, Command, ImageCommand, StateCommand};

fn main() -> ExitCode {
    let arguments: Vec<std::ffi::OsString> = std::env::args_os().collect();
    // Internal entry points come before any thread, any parser and any allocation that can be
    // saved: a shim lives as long as its pod.
    match arguments.get(1).and_then(|a| a.to_str()) {
        Some("shim") => return exit(runtime::shim::main(&arguments[2..])),
        Some("oci") => return exit(runtime::oci_cli::main(&arguments[2..])),
        Some("pull-worker") => return exit(runtime::image::worker_main()),
        _ => {}
    }
    let cli = match config_file::expand(arguments).map(Cli::try_parse_from) {
        Ok(Ok(cli)) => cli,
        Ok(Err(error)) => error.exit(),
        Err(error) => return fail(&error),
    };
    let result = match cli.command {
        Command::Up(options) => up::run(*options),
        Command::Check(options) => return exit(check::run(&options)),
        Command::Status(options) => status::run(&options),
        Command::Dashboard(options) => dashboard::run(&options),
        Command::Reset(options) => reset::run(&options),
        Command::Backup(options) => backup::run(&options),
        Command::Restore(options) => restore::run(&options),
        Command::State { command } => match command {
            StateCommand::Ls(options) => records::list(&options),
            StateCommand::Get(options) => records::get(&options),
            StateCommand::Rm(options) => records::remove(&options),
            StateCommand::Export(options) => records::export(&options),
        },
        Command::Image { command } => match command {
            ImageCommand::Load(options) => images::load(&options),
            ImageCommand::Pull(options) => images::pull(&options),
            ImageCommand::Ls(options) => images::list(&options),
            ImageCommand::Rm(options) => images::remove(&options),
            ImageCommand::Prune(options) => images::prune(&options),
        },
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&*error),
    }
}

/// Anything that ends the program with a message.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn exit(code: i32) -> ExitCode {
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}

fn fail(error: &(dyn std::error::Error + Send + Sync + 'static)) -> ExitCode {
    let mut said = error.to_string();
    eprintln!("coracle: {}", printable(&said));
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some errors name their cause themselves.
        if !said.ends_with(&text) {
            eprintln!("  because: {}", printable(&text));
        }
        said = text;
        source = cause.source();
    }
    ExitCode::FAILURE
}
