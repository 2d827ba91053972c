//! Where Cargo keeps the sources that the schema is generated from.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

/// Root directories of the two source trees.
pub struct Sources {
    /// `src` of k8s-pb: protobuf tags and Go markers.
    pub protobuf: PathBuf,
    /// `src/v1_33` of k8s-openapi: JSON names and descriptions.
    pub openapi: PathBuf,
}

impl Sources {
    /// Asks Cargo, without network.
    pub fn find() -> Result<Self, String> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args(["metadata", "--format-version=1", "--offline", "--features=sources"])
            .arg("--filter-platform=x86_64-unknown-linux-gnu")
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .map_err(|error| format!("cannot run cargo metadata: {error}"))?;
        if !output.status.success() {
            return Err(format!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ));
        }
        let metadata: Value = serde_json::from_slice(&output.stdout)
            .map_err(|error| format!("cannot read the output of cargo metadata: {error}"))?;
        let directory = |name: &str| -> Result<PathBuf, String> {
            let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
            let manifest = packages
                .iter()
                .find(|package| package["name"] == name)
                .and_then(|package| package["manifest_path"].as_str())
                .ok_or_else(|| format!("the sources of {name} are not fetched"))?;
            Ok(PathBuf::from(manifest).with_file_name("src"))
        };
        Ok(Self {
            protobuf: directory("k8s-pb")?,
            openapi: directory("k8s-openapi")?.join("v1_33"),
        })
    }
}
