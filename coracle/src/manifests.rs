//! `--manifests DIR`: applies what the directory holds, in order of file names, at start.

use std::path::{Path, PathBuf};

use kube::api::{DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use kube::{Api, Client, discovery};

use crate::Failure;

/// The field manager of what the directory applies.
const FIELD_MANAGER: &str = "coracle-manifests";

/// Applies every document of every `.yaml`, `.yml` and `.json` file; a file that cannot be applied
/// is reported and does not stop the others.
pub async fn apply(client: Client, dir: &Path) -> Result<(), Failure> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(dir)
        .map_err(|e| format!("{}: {e}", dir.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .and_then(|e| e.to_str())
                .is_some_and(|e| matches!(e, "yaml" | "yml" | "json"))
        })
        .collect();
    files.sort();
    for file in files {
        if let Err(error) = apply_file(&client, &file).await {
            tracing::error!(file = %file.display(), %error, "manifest not applied");
        }
    }
    Ok(())
}

async fn apply_file(client: &Client, file: &Path) -> Result<(), Failure> {
    let text = std::fs::read_to_string(file)?;
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text)?;
    for document in documents.into_iter().filter(|d| !d.is_null()) {
        let object: DynamicObject = serde_json::from_value(document)?;
        let types = object.types.clone().ok_or("a document without apiVersion and kind")?;
        let name = object.metadata.name.clone().ok_or("a document without metadata.name")?;
        let kind = GroupVersionKind::try_from(&types)?;
        let (resource, capabilities) = discovery::pinned_kind(client, &kind).await?;
        let api: Api<DynamicObject> = match capabilities.scope {
            discovery::Scope::Cluster => Api::all_with(client.clone(), &resource),
            discovery::Scope::Namespaced => {
                let namespace = object.metadata.namespace.as_deref().unwrap_or("default");
                Api::namespaced_with(client.clone(), namespace, &resource)
            }
        };
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        api.patch(&name, &parameters, &Patch::Apply(&object)).await?;
    }
    Ok(())
}
