//! Which licences the product links: permissive ones only.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::text;

/// SPDX identifiers of licences that ask for nothing but their text.
const PERMISSIVE: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// The package that is released.
const PRODUCT: &str = "coracle";

/// Every linked package whose licence is not permissive.
pub fn violations(metadata: &Value) -> Vec<String> {
    let packages: HashMap<&str, &Value> =
        list(metadata, "packages").map(|package| (text(package, "id"), package)).collect();
    let mut found: Vec<String> = linked(metadata)
        .into_iter()
        .filter_map(|id| packages.get(id).copied())
        .filter(|package| !is_permissive(text(package, "license")))
        .map(|package| {
            let (name, licence) = (text(package, "name"), &package["license"]);
            format!("{name} is linked under the licence {licence}")
        })
        .collect();
    found.sort();
    found
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

/// The product and everything that ends up in it.
fn linked(metadata: &Value) -> HashSet<&str> {
    let nodes: HashMap<&str, &Value> =
        list(&metadata["resolve"], "nodes").map(|node| (text(node, "id"), node)).collect();
    let product = list(metadata, "packages").filter(|package| package["name"] == PRODUCT);
    let mut open: Vec<&str> = product.map(|package| text(package, "id")).collect();
    let mut seen = HashSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let Some(node) = nodes.get(id) else { continue };
        let normal =
            |dependency: &&Value| list(dependency, "dep_kinds").any(|kind| kind["kind"].is_null());
        open.extend(list(node, "deps").filter(normal).map(|dependency| text(dependency, "pkg")));
    }
    seen
}

/// Whether an SPDX expression lets us choose permissive terms (`/` is an old way to write `OR`).
fn is_permissive(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let allowed = either(&mut rest);
    allowed && rest.is_empty()
}

fn either(words: &mut &[&str]) -> bool {
    let mut allowed = both(words);
    while words.first() == Some(&"OR") {
        *words = &words[1..];
        allowed |= both(words);
    }
    allowed
}

fn both(words: &mut &[&str]) -> bool {
    let mut allowed = one(words);
    while words.first() == Some(&"AND") {
        *words = &words[1..];
        allowed &= one(words);
    }
    allowed
}

fn one(words: &mut &[&str]) -> bool {
    let Some((first, rest)) = words.split_first() else { return false };
    *words = rest;
    if *first == "(" {
        let allowed = either(words);
        let closed = words.first() == Some(&")");
        *words = words.get(1..).unwrap_or_default();
        return allowed && closed;
    }
    if words.first() == Some(&"WITH") {
        // An exception only adds permissions.
        *words = words.get(2..).unwrap_or_default();
    }
    PERMISSIVE.contains(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn expressions_are_read() {
        for (expression, allowed) in [
            ("MIT", true),
            ("MIT OR Apache-2.0", true),
            ("MIT/Apache-2.0", true),
            ("GPL-3.0-only", false),
            ("GPL-3.0-only OR MIT", true),
            ("Apache-2.0 AND ISC", true),
            ("Apache-2.0 AND MPL-2.0", false),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
            ("(GPL-2.0 OR LGPL-2.1) AND MIT", false),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
            ("MIT)", false),
            ("", false),
        ] {
            assert_eq!(is_permissive(expression), allowed, "{expression}");
        }
    }

    #[test]
    fn what_is_linked_counts_and_nothing_else() {
        let edge = |to: &str, kind: Option<&str>| json!({"pkg": to, "dep_kinds": [{"kind": kind}]});
        let metadata = json!({
            "packages": [
                {"id": "c", "name": "coracle", "license": "Apache-2.0"},
                {"id": "a", "name": "a", "license": "MIT"},
                {"id": "g", "name": "g", "license": "GPL-3.0-only"},
                {"id": "n", "name": "n", "license": null},
                {"id": "t", "name": "t", "license": "GPL-3.0-only"},
            ],
            "resolve": {"nodes": [
                {"id": "c", "deps": [edge("a", None), edge("t", Some("dev"))]},
                {"id": "a", "deps": [edge("g", None), edge("n", None), edge("c", None)]},
            ]},
        });
        assert_eq!(
            violations(&metadata),
            [
                "g is linked under the licence \"GPL-3.0-only\"",
                "n is linked under the licence null"
            ]
        );
    }
}
