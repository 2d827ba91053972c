//! Joins protobuf messages with the JSON names of the same types.

use std::collections::{BTreeMap, BTreeSet};

use crate::parse_openapi::{Struct, Structs};
use crate::parse_prost::{self, Message, Name, Shape, Type};
use crate::pointers;
use crate::roots::{ALIASES, GROUPS};

/// What is emitted.
#[derive(Debug)]
pub struct Schema {
    /// Sorted by definition name.
    pub messages: Vec<Definition>,
    /// Group, version, kind and definition name, sorted.
    pub kinds: Vec<(String, String, String, String)>,
}

/// A message with its JSON view.
#[derive(Debug)]
pub struct Definition {
    /// Name in the OpenAPI document, for example `io.k8s.api.core.v1.Pod`.
    pub name: String,
    pub doc: String,
    /// Whether server-side apply owns it as a whole.
    pub atomic: bool,
    /// Sorted by JSON name; inlined ones first.
    pub fields: Vec<Member>,
}

/// A field of a message.
#[derive(Debug, Default)]
pub struct Member {
    /// Empty if the members of the target are members of this message in JSON.
    pub json: String,
    /// 0 if the field is not on the wire.
    pub tag: u16,
    pub doc: String,
    /// Variant of `api::schema::Kind`.
    pub kind: &'static str,
    /// Variant of `api::schema::Shape`.
    pub shape: &'static str,
    /// Definition name.
    pub target: Option<String>,
    pub required: bool,
    pub pointer: bool,
    pub merge: bool,
    pub retain_keys: bool,
    pub merge_key: String,
    pub list_type: String,
    pub list_keys: Vec<String>,
    pub atomic_map: bool,
    /// JSON text.
    pub default: String,
}

struct Joiner<'a> {
    protobuf: BTreeMap<Name, Message>,
    openapi: &'a Structs,
    /// Lower-case type name → real names.
    types: BTreeMap<String, String>,
    /// Lower-case JSON name → JSON names.
    names: BTreeMap<String, BTreeSet<String>>,
}

/// Joins both sources; fails on anything that it cannot place.
pub fn join(protobuf: BTreeMap<Name, Message>, openapi: &Structs) -> Result<Schema, String> {
    let mut joiner = Joiner { protobuf, openapi, types: BTreeMap::new(), names: BTreeMap::new() };
    for ((_, lower), found) in openapi {
        joiner.types.insert(lower.clone(), found.name.clone());
        for json in found.fields.keys() {
            joiner.names.entry(squash(json)).or_default().insert(json.clone());
        }
    }
    joiner.run()
}

impl Joiner<'_> {
    fn run(&self) -> Result<Schema, String> {
        let mut kinds = Vec::new();
        let mut queue: Vec<Name> = Vec::new();
        let mut roots = BTreeSet::new();
        for group in GROUPS {
            for (name, message) in self.protobuf.iter().filter(|(name, _)| name.0 == group.dir) {
                let real = self.real_name(name);
                if !is_kind(message, &real) && !group.more.contains(&real.as_str()) {
                    continue;
                }
                if self.is_newer(name) {
                    continue;
                }
                let (group, version) = (group.group.to_owned(), group.version.to_owned());
                kinds.push((group, version, real, self.definition_name(name)));
                roots.insert(name.clone());
                queue.push(name.clone());
            }
        }
        let mut done = BTreeMap::new();
        while let Some(name) = queue.pop() {
            if done.contains_key(&name) {
                continue;
            }
            let (definition, targets) = self.definition(&name, roots.contains(&name))?;
            queue.extend(targets);
            done.insert(name, definition);
        }
        for (group, version, kind, (dir, like)) in ALIASES {
            let like = ((*dir).to_owned(), (*like).to_owned());
            let (mut definition, _) = self.definition(&like, true)?;
            definition.name = format!("io.k8s.api.{group}.{version}.{kind}");
            kinds.push((
                (*group).to_owned(),
                (*version).to_owned(),
                (*kind).to_owned(),
                definition.name.clone(),
            ));
            done.insert((format!("api/{group}/{version}"), (*kind).to_owned()), definition);
        }
        kinds.sort();
        let mut messages: Vec<Definition> = done.into_values().collect();
        messages.sort_by(|a, b| a.name.cmp(&b.name));
        pointers::verify(&messages)?;
        Ok(Schema { messages, kinds })
    }

    fn definition(&self, name: &Name, is_root: bool) -> Result<(Definition, Vec<Name>), String> {
        let message =
            self.protobuf.get(name).ok_or_else(|| format!("no message {}/{}", name.0, name.1))?;
        let counterpart = self.counterpart(name);
        let borrowed = counterpart.or_else(|| self.relative(name));
        let mut fields = Vec::new();
        let mut targets = Vec::new();
        if is_root {
            for (json, doc) in TYPE_META {
                fields.push(Member {
                    json: json.to_owned(),
                    doc: doc.to_owned(),
                    kind: "String",
                    shape: "Single",
                    ..Member::default()
                });
            }
        }
        for field in &message.fields {
            let Some(json) = self.json_name(field, counterpart, borrowed) else {
                continue;
            };
            let known = borrowed.and_then(|found| found.fields.get(&json));
            let mut member = markers(&field.doc);
            let optional = has_marker(&field.doc, "optional");
            member.required =
                !json.is_empty() && known.is_some_and(|known| known.mandatory) && !optional;
            member.doc = match known {
                Some(known) if counterpart.is_some() => known.doc.clone(),
                _ => description(&field.doc),
            };
            member.pointer = pointers::is_pointer(&self.definition_name(name), &json);
            member.json = json;
            member.tag = field.tag;
            member.shape = match field.shape {
                Shape::Single => "Single",
                Shape::List => "List",
                Shape::Map => "Map",
            };
            member.kind = match &field.ty {
                Type::String => "String",
                Type::Bool => "Bool",
                Type::Int32 => "Int32",
                Type::Int64 => "Int64",
                Type::Double => "Double",
                Type::Bytes => "Bytes",
                Type::Message(target) => match special(target) {
                    Some(special) => special,
                    None => {
                        member.target = Some(self.definition_name(target));
                        targets.push(target.clone());
                        "Message"
                    }
                },
            };
            fields.push(member);
        }
        if let Some(found) = counterpart {
            self.verify_complete(name, found, &fields)?;
        }
        fields.sort_by(|a, b| a.json.cmp(&b.json).then(a.tag.cmp(&b.tag)));
        let definition = Definition {
            name: self.definition_name(name),
            doc: counterpart.map_or_else(|| description(&message.doc), |found| found.doc.clone()),
            atomic: message.doc.iter().any(|line| line.trim() == "+structType=atomic"),
            fields,
        };
        Ok((definition, targets))
    }

    /// `None` if the release we report does not have the field yet, empty if it is inlined.
    fn json_name(
        &self,
        field: &parse_prost::Field,
        counterpart: Option<&Struct>,
        borrowed: Option<&Struct>,
    ) -> Option<String> {
        let squashed = squash(&field.name);
        if let Some(found) = borrowed {
            if let Some(json) = found.fields.keys().find(|json| squash(json) == squashed) {
                return Some(json.clone());
            }
            if counterpart.is_some() && found.fields.is_empty() {
                return None;
            }
        }
        if let Type::Message(target) = &field.ty
            && special(target).is_none()
            && field.shape == Shape::Single
            && (squashed == "ingressrulevalue"
                || counterpart.is_some_and(|found| self.is_embedded(target, found)))
        {
            return Some(String::new());
        }
        // The options kinds are not published with all of their members.
        if counterpart.is_some() && squashed != "metadata" {
            return None;
        }
        let camel = camel_case(&field.name);
        match self.names.get(&squashed) {
            Some(names) if !names.contains(&camel) => names.first().cloned(),
            _ => Some(camel),
        }
    }

    /// Whether most fields of `target` are fields of `found` (some may be newer than the release).
    fn is_embedded(&self, target: &Name, found: &Struct) -> bool {
        let Some(message) = self.protobuf.get(target) else { return false };
        let is_member = |field: &&parse_prost::Field| {
            let squashed = squash(&field.name);
            found.fields.keys().any(|json| squash(json) == squashed)
                || matches!(&field.ty, Type::Message(inner) if self.is_embedded(inner, found))
        };
        let members = message.fields.iter().filter(is_member).count();
        members > 0 && members * 2 >= message.fields.len()
    }

    /// Each JSON field must have found its protobuf tag.
    fn verify_complete(
        &self,
        name: &Name,
        found: &Struct,
        fields: &[Member],
    ) -> Result<(), String> {
        let mut seen: BTreeSet<String> = fields.iter().map(|field| field.json.clone()).collect();
        let inlined: Vec<&Member> = fields.iter().filter(|field| field.json.is_empty()).collect();
        for member in inlined {
            let target = self
                .protobuf
                .keys()
                .find(|name| Some(self.definition_name(name)) == member.target)
                .ok_or("an inlined message is missing")?;
            self.collect(target, found, &mut seen);
        }
        for json in found.fields.keys() {
            if !seen.contains(json) {
                return Err(format!("{}/{}: no protobuf field for {json}", name.0, name.1));
            }
        }
        Ok(())
    }

    fn collect(&self, target: &Name, found: &Struct, seen: &mut BTreeSet<String>) {
        let Some(message) = self.protobuf.get(target) else { return };
        for field in &message.fields {
            let squashed = squash(&field.name);
            match found.fields.keys().find(|json| squash(json) == squashed) {
                Some(json) => {
                    seen.insert(json.clone());
                }
                None => {
                    if let Type::Message(inner) = &field.ty {
                        self.collect(inner, found, seen);
                    }
                }
            }
        }
    }

    fn counterpart(&self, name: &Name) -> Option<&Struct> {
        self.openapi.get(&(name.0.clone(), name.1.to_lowercase()))
    }

    /// The type of the same name in the newest version of the same group, else in any group.
    fn relative(&self, name: &Name) -> Option<&Struct> {
        let lower = name.1.to_lowercase();
        let group = name.0.rsplit_once('/').map_or("", |(group, _)| group);
        let named = || self.openapi.iter().filter(|((_, other), _)| *other == lower);
        let mut same_group =
            named().filter(|((dir, _), _)| dir.rsplit_once('/').is_some_and(|d| d.0 == group));
        same_group.next_back().or_else(|| named().next_back()).map(|(_, found)| found)
    }

    /// Whether a kind of a stable version came after the release we report.
    fn is_newer(&self, name: &Name) -> bool {
        let version = name.0.rsplit('/').next().unwrap_or_default();
        let stable = !version.contains("alpha") && !version.contains("beta");
        stable
            && self.openapi.keys().any(|(dir, _)| *dir == name.0)
            && self.counterpart(name).is_none()
            && !NOT_PUBLISHED.contains(&name.1.as_str())
    }

    fn real_name(&self, name: &Name) -> String {
        let lower = name.1.to_lowercase();
        match self.counterpart(name) {
            Some(found) => found.name.clone(),
            None => self.types.get(&lower).cloned().unwrap_or_else(|| name.1.replace("Api", "API")),
        }
    }

    fn definition_name(&self, name: &Name) -> String {
        let package = name.0.replace('_', "-").replace('/', ".");
        format!("io.k8s.{package}.{}", self.real_name(name))
    }
}

/// Kinds of the meta group that the OpenAPI document does not publish.
const NOT_PUBLISHED: &[&str] =
    &["CreateOptions", "PatchOptions", "UpdateOptions", "PartialObjectMetadata"];

const TYPE_META: [(&str, &str); 2] = [
    (
        "apiVersion",
        "APIVersion defines the versioned schema of this representation of an object. Servers should convert recognized schemas to the latest internal value, and may reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#resources",
    ),
    (
        "kind",
        "Kind is a string value representing the REST resource this object represents. Servers may infer this from the endpoint the client submits requests to. Cannot be updated. In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/api-conventions.md#types-kinds",
    ),
];

fn is_kind(message: &Message, name: &str) -> bool {
    let has_metadata = message.fields.iter().any(|field| {
        field.name == "metadata"
            && matches!(&field.ty, Type::Message((_, target)) if target == "ObjectMeta")
    });
    let is_part = name.ends_with("TemplateSpec")
        || ["PersistentVolumeClaimTemplate", "PodStatusResult", "RangeAllocation", "JobTemplate"]
            .contains(&name);
    has_metadata && !is_part
}

/// Messages that JSON writes in a form of their own.
fn special((dir, name): &Name) -> Option<&'static str> {
    let special = match name.as_str() {
        "IntOrString" => "IntOrString",
        "Quantity" => "Quantity",
        "Time" if dir.ends_with("meta/v1") => "Time",
        "MicroTime" => "MicroTime",
        "Duration" if dir.ends_with("meta/v1") => "Duration",
        "RawExtension"
        | "FieldsV1"
        | "Json"
        | "JsonSchemaPropsOrArray"
        | "JsonSchemaPropsOrBool"
        | "JsonSchemaPropsOrStringArray" => "Raw",
        "Verbs" | "ExtraValue" => "Strings",
        _ => return None,
    };
    Some(special)
}

fn markers(doc: &[String]) -> Member {
    let mut member = Member::default();
    for line in doc {
        let Some((key, value)) = line.trim().strip_prefix('+').and_then(|l| l.split_once('='))
        else {
            continue;
        };
        let value = value.trim();
        match key {
            "patchStrategy" => {
                member.merge = value.split(',').any(|strategy| strategy == "merge");
                member.retain_keys = value.split(',').any(|strategy| strategy == "retainKeys");
            }
            "patchMergeKey" => member.merge_key = value.to_owned(),
            "listType" => member.list_type = value.to_owned(),
            "listMapKey" => member.list_keys.push(value.to_owned()),
            "mapType" | "structType" => member.atomic_map = value == "atomic",
            "default" if !value.starts_with("ref(") => member.default = value.to_owned(),
            _ => {}
        }
    }
    member
}

fn has_marker(doc: &[String], marker: &str) -> bool {
    doc.iter().any(|line| line.trim().strip_prefix('+') == Some(marker))
}

/// The text that upstream publishes for a Go comment: lines joined, markers left out.
fn description(doc: &[String]) -> String {
    let mut text = String::new();
    for line in doc {
        let line = line.trim();
        if line == "---" {
            break;
        }
        if line.starts_with('+') || line.starts_with("TODO") {
            continue;
        }
        if line.is_empty() {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push_str("\n\n");
            }
        } else {
            if !text.is_empty() && !text.ends_with('\n') {
                text.push(' ');
            }
            text.push_str(line);
        }
    }
    for (escaped, plain) in
        [("\\[", "["), ("\\]", "]"), ("\\*", "*"), ("\\_", "_"), ("<http", "http")]
    {
        text = text.replace(escaped, plain);
    }
    text.replace("> ", " ").trim().trim_end_matches('>').to_owned()
}

fn squash(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn camel_case(snake: &str) -> String {
    let mut camel = String::new();
    let mut upper = false;
    for c in snake.chars() {
        if c == '_' {
            upper = true;
        } else if upper {
            camel.push(c.to_ascii_uppercase());
            upper = false;
        } else {
            camel.push(c);
        }
    }
    camel
}
