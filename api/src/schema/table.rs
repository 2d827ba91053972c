//! Accessors over the generated tables. The tables hold indices instead of references, so that
//! they are read-only data without relocations.

use std::hash::{DefaultHasher, Hash, Hasher};

use super::generated::{FIELDS, KINDS, LIST_KEYS, MESSAGES, NAME_ENDS, NAMES};

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// Text.
    String,
    /// `true` or `false`.
    Bool,
    /// A signed 32-bit integer.
    Int32,
    /// A signed 64-bit integer.
    Int64,
    /// A floating-point number.
    Double,
    /// Bytes, base64 in JSON.
    Bytes,
    /// An object with a schema: [`Field::message`].
    Message,
    /// A number or a string.
    IntOrString,
    /// `500m`, `1Gi`.
    Quantity,
    /// RFC 3339 with seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A Go duration such as `1m30s`.
    Duration,
    /// Any JSON value.
    Raw,
    /// A list of strings that protobuf wraps in a message of its own.
    Strings,
}

/// How often a value occurs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// At most once.
    Single,
    /// A JSON array.
    List,
    /// A JSON object with arbitrary keys.
    Map,
}

/// How server-side apply merges a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole; also where nothing is declared.
    Atomic,
    /// By value.
    Set,
    /// By [`Field::list_keys`].
    Map,
}

/// A named index of the string table.
fn name(index: u16) -> &'static str {
    let index = usize::from(index);
    let start = if index == 0 { 0 } else { NAME_ENDS[index - 1] as usize };
    &NAMES[start..NAME_ENDS[index] as usize]
}

/// An object type: name, first field, number of fields, atomic.
#[derive(Debug)]
pub struct Message(pub(super) u16, pub(super) u16, pub(super) u16, pub(super) u8);

/// A field: JSON name, protobuf tag, type, shape, target message, flags, patch merge key, list
/// keys, default.
#[derive(Debug)]
pub struct Field(
    pub(super) u16,
    pub(super) u8,
    pub(super) Type,
    pub(super) Shape,
    pub(super) u16,
    pub(super) u16,
    pub(super) u16,
    pub(super) u8,
    pub(super) u16,
);

/// A kind: group, version, kind, message.
#[derive(Debug)]
pub struct KindEntry(pub(super) u16, pub(super) u16, pub(super) u16, pub(super) u16);

impl KindEntry {
    /// The API group, empty for core.
    pub fn group(&self) -> &'static str {
        name(self.0)
    }

    /// The API version.
    pub fn version(&self) -> &'static str {
        name(self.1)
    }

    /// The kind.
    pub fn kind(&self) -> &'static str {
        name(self.2)
    }

    /// Its fields.
    pub fn message(&self) -> &'static Message {
        &MESSAGES[usize::from(self.3)]
    }
}

impl Message {
    /// The name in OpenAPI documents, for example `io.k8s.api.apps.v1.Deployment`.
    pub fn name(&self) -> &'static str {
        name(self.0)
    }

    /// The Go type without package, for example `DeploymentSpec`.
    pub fn short_name(&self) -> &'static str {
        self.name().rsplit('.').next().unwrap_or_default()
    }

    /// The Go type as error texts print it, for example `v1.DeploymentSpec`.
    pub fn go_type(&self) -> &'static str {
        let name = self.name();
        let mut dots = name.rmatch_indices('.').map(|(at, _)| at);
        dots.nth(1).map_or(name, |at| &name[at + 1..])
    }

    /// Whether server-side apply owns objects of this type as a whole.
    pub fn is_atomic(&self) -> bool {
        self.3 != 0
    }

    /// Position in [`messages`].
    pub fn index(&self) -> usize {
        MESSAGES.partition_point(|message| message.name() < self.name())
    }

    /// Position of the first field among all fields of all messages.
    pub(super) fn first_field(&self) -> usize {
        usize::from(self.1)
    }

    /// The fields as protobuf nests them, inlined ones first, the others by JSON name.
    pub fn fields(&self) -> &'static [Field] {
        let first = usize::from(self.1);
        &FIELDS[first..first + usize::from(self.2)]
    }

    /// The field of a JSON member, looking through inlined messages.
    pub fn field(&self, json_name: &str) -> Option<&'static Field> {
        let mut found = None;
        for field in self.fields() {
            if field.is_inlined() {
                found = found.or_else(|| field.message()?.field(json_name));
            } else if field.json_name() == json_name {
                return Some(field);
            }
        }
        found
    }

    /// The field of a protobuf tag.
    pub fn field_by_tag(&self, tag: u64) -> Option<&'static Field> {
        if tag == 0 {
            return None;
        }
        self.fields().iter().find(|field| u64::from(field.1) == tag)
    }

    /// The JSON members in alphabetical order, those of inlined messages among them. Where the
    /// outer and the inlined message have a member of the same name, the outer one counts.
    pub fn members(&self) -> Vec<&'static Field> {
        let mut members = Vec::new();
        self.collect_members(&mut members);
        members.sort_by_key(|field| field.json_name());
        members
    }

    fn collect_members(&self, members: &mut Vec<&'static Field>) {
        let (inlined, own): (Vec<_>, Vec<_>) =
            self.fields().iter().partition(|field| field.is_inlined());
        for field in own {
            if members.iter().all(|member| member.0 != field.0) {
                members.push(field);
            }
        }
        for message in inlined.into_iter().filter_map(Field::message) {
            message.collect_members(members);
        }
    }
}

impl Field {
    /// The JSON name; empty for an inlined message.
    pub fn json_name(&self) -> &'static str {
        name(self.0)
    }

    /// The protobuf tag; 0 for `apiVersion` and `kind`, which the envelope carries.
    pub fn tag(&self) -> u8 {
        self.1
    }

    /// What the value, the list element or the map value is.
    pub fn ty(&self) -> Type {
        self.2
    }

    /// How often it occurs.
    pub fn shape(&self) -> Shape {
        self.3
    }

    /// The schema of the value, of the list elements or of the map values.
    pub fn message(&self) -> Option<&'static Message> {
        self.message_index().map(|index| &MESSAGES[index])
    }

    /// The position of that schema in [`messages`].
    pub(super) fn message_index(&self) -> Option<usize> {
        (self.2 == Type::Message).then_some(usize::from(self.4))
    }

    fn flag(&self, bit: u16) -> bool {
        self.5 & (1 << bit) != 0
    }

    /// Whether OpenAPI lists the field as required.
    pub fn is_required(&self) -> bool {
        self.flag(0)
    }

    /// Whether the members of the target are members of the parent in JSON.
    pub fn is_inlined(&self) -> bool {
        self.flag(1)
    }

    /// Whether the zero value of a scalar differs from absence.
    pub fn is_pointer(&self) -> bool {
        self.flag(2)
    }

    /// Whether strategic merge patch merges the list instead of replacing it.
    pub fn is_merged(&self) -> bool {
        self.flag(3)
    }

    /// Whether strategic merge patch honours `$retainKeys` here.
    pub fn retains_keys(&self) -> bool {
        self.flag(4)
    }

    /// The key by which strategic merge patch matches list elements; empty for primitives.
    pub fn merge_key(&self) -> &'static str {
        name(self.6)
    }

    /// How server-side apply merges the list.
    pub fn list_type(&self) -> ListType {
        if self.flag(7) {
            ListType::Map
        } else if self.flag(6) {
            ListType::Set
        } else {
            ListType::Atomic
        }
    }

    /// Whether the list type is declared at all.
    pub fn declares_list_type(&self) -> bool {
        self.5 & (0b111 << 5) != 0
    }

    /// The keys of a [`ListType::Map`].
    pub fn list_keys(&self) -> impl Iterator<Item = &'static str> {
        LIST_KEYS[usize::from(self.7)].iter().map(|index| name(*index))
    }

    /// Whether server-side apply owns the map or object as a whole.
    pub fn is_atomic(&self) -> bool {
        self.flag(8) || self.message().is_some_and(Message::is_atomic)
    }

    /// The declared default as JSON text; empty for most, defaulting is written by hand.
    pub fn default(&self) -> &'static str {
        name(self.8)
    }

    /// The type as Go prints it in error texts.
    pub(super) fn go_type(&self) -> String {
        let element = self.go_element_type();
        match self.shape() {
            Shape::Single => element,
            Shape::List => format!("[]{element}"),
            Shape::Map => format!("map[string]{element}"),
        }
    }

    /// The Go type of the value, the list element or the map value.
    pub(super) fn go_element_type(&self) -> String {
        let text = match self.ty() {
            Type::String | Type::Quantity => "string",
            Type::Bool => "bool",
            Type::Int32 | Type::IntOrString => "int32",
            Type::Int64 => "int64",
            Type::Double => "float64",
            Type::Bytes => "[]uint8",
            Type::Message => self.message().map_or("object", Message::go_type),
            Type::Time | Type::MicroTime | Type::Duration => "string",
            Type::Raw => "object",
            Type::Strings => "[]string",
        };
        text.to_owned()
    }
}

/// Position of a field among all fields of all messages.
pub(super) fn field_index(field: &'static Field) -> usize {
    let offset = std::ptr::from_ref(field).addr() - FIELDS.as_ptr().addr();
    offset / size_of::<Field>()
}

/// A number that changes with the tables.
pub fn fingerprint() -> u64 {
    let mut hasher = DefaultHasher::new();
    NAMES.hash(&mut hasher);
    for field in &FIELDS {
        (field.0, field.1, field.2 as u8, field.3 as u8, field.4, field.5).hash(&mut hasher);
    }
    hasher.finish()
}

/// Every kind, by group, version and kind.
pub fn kinds() -> &'static [KindEntry] {
    &KINDS
}

/// Every message, by name.
pub fn messages() -> &'static [Message] {
    &MESSAGES
}

/// Kinds that every group has.
const COMMON: [&str; 5] =
    ["CreateOptions", "DeleteOptions", "PatchOptions", "Status", "UpdateOptions"];

/// The schema of a kind.
pub fn message(group: &str, version: &str, kind: &str) -> Option<&'static Message> {
    let is_named = |entry: &&KindEntry, group: &str, version: &str| {
        entry.kind() == kind && entry.version() == version && entry.group() == group
    };
    if let Some(entry) = KINDS.iter().find(|entry| is_named(entry, group, version)) {
        return Some(entry.message());
    }
    let common =
        COMMON.contains(&kind) || (group.is_empty() && version == "v1" && kind.starts_with("API"));
    let entry = KINDS.iter().find(|entry| common && is_named(entry, "meta.k8s.io", "v1"))?;
    Some(entry.message())
}
