//! `hostPath` volumes: a path of the machine, checked to be of the declared type.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

/// Why a path cannot be given to a pod; the texts are those of the kubelet.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// It is something else than declared, or not there.
    #[error("hostPath type check failed: {path} is not {article}")]
    Type {
        /// The path.
        path: String,
        /// What it should be.
        article: &'static str,
    },
    /// It could not be made.
    #[error("cannot create {path}: {source}")]
    Create {
        /// The path.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Checks a path, creating it where the type says so.
pub fn check(path: &str, kind: &str) -> Result<(), HostPathError> {
    let metadata = fs::metadata(Path::new(path)).ok();
    let create = |source| HostPathError::Create { path: path.to_owned(), source };
    let wrong = |article| HostPathError::Type { path: path.to_owned(), article };
    let expect = |fits: bool, article| if fits { Ok(()) } else { Err(wrong(article)) };
    match (kind, &metadata) {
        // The runtime needs something to mount: a missing path of no type becomes a directory.
        ("" | "DirectoryOrCreate", None) => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(create)
        }
        ("FileOrCreate", None) => {
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o644).open(path).map(drop).map_err(create)
        }
        ("", Some(_)) => Ok(()),
        ("Directory" | "DirectoryOrCreate", found) => {
            expect(found.as_ref().is_some_and(fs::Metadata::is_dir), "a directory")
        }
        ("File" | "FileOrCreate", found) => {
            expect(found.as_ref().is_some_and(fs::Metadata::is_file), "a file")
        }
        (kind, found) => {
            let is = |test: fn(&fs::FileType) -> bool| {
                found.as_ref().is_some_and(|metadata| test(&metadata.file_type()))
            };
            match kind {
                "Socket" => expect(is(fs::FileType::is_socket), "a socket file"),
                "CharDevice" => expect(is(fs::FileType::is_char_device), "a character device"),
                "BlockDevice" => expect(is(fs::FileType::is_block_device), "a block device"),
                _ => Err(wrong("of a known type")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn types() {
        assert!(check("/", "Directory").is_ok());
        assert!(check("/dev/null", "CharDevice").is_ok());
        let text = |path, kind| check(path, kind).err().map(|error| error.to_string());
        assert_eq!(
            text("/dev/null", "Directory").as_deref(),
            Some("hostPath type check failed: /dev/null is not a directory")
        );
        assert!(text("/no/such", "File").is_some_and(|text| text.ends_with("is not a file")));
        assert!(text("/no/such", "Socket").is_some());
    }
}
