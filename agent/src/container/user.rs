//! Users and groups of a process, by number or by a name in the image.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// Most bytes read of `/etc/passwd` and `/etc/group`.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Longest line of them that counts; group lines name their members.
const MAX_LINE_BYTES: usize = 64 << 10;
/// Most lines of them that are looked at.
const MAX_LINES: usize = 1 << 16;
/// Most supplementary groups that an image gives, the kernel's `NGROUPS_MAX`.
pub const MAX_GROUPS: usize = 1 << 16;
/// The highest uid and gid: one more than that means "unchanged" in system calls.
const MAX_ID: u32 = i32::MAX as u32;

/// Who a process runs as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups from the image's `/etc/group`.
    pub groups: Vec<u32>,
    /// Home directory from the image's `/etc/passwd`.
    pub home: Option<String>,
}

/// Why a user cannot be determined.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum UserError {
    /// The image names a user that its `/etc/passwd` does not have.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    /// The image names a group that its `/etc/group` does not have.
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    /// A number is none of a user or group.
    #[error("uids and gids must be in range 0-{MAX_ID}: {0}")]
    Range(String),
}

/// A file of an image, seen through its layers (base first).
pub fn read_image_file(layers: &[PathBuf], path: &str) -> Option<String> {
    for layer in layers.iter().rev() {
        let Ok(directory) = open(layer, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty()) else {
            continue;
        };
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let Ok(file): Result<OwnedFd, _> = openat2(&directory, path, how) else { continue };
        let file = std::fs::File::from(file);
        // A whiteout is a character device: the file was removed in this layer.
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MAX_FILE_BYTES), &mut text)
            .ok()?;
        return Some(String::from_utf8_lossy(&text).into_owned());
    }
    None
}

/// Reads a number as passwd files and images have them: digits only, no sign, at most [`MAX_ID`].
pub fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|id| digits && *id <= MAX_ID)
}

/// A line of a passwd file.
struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: Option<&'a str>,
}

fn users(passwd: &str) -> impl Iterator<Item = Entry<'_>> {
    entries(passwd).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, uid, gid) = (fields.next()?, fields.nth(1)?, fields.next()?);
        Some(Entry { name, uid: number(uid)?, gid: number(gid)?, home: fields.nth(1) })
    })
}

/// Names, numbers and members of the groups of a file.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    entries(group).filter_map(|line| {
        let mut fields = line.split(':');
        let (name, gid) = (fields.next()?, fields.nth(1)?);
        Some((name, number(gid)?, fields.next().unwrap_or_default()))
    })
}

fn entries(file: &str) -> impl Iterator<Item = &str> {
    file.lines().filter(|line| line.len() <= MAX_LINE_BYTES).take(MAX_LINES)
}

/// Resolves `user`, `user:group`, `uid` or `uid:gid` with the texts of passwd and group files.
///
/// A text that is a number is taken as one: it is compared with the uid or gid column only, never
/// with a name, so that an image cannot give the number another meaning (CVE-2016-3697).
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (entry, uid) = match (number(user), all_digits(user)) {
        (Some(uid), _) => (users(passwd).find(|entry| entry.uid == uid), uid),
        (None, true) => return Err(UserError::Range(user.to_owned())),
        (None, false) => {
            let entry = users(passwd).find(|entry| entry.name == user);
            let entry = entry.ok_or_else(|| UserError::NoUser(user.to_owned()))?;
            let uid = entry.uid;
            (Some(entry), uid)
        }
    };
    let mut identity = Identity { uid, ..Identity::default() };
    if let Some(entry) = &entry {
        identity.gid = entry.gid;
        identity.home = entry.home.map(ToOwned::to_owned);
    }
    if let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) {
        identity.gid = match (number(wanted), all_digits(wanted)) {
            (Some(gid), _) => gid,
            (None, true) => return Err(UserError::Range(wanted.to_owned())),
            (None, false) => groups(group)
                .find(|(name, ..)| *name == wanted)
                .map(|(_, gid, _)| gid)
                .ok_or_else(|| UserError::NoGroup(wanted.to_owned()))?,
        };
        return Ok(identity);
    }
    if let Some(entry) = &entry {
        let member = |members: &str| members.split(',').any(|member| member == entry.name);
        let mut more: Vec<u32> = groups(group)
            .filter(|(_, gid, members)| *gid != identity.gid && member(members))
            .map(|(_, gid, _)| gid)
            .collect();
        more.truncate(MAX_GROUPS);
        identity.groups = more;
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:101:102::/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:102:\nlogs:x:40:web,other\n";

    #[test]
    fn names_and_numbers() {
        let web = resolve("web", PASSWD, GROUP).unwrap();
        assert_eq!((web.uid, web.gid, &web.groups[..]), (101, 102, &[40][..]));
        assert_eq!(web.home.as_deref(), Some("/var/www"));
        assert_eq!(resolve("101", PASSWD, GROUP).unwrap(), web);
        let mixed = resolve("web:logs", PASSWD, GROUP).unwrap();
        assert_eq!((mixed.uid, mixed.gid), (101, 40));
        let plain = resolve("1000:7", PASSWD, GROUP).unwrap();
        assert_eq!((plain.uid, plain.gid), (1000, 7));
        assert_eq!(resolve("", PASSWD, GROUP).unwrap().uid, 0);
        assert_eq!(resolve("ghost", PASSWD, GROUP), Err(UserError::NoUser("ghost".into())));
        assert_eq!(resolve("0:ghost", PASSWD, GROUP), Err(UserError::NoGroup("ghost".into())));
    }

    #[test]
    fn numbers_are_never_names() {
        // Names that are numbers, and numbers that no program would write.
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\
            1000:x:0:0::/root:/bin/sh\n\
            +7:x:7:7::/seven:\n\
            -1:x:8:8::/eight:\n\
            app:x:1001:1002::/app:\n\
            signed:x:+5:5::/:\n\
            huge:x:4294967296:0::/:\n\
            minus:x:-1:0::/:\n\
            short:x\n";
        let group = "1000:x:0:\nroot:x:0:\n5:x:0:app\n+6:x:6:\nstaff:x:50:1000,app\n";
        for (user, expected) in [
            ("1000", Ok((1000, 0))),
            ("1000:1000", Ok((1000, 1000))),
            ("0:1000", Ok((0, 1000))),
            ("1000:0", Ok((1000, 0))),
            ("app:5", Ok((1001, 5))),
            ("01001", Ok((1001, 1002))),
            ("0001000", Ok((1000, 0))),
            ("+7", Ok((7, 7))),
            ("7", Ok((7, 7))),
            ("-1", Ok((8, 8))),
            ("+1000", Err("unable to find user +1000: no matching entries in passwd file")),
            ("signed", Err("unable to find user signed: no matching entries in passwd file")),
            ("huge", Err("unable to find user huge: no matching entries in passwd file")),
            ("minus", Err("unable to find user minus: no matching entries in passwd file")),
            ("short", Err("unable to find user short: no matching entries in passwd file")),
            ("2147483647", Ok((2_147_483_647, 0))),
            ("2147483648", Err("uids and gids must be in range 0-2147483647: 2147483648")),
            ("4294967295", Err("uids and gids must be in range 0-2147483647: 4294967295")),
            ("4294968296", Err("uids and gids must be in range 0-2147483647: 4294968296")),
            ("0:4294967295", Err("uids and gids must be in range 0-2147483647: 4294967295")),
            ("app:+6", Ok((1001, 6))),
            ("app:-6", Err("unable to find group -6: no matching entries in group file")),
            (":", Ok((0, 0))),
            (":50", Ok((0, 50))),
        ] {
            let found = resolve(user, passwd, group).map(|found| (found.uid, found.gid));
            let found = found.map_err(|error| error.to_string());
            assert_eq!(found, expected.map_err(ToOwned::to_owned), "{user}");
        }
        assert_eq!(resolve("1000", passwd, group).unwrap().groups, [] as [u32; 0]);
        assert_eq!(resolve("1001", passwd, group).unwrap().groups, [0, 50]);
    }

    #[test]
    fn lines_of_image_files_are_bounded() {
        let long = format!("a{}:x:7:7::/:\nb:x:8:8::/:\n", "a".repeat(MAX_LINE_BYTES));
        assert_eq!(resolve("7", &long, "").unwrap().gid, 0);
        assert_eq!(resolve("b", &long, "").unwrap().uid, 8);
        let many = "c:x:9:9::/:\n".repeat(MAX_LINES) + "d:x:10:10::/:\n";
        assert!(resolve("d", &many, "").is_err());
    }

    #[test]
    fn upper_layers_win() {
        let base = tempfile_dir("base");
        let upper = tempfile_dir("upper");
        std::fs::create_dir_all(base.join("etc")).unwrap();
        std::fs::create_dir_all(upper.join("etc")).unwrap();
        std::fs::write(base.join("etc/passwd"), "a").unwrap();
        let layers = [base.clone(), upper.clone()];
        assert_eq!(read_image_file(&layers, "etc/passwd").as_deref(), Some("a"));
        std::fs::write(upper.join("etc/passwd"), "b").unwrap();
        assert_eq!(read_image_file(&layers, "/etc/passwd").as_deref(), Some("b"));
        for path in [base, upper] {
            std::fs::remove_dir_all(path).unwrap();
        }
    }

    fn tempfile_dir(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("coracle-user-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}
