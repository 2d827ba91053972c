//! Trees with files that flags protect.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

use super::remove;
use crate::skip;

fn chattr(change: &str, path: &Path) -> bool {
    let output = Command::new("chattr").arg(change).arg(path).output();
    output.is_ok_and(|output| output.status.success())
}

fn is_immutable(path: &Path) -> bool {
    let output = Command::new("lsattr").arg("-d").arg(path).output().unwrap();
    String::from_utf8_lossy(&output.stdout).split(' ').next().unwrap().contains('i')
}

/// Sets flags; `false`, and a skip that is seen, where that cannot be done.
fn set(flags: &[(&str, &Path)]) -> bool {
    let set = flags.iter().all(|(change, path)| chattr(change, path));
    if !set {
        skip::skip("removing files with flags needs CAP_LINUX_IMMUTABLE", "chattr");
        for (_, path) in flags {
            chattr("-ia", path);
        }
    }
    set
}

#[test]
fn flagged_files_and_directories_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    let (inner, appended) = (top.join("inner"), top.join("appended"));
    let both = top.join("both");
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir(&both).unwrap();
    for file in [&inner.join("file"), &appended, &both.join("file")] {
        fs::write(file, "x").unwrap();
    }
    fs::hard_link(inner.join("file"), inner.join("second name")).unwrap();
    symlink("nowhere", inner.join("link")).unwrap();
    let file = inner.join("file");
    let flags: [(&str, &Path); 5] =
        [("+i", &file), ("+a", &appended), ("+i", &inner), ("+ia", &both), ("+a", &top)];
    if !set(&flags) {
        return;
    }
    assert!(fs::remove_file(&file).is_err());
    remove(&top).unwrap();
    assert!(!top.exists());
}

/// Below a certain depth directories are moved to the top, whose flags forbid that.
#[test]
fn a_deep_tree_with_flags_is_removed() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    let mut deep = top.clone();
    (0..100).for_each(|_| deep.push("d"));
    fs::create_dir_all(&deep).unwrap();
    let levels: Vec<&Path> = deep.ancestors().take(101).collect();
    let flags: Vec<(&str, &Path)> = levels.into_iter().map(|level| ("+i", level)).collect();
    if !set(&flags) {
        return;
    }
    remove(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn flags_of_other_files_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    let outside = directory.path().join("outside");
    fs::create_dir_all(&top).unwrap();
    fs::write(&outside, "x").unwrap();
    // The name in the tree is an entry that is removed; what a link points to is not.
    fs::hard_link(&outside, top.join("hard")).unwrap();
    symlink(&outside, top.join("soft")).unwrap();
    if !set(&[("+i", &outside), ("+i", &top)]) {
        return;
    }
    remove(&top).unwrap();
    let kept = is_immutable(&outside);
    chattr("-i", &outside);
    assert!(!top.exists());
    assert!(kept);
}

/// An immutable file of the machine that is mounted on an immutable file of the tree.
#[test]
fn flags_of_mounted_files_are_kept() {
    if !skip::is_root("mounting a file") {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path().to_owned();
    let own_mounts = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let (top, outside) = (directory.join("top"), directory.join("outside"));
        let entry = top.join("entry");
        fs::create_dir(&top).unwrap();
        fs::write(&entry, "x").unwrap();
        fs::write(&outside, "x").unwrap();
        if !set(&[("+i", &outside), ("+i", &entry)]) {
            return;
        }
        mount(Some(&outside), &entry, none, MsFlags::MS_BIND, none).unwrap();
        let removed = remove(&top);
        let kept = is_immutable(&outside);
        umount2(&entry, MntFlags::MNT_DETACH).unwrap();
        chattr("-i", &outside);
        remove(&top).unwrap();
        assert!(removed.is_err());
        assert!(kept);
    });
    own_mounts.join().unwrap();
}
