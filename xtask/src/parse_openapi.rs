//! Reads the structs of k8s-openapi: real type names, JSON names, which fields are mandatory, and
//! the descriptions of the published OpenAPI document.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// A struct of k8s-openapi.
#[derive(Debug, Default)]
pub struct Struct {
    /// The real name, for example `AWSElasticBlockStoreVolumeSource`.
    pub name: String,
    pub doc: String,
    /// By JSON name.
    pub fields: BTreeMap<String, Field>,
}

/// A field of a struct.
#[derive(Debug)]
pub struct Field {
    pub doc: String,
    /// Whether the Rust type is not an `Option`.
    pub mandatory: bool,
}

/// By directory (`api/core/v1`) and lower-case name.
pub type Structs = BTreeMap<(String, String), Struct>;

/// Every struct below `root`.
pub fn parse(root: &Path) -> Result<Structs, String> {
    let mut structs = BTreeMap::new();
    visit(root, "", &mut structs)?;
    Ok(structs)
}

fn visit(path: &Path, dir: &str, structs: &mut Structs) -> Result<(), String> {
    let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let dir = if dir.is_empty() { file } else { format!("{dir}/{file}") };
            visit(&path, &dir, structs)?;
        } else if file != "mod.rs" {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            parse_file(&text, dir, structs);
        }
    }
    Ok(())
}

fn parse_file(text: &str, dir: &str, structs: &mut Structs) {
    let mut doc: Vec<&str> = Vec::new();
    // Rust name → description and whether it is mandatory.
    let mut members: BTreeMap<&str, (String, bool)> = BTreeMap::new();
    let mut current: Option<Struct> = None;
    let mut in_body = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("///") {
            doc.push(comment.strip_prefix(' ').unwrap_or(comment));
        } else if let Some(rest) = line.strip_prefix("pub struct ").filter(|_| current.is_none()) {
            let name = rest.split([' ', '{', '(', '<']).next().unwrap_or_default();
            current = Some(Struct {
                name: name.to_owned(),
                doc: description(&doc),
                fields: BTreeMap::new(),
            });
            doc.clear();
            in_body = line.ends_with('{');
        } else if line == "}" {
            in_body = false;
            doc.clear();
        } else if in_body && let Some(rest) = trimmed.strip_prefix("pub ") {
            if let Some((name, ty)) = rest.split_once(": ") {
                members.insert(name, (description(&doc), !ty.starts_with("Option<")));
            }
            doc.clear();
        } else if let Some((json, rust)) = trimmed.split_once("\" => Field::Key_") {
            let rust = rust.trim_end_matches(',');
            let member = members.get(rust).or_else(|| members.get(format!("r#{rust}").as_str()));
            if let (Some(current), Some((doc, mandatory))) = (&mut current, member) {
                let json = json.trim_start_matches('"').to_owned();
                current.fields.insert(json, Field { doc: doc.clone(), mandatory: *mandatory });
            }
        } else if !trimmed.starts_with('#') && !trimmed.is_empty() {
            doc.clear();
        }
    }
    if let Some(current) = current {
        structs.insert((dir.to_owned(), current.name.to_lowercase()), current);
    }
}

/// Joins the lines of a doc comment and takes back what rustdoc needed to be escaped.
fn description(lines: &[&str]) -> String {
    let mut text = lines.join("\n");
    for (escaped, plain) in [("\\[", "["), ("\\]", "]"), ("\\*", "*"), ("\\_", "_")] {
        text = text.replace(escaped, plain);
    }
    text.trim().to_owned()
}
