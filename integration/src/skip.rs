//! Reports that a test cannot run here. The tests of other crates include this file.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::MetadataExt;

/// The variable that names the file in which `integration/scripts/test.sh` collects skips. The
/// runner hides what tests that pass print.
const COLLECTED_IN: &str = "CORACLE_SKIPS";

/// Prints `SKIPPED: reason (tool: NAME)` and adds the line to the file that `CORACLE_SKIPS` names.
/// `tool` is what the test lacks.
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub fn skip(reason: &str, tool: &str) {
    let line = format!("SKIPPED: {reason} (tool: {tool})\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os(COLLECTED_IN) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        // A single write: tests of other processes append at the same time.
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the file that CORACLE_SKIPS names can be written");
    }
}

/// Returns whether this process is root; otherwise the test is skipped.
#[allow(dead_code)]
pub fn is_root(what: &str) -> bool {
    let root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    if !root {
        skip(&format!("{what} needs root"), "root");
    }
    root
}
