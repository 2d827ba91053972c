//! Whether the machine lets mounts propagate to a container, or from it.

use std::path::{Path, PathBuf};

use super::mountinfo::Mount;

/// What a mount of a container asks of the machine's mount that it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// `HostToContainer`: the machine's later mounts appear in the container.
    Inward,
    /// `Bidirectional`: the container's mounts appear on the machine too.
    BothWays,
}

/// The mount that a path is on has no peers to propagate with (texts of containerd and CRI-O).
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "path {path:?} is mounted on {mount_point:?} but it is not a shared{} mount",
    match .wanted { Wanted::Inward => " or slave", Wanted::BothWays => "" }
)]
pub struct Unshared {
    path: PathBuf,
    mount_point: PathBuf,
    wanted: Wanted,
}

/// Refuses what would silently do nothing; `path` leads over no symlink.
pub fn check(path: &Path, wanted: Wanted, mounts: &[Mount]) -> Result<(), Unshared> {
    let mut found: Option<(PathBuf, bool)> = None;
    for mount in mounts {
        // Of several on one point, the last is the one that is seen.
        let deepest = found.as_ref().is_none_or(|(known, _)| mount.point.starts_with(known));
        if deepest && path.starts_with(&mount.point) {
            let peers = mount.shared || (wanted == Wanted::Inward && mount.slave);
            found = Some((mount.point.clone(), peers));
        }
    }
    match found {
        Some((mount_point, false)) => Err(Unshared { path: path.to_owned(), mount_point, wanted }),
        // A path on no mount at all fails where it is mounted.
        Some((_, true)) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mountinfo::parse;
    use super::*;

    const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw
28 27 0:30 / /srv rw shared:7 - tmpfs tmpfs rw
29 28 0:31 / /srv/taken rw,nosuid master:7 - tmpfs tmpfs rw
30 28 0:32 / /srv/a\\040b rw - tmpfs shared:1 rw
31 27 0:33 / /twice rw shared:8 - tmpfs tmpfs rw
32 31 0:34 / /twice rw - tmpfs tmpfs rw
";

    #[test]
    fn the_mount_below_a_path_decides() {
        use Wanted::{BothWays, Inward};
        let cases = [
            ("/srv", Inward, None),
            ("/srv/deep/er", BothWays, None),
            ("/srv/taken/x", Inward, None),
            (
                "/srv/taken/x",
                BothWays,
                Some(
                    r#"path "/srv/taken/x" is mounted on "/srv/taken" but it is not a shared mount"#,
                ),
            ),
            (
                "/srvice",
                Inward,
                Some(r#"path "/srvice" is mounted on "/" but it is not a shared or slave mount"#),
            ),
            (
                "/srv/a b",
                BothWays,
                Some(r#"path "/srv/a b" is mounted on "/srv/a b" but it is not a shared mount"#),
            ),
            (
                "/twice",
                Inward,
                Some(
                    r#"path "/twice" is mounted on "/twice" but it is not a shared or slave mount"#,
                ),
            ),
        ];
        for (path, wanted, expected) in cases {
            let refused = check(Path::new(path), wanted, &parse(MOUNTINFO.as_bytes())).err();
            assert_eq!(refused.map(|error| error.to_string()).as_deref(), expected, "{path}");
        }
    }
}
