//! Holds docs/limits.md to the code: each row's constant is in the file that it names, with that
//! value, and stands there once.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// The page.
const PAGE: &str = "docs/limits.md";

/// One row of a table.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    constant: &'a str,
    value: &'a str,
    file: &'a str,
    reason: &'a str,
}

/// Every row that is not as the code, a line each.
pub fn violations(root: &Path) -> Result<Vec<String>, String> {
    let page = fs::read_to_string(root.join(PAGE)).map_err(|e| format!("{PAGE}: {e}"))?;
    let read = |file: &str| fs::read_to_string(root.join(file)).ok();
    Ok(differences(&page, read))
}

fn differences(page: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for (number, line) in page.lines().enumerate().filter(|(_, line)| line.starts_with("| `")) {
        let place = format!("{PAGE}:{}", number + 1);
        let Some(row) = row(line) else {
            found.push(format!("{place}: not a row of constant, value, file and reason"));
            continue;
        };
        let Row { constant, value, file, reason } = row;
        if !seen.insert((constant, file)) {
            found.push(format!("{place}: {constant} of {file} stands here twice"));
        }
        if reason.is_empty() {
            found.push(format!("{place}: {constant} has no reason"));
        }
        let Some(source) = read(file) else {
            found.push(format!("{place}: there is no {file}"));
            continue;
        };
        match values(&source, constant).as_slice() {
            [] => found.push(format!("{place}: {file} has no constant {constant}")),
            values if values.iter().all(|found| *found != value) => {
                let values = values.join("` or `");
                found.push(format!("{place}: {constant} is `{values}` in {file}, not `{value}`"));
            }
            _ => {}
        }
    }
    found
}

/// The cells of a row, the first three without their backquotes.
fn row(line: &str) -> Option<Row<'_>> {
    let cells: Vec<&str> =
        line.trim().strip_prefix('|')?.strip_suffix('|')?.splitn(4, " | ").collect();
    let [constant, value, file, reason] = cells.as_slice() else { return None };
    let code = |cell: &'_ str| -> Option<usize> {
        let cell = cell.trim();
        (cell.len() > 2 && cell.starts_with('`') && cell.ends_with('`')).then_some(cell.len())
    };
    for cell in [constant, value, file] {
        code(cell)?;
    }
    let [constant, value, file] = [constant, value, file].map(|cell| cell.trim().trim_matches('`'));
    Some(Row { constant, value, file, reason: reason.trim() })
}

/// Returns the values that constants of that name in a source are set to, with white space as
/// rustfmt sets it on one line.
fn values(source: &str, constant: &str) -> Vec<String> {
    let start = format!("const {constant}:");
    let starts = source.match_indices(&start).map(|(at, _)| &source[at + start.len()..]);
    let expressions = starts.filter_map(|rest| {
        let (_, rest) = rest.split_once('=')?;
        let (expression, _) = rest.split_once(';')?;
        Some(expression.split_whitespace().collect::<Vec<_>>().join(" "))
    });
    expressions.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str =
        "/// A.\nconst A: u32 = 1;\npub(crate) const B: Duration =\n    Duration::from_secs(2);\n";

    fn check(rows: &str) -> Vec<String> {
        differences(rows, |file| (file == "a.rs").then(|| SOURCE.to_owned()))
    }

    #[test]
    fn rows_that_agree_pass() {
        let page = "| constant | value |\n| --- | --- |\n| `A` | `1` | `a.rs` | why |\n\
                    | `B` | `Duration::from_secs(2)` | `a.rs` | `x` | y |\n";
        assert!(check(page).is_empty(), "{:?}", check(page));
    }

    #[test]
    fn rows_that_differ_are_found() {
        let cases = [
            ("| `A` | `2` | `a.rs` | why |", "A is `1` in a.rs, not `2`"),
            ("| `C` | `1` | `a.rs` | why |", "a.rs has no constant C"),
            ("| `A` | `1` | `b.rs` | why |", "there is no b.rs"),
            ("| `A` | `1` | `a.rs` |  |", "A has no reason"),
            ("| `A` | 1 | `a.rs` | why |", "not a row"),
            ("| `A` | `1` | `a.rs` | why |\n| `A` | `1` | `a.rs` | why |", "twice"),
        ];
        for (page, expected) in cases {
            let found = check(page);
            assert!(found.iter().any(|line| line.contains(expected)), "{page}: {found:?}");
        }
    }
}
