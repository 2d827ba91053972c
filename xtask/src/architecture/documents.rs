//! Whether the documents name what exists: files, directories and targets of the Makefile.

use std::fs;
use std::path::Path;

/// Documents whose words are held to the tree, besides every page in `docs`.
const DOCUMENTS: &[&str] = &["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md"];
/// Directories of further pages.
const DIRECTORIES: &[&str] = &["docs", "docs/decisions"];

/// Every name in a document behind which there is nothing.
pub fn violations(root: &Path) -> Result<Vec<String>, String> {
    let read = |path: &Path| {
        fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let makefile = read(&root.join("Makefile"))?;
    let targets = targets(&makefile);
    let mut pages: Vec<_> = DOCUMENTS.iter().map(|name| root.join(name)).collect();
    for directory in DIRECTORIES.iter().map(|name| root.join(name)) {
        let entries = fs::read_dir(&directory);
        for entry in entries.map_err(|error| format!("{}: {error}", directory.display()))? {
            pages.push(entry.map_err(|error| error.to_string())?.path());
        }
    }
    pages.retain(|page| page.extension().is_some_and(|extension| extension == "md"));
    pages.sort();
    let mut found = Vec::new();
    for page in pages {
        let text = read(&page)?;
        let name = page.strip_prefix(root).unwrap_or(&page).display();
        let beside = page.parent().unwrap_or(root);
        let missing = quoted_paths(&text).filter(|path| !root.join(path).exists());
        let links = links(&text).filter(|link| !beside.join(link).exists());
        for path in missing.chain(links) {
            found.push(format!("{name}: there is no {path}"));
        }
        for target in made(&text).filter(|target| !targets.contains(target)) {
            found.push(format!("{name}: there is no `make {target}`"));
        }
    }
    Ok(found)
}

/// The targets that a Makefile defines.
fn targets(makefile: &str) -> Vec<&str> {
    let rules = makefile.lines().filter(|line| !line.starts_with(['\t', '#', '.', ' ']));
    rules
        .filter_map(|line| line.split_once(':').filter(|(_, rest)| !rest.starts_with('=')))
        .flat_map(|(names, _)| names.split_whitespace())
        .collect()
}

/// Words in backquotes that are paths in the checkout.
fn quoted_paths(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2).filter(|word| is_path(word))
}

/// The targets of links to other pages, from the directory of the page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    links.filter(|link| !link.contains("://") && !link.starts_with('#'))
}

/// A path begins with a directory of the checkout or ends as its files do; what begins with `/`
/// or has spaces, stars or placeholders is something else.
fn is_path(word: &str) -> bool {
    const ROOTS: &[&str] = &[
        "api",
        "store",
        "apiserver",
        "controllers",
        "agent",
        "runtime",
        "netproxy",
        "dns",
        "dashboard",
        "fuzz",
        "integration",
        "xtask",
        "docs",
        ".ci",
    ];
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !word.chars().all(plain) || word.starts_with('/') {
        return false;
    }
    let sources = word.ends_with(".rs") || word.ends_with(".sh") || word.ends_with(".md");
    let first = word.split('/').next().unwrap_or_default();
    // Names in the API begin with `coracle/`, too.
    let inside = ROOTS.contains(&first) || word.starts_with("coracle/src");
    sources || (word.contains('/') && inside)
}

/// The targets that a document tells to make.
fn made(text: &str) -> impl Iterator<Item = &str> {
    let commands = text.split("make ").skip(1).zip(text.split("make "));
    let after_quote = |before: &str| before.ends_with('`') || before.ends_with("    ");
    commands
        .filter(move |(_, before)| after_quote(before))
        .filter_map(|(rest, _)| rest.split(|c: char| !c.is_ascii_lowercase() && c != '-').next())
        .filter(|target| !target.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_prose() {
        let text = "See `api/src/kinds/` and [this](docs/decisions/0001-x.md), `apps/v1`,\n\
            `/etc/coracle/kubeconfig`, `node.rs`, [web](https://a.b/c.md), `coracle/<x>`.";
        assert_eq!(quoted_paths(text).collect::<Vec<_>>(), ["api/src/kinds/", "node.rs"]);
        assert_eq!(links(text).collect::<Vec<_>>(), ["docs/decisions/0001-x.md"]);
    }

    #[test]
    fn targets_are_found() {
        let makefile = "A := b\n.PHONY: x\nrun: build images\n\techo a: b\ntest check: run\n";
        assert_eq!(targets(makefile), ["run", "test", "check"]);
        let text = "`make check` and\n\n    make run   # starts\n\nto make things simple";
        assert_eq!(made(text).collect::<Vec<_>>(), ["check", "run"]);
    }

    #[test]
    fn what_is_missing_is_found() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert!(root.join("api/src/kinds/").exists());
        assert!(!root.join("api/src/no_such_file.rs").exists());
        assert!(quoted_paths("`api/src/no_such_file.rs`").next().is_some());
    }
}
