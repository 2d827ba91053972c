//! Device rules on version 2, which has no device controller: a small program for the kernel that
//! is asked about every device a process of the group opens or makes.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Once;

use nix::errno::Errno;
use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};

use crate::sys::bpf;

/// What a device may be used for, by the kernel's numbers (`BPF_DEVCG_ACC_…`).
const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// Kinds of devices (`BPF_DEVCG_DEV_…`).
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

/// Puts the rules of a container into effect, or fails: a container has CAP_MKNOD. Inside of a user
/// namespace, where no device can be made anyway, a machine that withholds programs is warned of
/// once.
pub(super) fn apply(group: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    static WARNING: Once = Once::new();
    let Some(program) = program(rules) else { return Ok(()) };
    let directory = File::open(group)?;
    let attached = bpf::load_device_program(&program)
        .and_then(|loaded| bpf::attach_device_program(directory.as_fd(), loaded.as_fd()));
    match attached {
        Ok(()) => Ok(()),
        Err(errno @ (Errno::EPERM | Errno::ENOSYS)) if in_user_namespace() => {
            WARNING.call_once(|| {
                tracing::warn!(%errno, "this machine does not let us limit the devices of containers");
            });
            Ok(())
        }
        Err(errno) => Err(io::Error::new(
            io::Error::from(errno).kind(),
            format!("limiting the devices of {}: {errno}", group.display()),
        )),
    }
}

/// Returns whether the user namespace of this process is not the machine's.
fn in_user_namespace() -> bool {
    std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| is_partial(&map))
}

/// Returns whether a mapping of user IDs leaves any out.
fn is_partial(map: &str) -> bool {
    !map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// The program for these rules, of which the last that concerns a device and a use holds; without
/// any everything is allowed, as in a fresh group of version 1. `None` when nothing is denied.
fn program(rules: &[LinuxDeviceCgroup]) -> Option<Vec<u64>> {
    if rules.iter().all(LinuxDeviceCgroup::allow) {
        return None;
    }
    // The context: access << 16 | kind, major, minor; 32 bits each.
    let mut code = vec![
        load(KIND, 0),
        load(ACCESS, 0),
        and(KIND, 0xffff),
        shift_right(ACCESS, 16),
        load(MAJOR, 4),
        load(MINOR, 8),
        set(RESULT, ALL),
    ];
    for rule in rules {
        let kind = match rule.typ() {
            Some(LinuxDeviceType::B) => Some(BLOCK),
            Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
            _ => None,
        };
        // Numbers mean nothing where the kind is not named.
        let number = |n: Option<i64>| n.filter(|_| kind.is_some()).and_then(|n| n.try_into().ok());
        let wanted = [(KIND, kind), (MAJOR, number(rule.major())), (MINOR, number(rule.minor()))];
        let wanted: Vec<(u8, u32)> =
            wanted.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
        for (index, (register, value)) in wanted.iter().enumerate() {
            // Over the comparisons that are left and the one change.
            code.push(skip_unless_equal(*register, *value, (wanted.len() - index) as u16));
        }
        let access = access(rule);
        code.push(if rule.allow() { or(RESULT, access) } else { and(RESULT, ALL & !access) });
    }
    // Allowed is what is granted in full.
    code.extend([
        and_register(RESULT, ACCESS),
        copy(CONTEXT, RESULT),
        set(RESULT, 1),
        skip_if_same(CONTEXT, ACCESS, 1),
        set(RESULT, 0),
        exit(),
    ]);
    Some(code)
}

fn access(rule: &LinuxDeviceCgroup) -> u32 {
    let letters = rule.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
    letters.chars().fold(0, |bits, letter| {
        bits | match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MAKE,
            _ => 0,
        }
    })
}

/// One instruction: code, target and source register, jump offset, immediate value.
fn instruction(code: u8, target: u8, source: u8, offset: u16, value: u32) -> u64 {
    u64::from(code)
        | u64::from(target) << 8
        | u64::from(source) << 12
        | u64::from(offset) << 16
        | u64::from(value) << 32
}

// The codes are of `linux/bpf_common.h` and `linux/bpf.h`; arithmetic is on 32 bits.
fn load(target: u8, offset: u16) -> u64 {
    instruction(0x61, target, CONTEXT, offset, 0)
}
fn set(target: u8, value: u32) -> u64 {
    instruction(0xb4, target, 0, 0, value)
}
fn copy(target: u8, source: u8) -> u64 {
    instruction(0xbc, target, source, 0, 0)
}
fn and(target: u8, value: u32) -> u64 {
    instruction(0x54, target, 0, 0, value)
}
fn and_register(target: u8, source: u8) -> u64 {
    instruction(0x5c, target, source, 0, 0)
}
fn or(target: u8, value: u32) -> u64 {
    instruction(0x44, target, 0, 0, value)
}
fn shift_right(target: u8, bits: u32) -> u64 {
    instruction(0x74, target, 0, 0, bits)
}
fn skip_unless_equal(register: u8, value: u32, count: u16) -> u64 {
    instruction(0x56, register, 0, count, value)
}
fn skip_if_same(register: u8, other: u8, count: u16) -> u64 {
    instruction(0x1e, register, other, count, 0)
}
fn exit() -> u64 {
    instruction(0x95, 0, 0, 0, 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Runs a program as the kernel would: may a device be used so?
    fn allows(code: &[u64], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        let context = [access << 16 | kind, major, minor];
        let mut registers = [0u32; 6];
        let mut at = 0;
        loop {
            let word = code[at];
            let (target, source) = ((word >> 8 & 15) as usize, (word >> 12 & 15) as usize);
            let (offset, value) = ((word >> 16 & 0xffff) as usize, (word >> 32) as u32);
            at += 1;
            match word as u8 {
                0x61 => registers[target] = context[offset / 4],
                0xb4 => registers[target] = value,
                0xbc => registers[target] = registers[source],
                0x54 => registers[target] &= value,
                0x5c => registers[target] &= registers[source],
                0x44 => registers[target] |= value,
                0x74 => registers[target] >>= value,
                0x56 if registers[target] != value => at += offset,
                0x1e if registers[target] == registers[source] => at += offset,
                0x56 | 0x1e => {}
                0x95 => return registers[0] == 1,
                code => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    fn compile(rules: &str) -> Option<Vec<u64>> {
        program(&serde_json::from_str::<Vec<LinuxDeviceCgroup>>(rules).unwrap())
    }

    #[test]
    fn the_devices_of_a_container() {
        let code = compile(
            r#"[{"allow": false, "access": "rwm"},
                {"allow": true, "type": "c", "access": "m"},
                {"allow": true, "type": "b", "access": "m"},
                {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"},
                {"allow": true, "type": "c", "major": 136, "access": "rwm"}]"#,
        )
        .unwrap();
        let cases = [
            ("null is read and written", CHARACTER, READ | WRITE, 1, 3, true),
            ("any device is made", BLOCK, MAKE, 259, 0, true),
            ("a disk is not read", BLOCK, READ, 259, 0, false),
            ("nor made and read in one", BLOCK, MAKE | READ, 259, 0, false),
            ("the block device of null's numbers is another", BLOCK, READ, 1, 3, false),
            ("kmsg is not read", CHARACTER, READ, 1, 11, false),
            ("every terminal is", CHARACTER, READ | WRITE, 136, 77, true),
        ];
        for (what, kind, access, major, minor, expected) in cases {
            assert_eq!(allows(&code, kind, access, major, minor), expected, "{what}");
        }
    }

    #[test]
    fn the_last_rule_holds_for_each_use() {
        let code = compile(
            r#"[{"allow": false, "type": "a"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "r"},
                {"allow": true, "type": "c", "major": 10, "minor": 200, "access": "w"},
                {"allow": true, "type": "b", "access": "rw"},
                {"allow": false, "type": "b", "major": 8, "access": "w"}]"#,
        )
        .unwrap();
        assert!(allows(&code, CHARACTER, READ | WRITE, 10, 200));
        assert!(!allows(&code, CHARACTER, MAKE, 10, 200));
        assert!(allows(&code, BLOCK, READ, 8, 1));
        assert!(!allows(&code, BLOCK, READ | WRITE, 8, 1));
        assert!(allows(&code, BLOCK, READ | WRITE, 9, 1));
    }

    #[test]
    fn only_a_partial_map_is_a_user_namespace() {
        assert!(!is_partial("         0          0 4294967295\n"));
        assert!(is_partial("         0     100000      65536\n"));
        assert!(is_partial(""));
    }

    #[test]
    fn nothing_denied_needs_no_program() {
        assert_eq!(compile("[]"), None);
        assert_eq!(compile(r#"[{"allow": true, "access": "rwm"}]"#), None);
    }
}
