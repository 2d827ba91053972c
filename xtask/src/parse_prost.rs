//! Reads the messages of k8s-pb: prost attributes and doc comments, line by line.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Directory relative to the source root, for example `api/core/v1`, and the Rust struct name.
pub type Name = (String, String);

/// A protobuf message.
#[derive(Debug, Default)]
pub struct Message {
    /// Doc comment, without comment signs.
    pub doc: Vec<String>,
    pub fields: Vec<Field>,
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    pub doc: Vec<String>,
    /// The Rust name without `r#`.
    pub name: String,
    pub tag: u16,
    pub shape: Shape,
    pub ty: Type,
}

/// How often a value occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Single,
    List,
    Map,
}

/// What a value is on the wire.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Message(Name),
}

/// Every message below `root`.
pub fn parse(root: &Path) -> Result<BTreeMap<Name, Message>, String> {
    let mut messages = BTreeMap::new();
    visit(root, "", &mut messages)?;
    Ok(messages)
}

fn visit(path: &Path, dir: &str, messages: &mut BTreeMap<Name, Message>) -> Result<(), String> {
    let entries = fs::read_dir(path).map_err(|error| format!("{}: {error}", path.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            let dir = if dir.is_empty() { file } else { format!("{dir}/{file}") };
            visit(&path, &dir, messages)?;
        } else if file == "mod.rs" {
            let text = fs::read_to_string(&path)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            parse_file(&text, dir, messages)
                .map_err(|error| format!("{}: {error}", path.display()))?;
        }
    }
    Ok(())
}

fn parse_file(text: &str, dir: &str, messages: &mut BTreeMap<Name, Message>) -> Result<(), String> {
    let mut doc = Vec::new();
    let mut is_message = false;
    let mut current: Option<(String, Message)> = None;
    let mut attribute: Option<String> = None;
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        let trimmed = line.trim();
        if let Some(comment) = trimmed.strip_prefix("///") {
            doc.push(comment.strip_prefix(' ').unwrap_or(comment).to_owned());
        } else if trimmed.starts_with("#[derive(") {
            is_message = trimmed.contains("::prost::Message");
        } else if trimmed.starts_with("#[prost(") {
            let mut whole = trimmed.to_owned();
            while !whole.ends_with(")]") {
                let next = lines.next().ok_or("an attribute does not end")?;
                whole.push_str(next.trim());
            }
            attribute = Some(whole);
        } else if let Some(name) = struct_name(line).filter(|_| is_message) {
            is_message = false;
            let message = Message { doc: std::mem::take(&mut doc), fields: Vec::new() };
            if trimmed.ends_with("{}") {
                messages.insert((dir.to_owned(), name), message);
            } else {
                current = Some((name, message));
            }
        } else if line == "}" {
            if let Some((name, message)) = current.take() {
                messages.insert((dir.to_owned(), name), message);
            }
            doc.clear();
        } else if let (Some((_, message)), Some(attribute)) = (&mut current, attribute.take()) {
            let mut whole = trimmed.to_owned();
            while !whole.ends_with(',') || whole.matches('<').count() != whole.matches('>').count()
            {
                whole.push_str(lines.next().ok_or("a field does not end")?.trim());
            }
            let doc = std::mem::take(&mut doc);
            message.fields.push(
                parse_field(&attribute, &whole, dir, doc)
                    .ok_or_else(|| format!("cannot parse {attribute} {whole}"))?,
            );
        } else if !trimmed.is_empty() && !trimmed.starts_with('#') {
            doc.clear();
        }
    }
    Ok(())
}

fn struct_name(line: &str) -> Option<String> {
    let rest = line.strip_prefix("pub struct ")?;
    Some(rest.split([' ', '{', '(']).next()?.to_owned())
}

fn parse_field(attribute: &str, text: &str, dir: &str, doc: Vec<String>) -> Option<Field> {
    let (name, rust_type) = text.strip_prefix("pub ")?.split_once(':')?;
    let inner = attribute.strip_prefix("#[prost(")?.strip_suffix(")]")?;
    let tag = inner.split("tag = \"").nth(1)?.split('"').next()?.parse().ok()?;
    let (shape, wire) = if let Some(map) = inner.strip_prefix("btree_map = \"string, ") {
        (Shape::Map, map.split('"').next()?)
    } else {
        let mut parts = inner.split(", ");
        let wire = parts.next()?.split(' ').next()?;
        let repeated = parts.any(|part| part == "repeated");
        (if repeated { Shape::List } else { Shape::Single }, wire)
    };
    let ty = match wire {
        "string" => Type::String,
        "bool" => Type::Bool,
        "int32" => Type::Int32,
        "int64" => Type::Int64,
        "double" => Type::Double,
        "bytes" => Type::Bytes,
        "message" => Type::Message(resolve(rust_type, dir)?),
        _ => return None,
    };
    Some(Field { doc, name: name.trim_start_matches("r#").to_owned(), tag, shape, ty })
}

/// Resolves the last path in a Rust type, `Option<super::super::core::v1::Pod>`, relative to `dir`.
fn resolve(rust_type: &str, dir: &str) -> Option<Name> {
    let path = rust_type.trim_end_matches([',', '>', ' ']).rsplit(['<', ',', ' ']).next()?;
    let mut segments: Vec<&str> = dir.split('/').collect();
    let mut parts: Vec<&str> = path.split("::").collect();
    let name = parts.pop()?;
    for part in parts {
        match part {
            "super" => {
                segments.pop()?;
            }
            part => segments.push(part),
        }
    }
    Some((segments.join("/"), name.to_owned()))
}
