//! Paths in a container as the runtime takes them.

use std::path::{Component, Path, PathBuf};

/// A path below the root without `.` and `..`, as the runtime takes it. What is mounted is compared
/// and ordered by it.
pub fn cleaned(path: &str) -> PathBuf {
    let mut clean = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => clean.push(name),
            // The root stays.
            Component::ParentDir => drop(clean.pop()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_as_upstream_does() {
        for (path, clean) in [
            ("/data", "/data"),
            ("data/", "/data"),
            ("//a/./b//", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../b", "/b"),
            ("/", "/"),
        ] {
            assert_eq!(cleaned(path), Path::new(clean), "{path}");
        }
    }
}
