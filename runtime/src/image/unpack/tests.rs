//! Layers that are honest, and layers that are not.
#![allow(clippy::unwrap_used)]
use super::counted::RATIO_FREE_BYTES;
use super::*;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

fn header(kind: EntryType, size: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size as u64);
    header.set_mode(0o644);
    header.set_uid(nix::unistd::getuid().as_raw().into());
    header.set_gid(nix::unistd::getgid().as_raw().into());
    header
}

fn put(tar: &mut tar::Builder<Vec<u8>>, path: &str, kind: EntryType, data: &str) {
    let mut h = header(kind, if kind == EntryType::Regular { data.len() } else { 0 });
    // The builder refuses `..`, which is what these tests are about.
    h.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
    if matches!(kind, EntryType::Link | EntryType::Symlink) {
        h.set_link_name_literal(data).unwrap();
    }
    h.set_cksum();
    let body = if kind == EntryType::Regular { data.as_bytes() } else { &[] };
    tar.append(&h, body).unwrap();
}

#[test]
fn nothing_escapes_the_directory() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(outer.path().join("victim"), "intact").unwrap();
    let victim = outer.path().join("victim").display().to_string();
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, "../victim", EntryType::Regular, "x");
    put(&mut tar, "/etc/absolute", EntryType::Regular, "inside");
    put(&mut tar, "up", EntryType::Symlink, "../..");
    put(&mut tar, "up/victim2", EntryType::Regular, "x");
    put(&mut tar, "abs", EntryType::Symlink, outer.path().to_str().unwrap());
    put(&mut tar, "file", EntryType::Symlink, &victim);
    put(&mut tar, "file", EntryType::Regular, "replaces the link");
    let bytes = tar.into_inner().unwrap();
    unpack(&bytes[..], &root, &Counted::default()).unwrap();
    assert_eq!(std::fs::read_to_string(outer.path().join("victim")).unwrap(), "intact");
    assert!(!outer.path().join("victim2").exists());
    assert_eq!(std::fs::read_to_string(root.join("etc/absolute")).unwrap(), "inside");
    assert_eq!(std::fs::read_to_string(root.join("victim2")).unwrap(), "x");
    assert_eq!(std::fs::read_to_string(root.join("file")).unwrap(), "replaces the link");
}

#[test]
fn hard_links_to_the_outside_fail() {
    let outer = tempfile::tempdir().unwrap();
    let root = outer.path().join("root");
    std::fs::create_dir(&root).unwrap();
    std::fs::write(outer.path().join("victim"), "intact").unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, "link", EntryType::Link, "../victim");
    let bytes = tar.into_inner().unwrap();
    let error = unpack(&bytes[..], &root, &Counted::default()).err().unwrap();
    assert!(matches!(error, UnpackError::Entry { source: Errno::ENOENT, .. }), "{error}");
}

#[test]
fn whiteouts_become_overlay_whiteouts() {
    if !crate::skip::is_root("a device node") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, "dir/.wh.gone", EntryType::Regular, "");
    let bytes = tar.into_inner().unwrap();
    unpack(&bytes[..], root.path(), &Counted::default()).unwrap();
    let meta = std::fs::symlink_metadata(root.path().join("dir/gone")).unwrap();
    assert!(meta.file_type().is_char_device());
    assert_eq!(meta.rdev(), 0);
}

#[test]
fn the_digest_covers_the_whole_tar() {
    let root = tempfile::tempdir().unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    put(&mut tar, "a", EntryType::Regular, "hello");
    let bytes = tar.into_inner().unwrap();
    let want = hex(ring::digest::digest(&SHA256, &bytes).as_ref());
    let unpacked = unpack(&bytes[..], root.path(), &Counted::default()).unwrap();
    assert_eq!(unpacked.diff_id, format!("sha256:{want}"));
    assert_eq!(unpacked.size_bytes, 5);
}

#[test]
fn paths_and_links_are_bounded() {
    let deep = "d/".repeat(MAX_PATH_DEPTH) + "f";
    let long = format!("{}/f", "n".repeat(MAX_PATH_BYTES));
    for path in [&deep, &long] {
        let root = tempfile::tempdir().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut h = header(EntryType::Regular, 0);
        tar.append_data(&mut h, path, &b""[..]).unwrap();
        let bytes = tar.into_inner().unwrap();
        let error = unpack(&bytes[..], root.path(), &Counted::default()).err().unwrap();
        assert!(matches!(error, UnpackError::Path), "{error}");
    }
}

#[test]
fn a_bomb_is_refused_by_its_ratio() {
    let packed = Counted::default();
    let mut first = packed.reader(&[0_u8; 10][..]);
    io::copy(&mut first, &mut io::sink()).unwrap();
    let mut hashed = Hashed {
        input: io::repeat(0),
        context: Context::new(&SHA256),
        bytes: RATIO_FREE_BYTES + 10 * MAX_RATIO - 4,
        packed,
    };
    let mut buffer = [0; 4];
    hashed.read_exact(&mut buffer).unwrap();
    let error = hashed.read(&mut buffer).unwrap_err();
    assert!(error.to_string().contains("times its size"), "{error}");
}

#[test]
fn sparse_files_count_as_written() {
    let root = tempfile::tempdir().unwrap();
    let fd = openat(nix::fcntl::AT_FDCWD, root.path(), OFlag::O_PATH, Mode::empty()).unwrap();
    let mut unpacker = Unpacker {
        root: fd,
        max_bytes: MAX_LAYER_BYTES,
        packed: Counted::default(),
        size_bytes: MAX_LAYER_BYTES - 100,
        hole_bytes: 0,
        unchecked: 0,
        unchecked_inodes: 0,
        directory_times: Vec::new(),
    };
    let mut file = File::create(root.path().join("f")).unwrap();
    let path = Path::new("f");
    unpacker.copy(&mut io::repeat(0).take(100), &mut file, path).unwrap();
    let error = unpacker.copy(&mut io::repeat(0).take(1), &mut file, path).unwrap_err();
    assert!(matches!(error, UnpackError::TooLarge), "{error}");
}

#[test]
fn holes_of_sparse_files_are_bounded() {
    let root = tempfile::tempdir().unwrap();
    let mut h = header(EntryType::GNUSparse, 512);
    let gnu = h.as_gnu_mut().unwrap();
    gnu.name[0] = b'f';
    gnu.sparse[0].set_offset(RATIO_FREE_BYTES + 512);
    gnu.sparse[0].set_length(512);
    gnu.set_real_size(RATIO_FREE_BYTES + 1024);
    h.set_cksum();
    let mut tar = tar::Builder::new(Vec::new());
    tar.append(&h, &[b'x'; 512][..]).unwrap();
    let bytes = tar.into_inner().unwrap();
    let error = unpack(&bytes[..], root.path(), &Counted::default()).err().unwrap();
    assert!(matches!(error, UnpackError::Ratio), "{error}");
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0);
}

#[test]
fn a_layer_leaves_space_free() {
    if !crate::skip::is_root("a small file system") {
        return;
    }
    let root = tempfile::tempdir().unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(Some("tmpfs"), root.path(), Some("tmpfs"), flags, Some("size=64m")).unwrap();
    let mut tar = tar::Builder::new(Vec::new());
    let size = 80 << 20;
    let mut h = header(EntryType::Regular, size);
    h.set_path("big").unwrap();
    h.set_cksum();
    tar.append(&h, io::repeat(7).take(size as u64)).unwrap();
    let bytes = tar.into_inner().unwrap();
    let error = unpack(&bytes[..], root.path(), &Counted::default()).err().unwrap();
    let left = nix::sys::statvfs::statvfs(root.path()).unwrap();
    nix::mount::umount2(root.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(matches!(error, UnpackError::NoSpace(_)) && error.is_full(), "{error}");
    assert!(left.blocks_available() > 0);
}

#[test]
fn a_layer_leaves_inodes_free() {
    if !crate::skip::is_root("a small file system") {
        return;
    }
    let small = |fill: &dyn Fn(&mut tar::Builder<Vec<u8>>)| {
        let root = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        let options = Some("size=64m,nr_inodes=10000");
        nix::mount::mount(Some("tmpfs"), root.path(), Some("tmpfs"), flags, options).unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        fill(&mut tar);
        let bytes = tar.into_inner().unwrap();
        let result = unpack(&bytes[..], root.path(), &Counted::default());
        let left = nix::sys::statvfs::statvfs(root.path()).unwrap().files_available();
        nix::mount::umount2(root.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
        (result.map(drop), left)
    };
    let files = |kind: EntryType, count: usize| {
        small(&move |tar| {
            for number in 0..count {
                put(tar, &format!("f{number}"), kind, "");
            }
        })
    };
    files(EntryType::Regular, 5_000).0.unwrap();
    // Directories that no entry names count too.
    let deep = small(&|tar| {
        for number in 0..1_000 {
            let path = format!("d{number}{}/f", "/d".repeat(20));
            put(tar, &path, EntryType::Regular, "");
        }
    });
    for (result, left) in
        [files(EntryType::Regular, 20_000), files(EntryType::Directory, 20_000), deep]
    {
        let error = result.unwrap_err();
        assert!(matches!(error, UnpackError::NoInodes(500)) && error.is_full(), "{error}");
        assert!(left >= 500, "{left}");
    }
}
