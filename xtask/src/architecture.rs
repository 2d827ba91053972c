//! Holds the tree to ARCHITECTURE.md: who links whom, which licences are linked, how sources are
//! laid out, and whether the documents name what exists.

mod arrows;
mod documents;
mod licences;
mod limits;
mod sources;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The target whose dependencies count: what is released.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Everything that is not as it should be, a line each.
pub fn violations() -> Result<Vec<String>, String> {
    let root = root();
    let metadata = metadata(&root)?;
    let mut found = arrows::violations(&metadata);
    found.extend(licences::violations(&metadata));
    found.extend(sources::violations(&root, &metadata)?);
    found.extend(documents::violations(&root)?);
    found.extend(limits::violations(&root)?);
    Ok(found)
}

/// The root of the checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// What Cargo knows of the workspace and everything it links, without asking the network.
fn metadata(root: &Path) -> Result<Value, String> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version=1", "--offline", "--filter-platform", TARGET])
        .current_dir(root)
        .output()
        .map_err(|error| format!("cargo metadata: {error}"))?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    serde_json::from_slice(&output.stdout).map_err(|error| format!("cargo metadata: {error}"))
}

/// The packages of the workspace itself.
fn members(metadata: &Value) -> impl Iterator<Item = &Value> {
    let packages = metadata["packages"].as_array().into_iter().flatten();
    packages.filter(|package| {
        let members = metadata["workspace_members"].as_array().into_iter().flatten();
        members.into_iter().any(|id| *id == package["id"])
    })
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn the_tree_is_as_the_architecture_says() {
        let found = super::violations().unwrap();
        assert!(found.is_empty(), "\n{}", found.join("\n"));
    }
}
