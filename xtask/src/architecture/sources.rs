//! How sources are laid out: one home for `unsafe`, no `unwrap` in the product, a sentence on top
//! of every module, no file that has lost its subject.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{members, text};

/// The only places in which `unsafe` may stand.
const UNSAFE_HOMES: &[&str] = &["runtime/src/sys/", "netproxy/src/netlink/socket.rs"];
/// Crates that are tools and not part of the product.
const TOOLS: &[&str] = &["fuzz", "xtask", "integration"];
/// Names of files that say nothing of what is in them.
const NAMELESS: &[&str] = &["utils", "util", "helpers", "common", "misc"];
/// How many lines a file of the product may have.
const LINES_MAX: usize = 600;
/// What marks an item as one for tests.
const TEST_ONLY: &str = "#[cfg(test)]";
/// Checked in by a generator.
const GENERATED: &[&str] = &["api/src/schema/generated.rs"];

/// One source file.
struct Source {
    /// Its path from the root of the checkout.
    path: String,
    text: String,
    /// Only tests see it.
    is_test: bool,
}

/// Every file that is not as it should be.
pub fn violations(root: &Path, metadata: &Value) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for package in members(metadata) {
        let manifest = Path::new(text(package, "manifest_path"));
        let crate_dir = manifest.parent().ok_or("a manifest has no directory")?;
        let name = crate_dir.file_name().unwrap_or_default().to_string_lossy();
        let mut files = Vec::new();
        collect(&crate_dir.join("src"), &mut files)?;
        let tests: Vec<PathBuf> = files.iter().flat_map(|(path, text)| tests(path, text)).collect();
        for (file, text) in files {
            let module = file.with_extension("");
            let is_test =
                tests.iter().any(|tests| module.starts_with(tests)) || is_named_for_tests(&module);
            let inside = file.strip_prefix(crate_dir).unwrap_or(&file);
            let path = format!("{name}/{}", inside.display());
            found.extend(check(&Source { path, text, is_test }));
        }
    }
    let lints = fs::read_to_string(root.join("Cargo.toml")).map_err(|e| e.to_string())?;
    for lint in ["unsafe_code = \"deny\"", "unwrap_used = \"warn\"", "missing_docs = \"warn\""] {
        if !lints.contains(lint) {
            found.push(format!("Cargo.toml: the workspace does not set {lint}"));
        }
    }
    found.sort();
    Ok(found)
}

fn collect(dir: &Path, files: &mut Vec<(PathBuf, String)>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
            files.push((path, text));
        }
    }
    Ok(())
}

/// `tests` and `…_tests` are what the files of tests are called.
fn is_named_for_tests(module: &Path) -> bool {
    let stem = module.file_name().unwrap_or_default().to_string_lossy();
    stem == "tests" || stem.ends_with("_tests")
}

/// The modules in files of their own that this file declares for tests only, as paths without
/// ending.
fn tests(path: &Path, text: &str) -> Vec<PathBuf> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let dir = path.parent().unwrap_or(path);
    let home = match &*stem {
        "lib" | "main" | "mod" => dir.to_owned(),
        stem => dir.join(stem),
    };
    let pairs = text.lines().zip(text.lines().skip(1));
    pairs
        .filter(|(attribute, _)| attribute.trim() == TEST_ONLY)
        .filter_map(|(_, item)| {
            item.trim().trim_start_matches("pub(crate) ").strip_prefix("mod ")?.strip_suffix(';')
        })
        .map(|name| home.join(name))
        .collect()
}

fn check(source: &Source) -> Vec<String> {
    let Source { path, text, is_test } = source;
    let mut found = Vec::new();
    let stem = Path::new(path).file_stem().unwrap_or_default().to_string_lossy();
    if NAMELESS.contains(&&*stem) {
        found.push(format!("{path}: {stem} does not say what is in it"));
    }
    if !text.starts_with("//!") {
        found.push(format!("{path}: does not begin with a sentence of what it is for"));
    }
    if GENERATED.contains(&path.as_str()) {
        return found;
    }
    let lines = text.lines().count();
    if lines > LINES_MAX {
        found.push(format!("{path}: {lines} lines are more than {LINES_MAX}"));
    }
    let in_home = UNSAFE_HOMES.iter().any(|home| path.starts_with(home));
    let in_tool = TOOLS.iter().any(|tool| path.starts_with(&format!("{tool}/")));
    for (number, line) in code(text).filter(|_| !is_test) {
        let mut complain = |what: &str| found.push(format!("{path}:{number}: {what}"));
        if !in_home && has_word(line, "unsafe") {
            complain("unsafe has its home elsewhere");
        }
        if !in_home && has_word(line, "unsafe_code") {
            complain("allows unsafe code");
        }
        if !in_tool && line.contains(".unwrap()") {
            complain("unwrap in product code");
        }
        if !in_tool && line.contains("allow(clippy::unwrap_used") {
            complain("allows unwrap in product code");
        }
    }
    found
}

/// The numbered lines of a file that are code of the product: neither comments nor what is for
/// tests, which is one line (`mod tests;`) or stands at the end.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut lines = text.lines().enumerate();
    let product = std::iter::from_fn(move || {
        let (index, line) = lines.next()?;
        if line.trim() != TEST_ONLY {
            return Some((index + 1, line));
        }
        let (index, item) = lines.find(|(_, line)| !line.trim().starts_with("#["))?;
        item.ends_with(';').then_some((index + 1, ""))
    });
    product.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn has_word(line: &str, word: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let outside: String = code.split('"').step_by(2).collect::<Vec<_>>().join("\"\"");
    outside.split(|c: char| !c.is_alphanumeric() && c != '_').any(|token| token == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&Source { path: path.to_owned(), text: text.to_owned(), is_test: false })
    }

    #[test]
    fn good_files_pass() {
        for (path, text) in [
            ("api/src/a.rs", "//! A.\nfn f() {}\n#[cfg(test)]\nmod tests { x.unwrap(); }\n"),
            ("api/src/a.rs", "//! A.\n// `unsafe` and .unwrap() in a comment\n"),
            ("api/src/a.rs", "//! A.\nconst A: &str = \"unsafe\"; // unsafe\n"),
            ("runtime/src/sys/clone.rs", "//! A.\nunsafe fn f() {}\n"),
            ("integration/src/lib.rs", "//! A.\nx.unwrap();\n"),
        ] {
            assert_eq!(found(path, text), Vec::<String>::new(), "{text}");
        }
    }

    #[test]
    fn bad_files_do_not() {
        let long = format!("//! A.\n{}", "fn f() {}\n".repeat(LINES_MAX));
        for (path, text) in [
            ("api/src/a.rs", "fn f() {}\n"),
            ("api/src/a.rs", "//! A.\nfn f() { unsafe { g() } }\n"),
            ("api/src/a.rs", "//! A.\n#![allow(unsafe_code)]\n"),
            ("integration/src/a.rs", "//! A.\nunsafe fn f() {}\n"),
            ("api/src/a.rs", "//! A.\nfn f() { g().unwrap() }\n"),
            ("api/src/a.rs", "//! A.\n#![allow(clippy::unwrap_used)]\n"),
            ("api/src/a.rs", "//! A.\n#[cfg(test)]\nmod tests;\nfn f() { g().unwrap() }\n"),
            ("api/src/utils.rs", "//! A.\n"),
            ("api/src/a.rs", &long),
        ] {
            assert_eq!(found(path, text).len(), 1, "{path}: {}", &text[..text.len().min(60)]);
        }
    }

    #[test]
    fn test_modules_in_files_are_known() {
        let text = "//! A.\nmod plan;\n#[cfg(test)]\nmod plan_tests;\n#[cfg(test)]\nmod fakes;\n";
        let found = tests(Path::new("agent/src/worker/mod.rs"), text);
        assert_eq!(
            found,
            ["agent/src/worker/plan_tests", "agent/src/worker/fakes"].map(PathBuf::from)
        );
        let found = tests(Path::new("api/src/a.rs"), "#[cfg(test)]\nmod tests;\n");
        assert_eq!(found, [PathBuf::from("api/src/a/tests")]);
    }
}
