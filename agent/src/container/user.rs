//! Users and groups of a process, by number or by a name in the image.

use std::os::fd::OwnedFd;
use std::path::PathBuf;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// Most bytes read of `/etc/passwd` and `/etc/group`.
const MAX_FILE_BYTES: u64 = 1 << 20;

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

/// Resolves `user`, `user:group`, `uid` or `uid:gid` with the texts of passwd and group files.
pub fn resolve(user: &str, passwd: &str, group: &str) -> Result<Identity, UserError> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entries = || {
        passwd.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let uid = fields.get(2)?.parse::<u32>().ok()?;
            let gid = fields.get(3)?.parse::<u32>().ok()?;
            Some((fields[0].to_owned(), uid, gid, fields.get(5).map(ToString::to_string)))
        })
    };
    let number = user.parse::<u32>().ok();
    let entry = entries().find(|entry| entry.0 == user || Some(entry.1) == number);
    let mut identity = match (&entry, number) {
        (Some((_, uid, gid, home)), _) => {
            Identity { uid: *uid, gid: *gid, groups: Vec::new(), home: home.clone() }
        }
        (None, Some(uid)) => Identity { uid, ..Identity::default() },
        (None, None) => return Err(UserError::NoUser(user.to_owned())),
    };
    let groups = || {
        group.lines().filter_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let gid = fields.get(2)?.parse::<u32>().ok()?;
            Some((fields[0].to_owned(), gid, fields.get(3).copied().unwrap_or_default().to_owned()))
        })
    };
    if let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) {
        identity.gid = match groups().find(|(name, _, _)| name == wanted) {
            Some((_, gid, _)) => gid,
            None => wanted.parse().map_err(|_| UserError::NoGroup(wanted.to_owned()))?,
        };
        return Ok(identity);
    }
    if let Some((name, ..)) = &entry {
        for (_, gid, members) in groups() {
            if members.split(',').any(|member| member == name) && gid != identity.gid {
                identity.groups.push(gid);
            }
        }
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
