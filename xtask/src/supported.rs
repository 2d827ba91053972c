//! Writes docs/supported.md. It runs an example of the `api` crate to read the registry, so that
//! this crate builds where that one does not: it generates a part of it.

use std::fs;
use std::process::Command;

use crate::architecture;

/// Writes the page.
pub fn generate() -> Result<String, String> {
    let root = architecture::root();
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["run", "--quiet", "--package", "coracle-api", "--example", "supported"])
        .current_dir(&root)
        .output()
        .map_err(|error| format!("cargo run: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let path = root.join("docs/supported.md");
    fs::write(&path, output.stdout).map_err(|error| format!("{}: {error}", path.display()))?;
    Ok(format!("wrote {}", path.display()))
}
