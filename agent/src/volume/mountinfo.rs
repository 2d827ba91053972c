//! `/proc/self/mountinfo` (proc(5)) as bytes: a mount point is any bytes, not always UTF-8.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The path that it is mounted on.
    pub point: PathBuf,
    /// True if it passes mounts to other mounts and takes theirs.
    pub shared: bool,
    /// True if it takes the mounts of another mount.
    pub slave: bool,
}

/// Reads the mounts of this process, in the order of the kernel.
pub fn read() -> io::Result<Vec<Mount>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Takes the text of a mountinfo file apart.
pub fn parse(text: &[u8]) -> Vec<Mount> {
    text.split(|byte| *byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ').skip(4);
    let point = unescape(fields.next()?);
    let mut mount = Mount { point, shared: false, slave: false };
    for field in fields.skip(1).take_while(|field| *field != b"-") {
        mount.shared |= field.starts_with(b"shared:");
        mount.slave |= field.starts_with(b"master:");
    }
    Some(mount)
}

/// Decodes space, tab, newline and backslash, which are written in octal.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[3..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStrExt;

    use super::*;

    #[test]
    fn mount_points_are_bytes() {
        let text = b"28 27 0:30 / /srv rw shared:7 master:1 - tmpfs tmpfs rw\n\
            29 28 0:31 / /a\\040b\\134\\011 rw,nosuid - tmpfs shared:1 rw\n\
            30 28 0:32 / /caf\xe9\xff rw master:7 - tmpfs tmpfs rw\n\
            short\n";
        let mounts = parse(text);
        let points: Vec<&[u8]> =
            mounts.iter().map(|mount| mount.point.as_os_str().as_bytes()).collect();
        assert_eq!(points, [&b"/srv"[..], b"/a b\\\t", b"/caf\xe9\xff"]);
        let peers: Vec<_> = mounts.iter().map(|mount| (mount.shared, mount.slave)).collect();
        assert_eq!(peers, [(true, true), (false, false), (false, true)]);
        assert!(read().is_ok_and(|mounts| !mounts.is_empty()));
    }
}
