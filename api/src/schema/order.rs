//! The order of merged lists: what the patch names comes in the patch's order, the rest keeps its
//! place relative to it.

use std::collections::HashMap;

use serde_json::Value;

/// What tells list elements apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Identity {
    /// The value of a member.
    Key(&'static str),
    /// The whole value.
    Value,
}

impl Identity {
    /// By `key`, or by value if there is none.
    pub fn by(key: &'static str) -> Self {
        if key.is_empty() { Self::Value } else { Self::Key(key) }
    }

    /// The text that tells `element` apart; `None` if it lacks the key.
    pub fn name(self, element: &Value) -> Option<String> {
        match self {
            Self::Value => Some(element.to_string()),
            Self::Key(key) => match element.get(key)? {
                Value::String(text) => Some(text.clone()),
                other => Some(other.to_string()),
            },
        }
    }

    /// Whether both are the same element.
    pub fn same(self, a: &Value, b: &Value) -> bool {
        match self {
            Self::Value => a == b,
            Self::Key(_) => self.name(a).is_some_and(|name| Some(name) == self.name(b)),
        }
    }

    /// The first position of each element.
    pub fn positions(self, list: &[Value]) -> HashMap<String, usize> {
        let mut positions = HashMap::with_capacity(list.len());
        for (at, element) in list.iter().enumerate() {
            if let Some(name) = self.name(element) {
                positions.entry(name).or_insert(at);
            }
        }
        positions
    }
}

/// Orders `merged`: elements of `patch_order` in that order, the others in `server_order`; where
/// both kinds meet, `server_order` decides if it knows both, else the patch's come first.
pub fn arrange(
    merged: Vec<Value>,
    patch_order: &[Value],
    server_order: &[Value],
    identity: Identity,
) -> Vec<Value> {
    let in_patch = identity.positions(patch_order);
    let in_server = identity.positions(server_order);
    let mut patch = Vec::new();
    let mut server = Vec::new();
    for value in merged {
        let name = identity.name(&value).unwrap_or_default();
        let on_server = in_server.get(&name).copied();
        match in_patch.get(&name) {
            Some(at) => patch.push((*at, on_server, value)),
            None => server.push((on_server.unwrap_or(usize::MAX), on_server, value)),
        }
    }
    patch.sort_by_key(|(at, ..)| *at);
    server.sort_by_key(|(at, ..)| *at);
    let mut arranged = Vec::with_capacity(patch.len() + server.len());
    let mut patch = patch.into_iter().peekable();
    let mut server = server.into_iter().peekable();
    loop {
        let server_first = match (patch.peek(), server.peek()) {
            (None, None) => return arranged,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some((_, patch, _)), Some((_, server, _))) => {
                patch.is_some_and(|patch| server.is_some_and(|server| server < patch))
            }
        };
        let next = if server_first { server.next() } else { patch.next() };
        arranged.extend(next.map(|(.., value)| value));
    }
}
