//! Trees as a tenant would make them.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr};
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{OFlag, openat};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{FileStat, Mode, mkdirat};

use super::{Visitor, remove, usage, walk};

const DEEP: usize = 100_000;
const WIDE: usize = 100_000;

/// Makes a chain of directories below `top`, each with a file and an empty directory.
fn deep(top: &Path, levels: usize) {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut at = nix::fcntl::open(top, flags, Mode::empty()).unwrap();
    for level in 0..levels {
        mkdirat(&at, c"d", Mode::S_IRWXU).unwrap();
        if level % 100 == 0 {
            let flags = OFlag::O_CREAT | OFlag::O_WRONLY;
            openat(&at, c"file", flags, Mode::S_IRUSR).unwrap();
            mkdirat(&at, c"empty", Mode::S_IRWXU).unwrap();
        }
        at = openat(&at, c"d", flags, Mode::empty()).unwrap();
    }
}

/// In memory where that can be: some disks take milliseconds to remove a directory.
fn in_memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

#[test]
fn a_deep_tree_goes_with_few_descriptors() {
    let directory = in_memory();
    let top = directory.path().join("top");
    fs::create_dir(&top).unwrap();
    deep(&top, DEEP);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft.min(1024), hard).unwrap();
    // The stack of a thread of the agent is no larger.
    let thread = std::thread::Builder::new().stack_size(256 << 10);
    let path = top.clone();
    let (used, removed) =
        thread.spawn(move || (usage(&path, u64::MAX), remove(&path))).unwrap().join().unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let used = used.unwrap();
    assert!(used.complete);
    assert_eq!(used.inodes, 1 + DEEP as u64 + 2 * (DEEP as u64 / 100));
    removed.unwrap();
    assert!(!top.exists());
}

#[test]
fn a_wide_tree_goes_whole() {
    let directory = in_memory();
    let top = directory.path().join("top");
    fs::create_dir(&top).unwrap();
    for number in 0..WIDE {
        let path = top.join(number.to_string());
        if number % 10 == 0 {
            fs::create_dir(&path).unwrap();
            fs::write(path.join("x"), "x").unwrap();
        } else {
            fs::write(path, "").unwrap();
        }
    }
    let used = usage(&top, u64::MAX).unwrap();
    assert_eq!((used.inodes, used.complete), (1 + WIDE as u64 + WIDE as u64 / 10, true));
    remove(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn the_bound_of_a_count_holds() {
    let directory = tempfile::tempdir().unwrap();
    for number in 0..20 {
        fs::write(directory.path().join(number.to_string()), "").unwrap();
    }
    let used = usage(directory.path(), 10).unwrap();
    assert_eq!((used.inodes, used.complete), (11, false));
    assert!(usage(directory.path(), 20).unwrap().complete);
}

#[test]
fn a_file_with_two_names_counts_once() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("a"), vec![1; 100_000]).unwrap();
    let before = usage(directory.path(), 100).unwrap();
    fs::hard_link(directory.path().join("a"), directory.path().join("b")).unwrap();
    assert_eq!(usage(directory.path(), 100).unwrap(), before);
}

#[test]
fn odd_names_and_modes_are_no_obstacle() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().join("top");
    let closed = top.join(OsStr::from_bytes(b"\xff\xfe closed"));
    fs::create_dir_all(closed.join(OsStr::from_bytes(b"\n\x80"))).unwrap();
    fs::write(closed.join(OsStr::from_bytes(b".coracle-removed-0")), "x").unwrap();
    fs::write(top.join(".coracle-removed-1"), "the name that a removal would choose").unwrap();
    let mut inner = top.clone();
    for _ in 0..100 {
        inner.push("d");
    }
    fs::create_dir_all(&inner).unwrap();
    fs::write(inner.join("x"), "x").unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o0)).unwrap();
    remove(&top).unwrap();
    assert!(!top.exists());
}

#[test]
fn files_links_and_nothing_are_removed_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::create_dir(path("kept")).unwrap();
    fs::write(path("kept/file"), "intact").unwrap();
    symlink(path("kept"), path("link")).unwrap();
    fs::write(path("file"), "").unwrap();
    for name in ["link", "file", "missing", "missing/too"] {
        remove(&path(name)).unwrap();
        assert!(fs::symlink_metadata(path(name)).is_err());
    }
    assert_eq!(fs::read_to_string(path("kept/file")).unwrap(), "intact");
    assert!(remove(Path::new("/")).is_err());
}

#[test]
fn no_symlink_leads_a_removal_outside() {
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::create_dir_all(victim.join("d")).unwrap();
    fs::write(victim.join("d/file"), "intact").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Swaps a directory for a link to the victim while it is being removed.
        let top = directory.path().join("top");
        fs::create_dir_all(top.join("a/b")).unwrap();
        let swapper = scope.spawn({
            let (top, victim, done) = (top.clone(), victim.clone(), &done);
            move || {
                while !done.load(Ordering::Relaxed) {
                    let _ = fs::create_dir_all(top.join("a/b/d"));
                    let _ = fs::rename(top.join("a/b"), top.join("c"));
                    let _ = symlink(&victim, top.join("a/b"));
                    let _ = fs::remove_file(top.join("a/b"));
                    let _ = fs::rename(top.join("c"), top.join("a/b"));
                }
            }
        });
        for _ in 0..2_000 {
            // It may find new entries for ever; that is all that may go wrong.
            let _ = remove(&top);
            let _ = usage(&top, 1_000);
        }
        done.store(true, Ordering::Relaxed);
        swapper.join().unwrap();
        remove(&top).unwrap();
    });
    assert_eq!(fs::read_to_string(victim.join("d/file")).unwrap(), "intact");
}

#[derive(Default)]
struct Names {
    before: BTreeSet<String>,
    after: Vec<String>,
}

impl Visitor for Names {
    fn entry(&mut self, _parent: BorrowedFd<'_>, name: &CStr, _stat: &FileStat) -> bool {
        self.before.insert(name.to_string_lossy().into_owned());
        name != c"skipped"
    }

    fn left(&mut self, parent: BorrowedFd<'_>, name: &CStr) {
        nix::unistd::unlinkat(parent.as_fd(), name, nix::unistd::UnlinkatFlags::RemoveDir).unwrap();
        self.after.push(name.to_string_lossy().into_owned());
    }
}

#[test]
fn a_walk_leaves_directories_last() {
    let directory = tempfile::tempdir().unwrap();
    for path in ["a/b/c", "a/d", "e", "skipped/x"] {
        fs::create_dir_all(directory.path().join(path)).unwrap();
    }
    let mut names = Names::default();
    assert!(walk(directory.path(), 100, &mut names).unwrap());
    let expected = ["a", "b", "c", "d", "e", "skipped"].map(str::to_owned);
    assert_eq!(names.before, BTreeSet::from(expected));
    assert_eq!(names.after.len(), 5);
    let at = |name: &str| names.after.iter().position(|n| n == name).unwrap();
    assert!(at("c") < at("b") && at("b") < at("a") && at("d") < at("a"));
    assert!(directory.path().join("skipped/x").exists());
}
