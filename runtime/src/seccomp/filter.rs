//! A seccomp profile compiled to a classic BPF program.
//!
//! The program checks the architecture, then finds the system call's number by binary search:
//! about nine comparisons for four hundred calls.

use std::collections::BTreeMap;

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompFilterFlag,
    LinuxSeccompOperator,
};

use super::numbers::SYSCALLS;

/// A filter ready for the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Instructions: code in bits 0 to 15, jump if true 16 to 23, if false 24 to 31, operand above.
    pub program: Vec<u64>,
    /// `SECCOMP_FILTER_FLAG_…`.
    pub flags: u64,
}

/// Why a profile cannot be compiled.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CompileError {
    /// It wants an agent to decide.
    #[error("seccomp: action SCMP_ACT_NOTIFY is not supported")]
    Notify,
    /// An argument beyond the sixth.
    #[error("seccomp: argument index {0} is out of range")]
    Argument(usize),
    /// The kernel takes no more than 4096 instructions.
    #[error("seccomp: the profile compiles to {0} instructions, more than the kernel takes")]
    TooLong(usize),
}

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

const OFFSET_NUMBER: u32 = 0;
const OFFSET_ARCH: u32 = 4;
const OFFSET_ARGS: u32 = 16;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// The architecture of this program; the numbers of the calls are its.
const NATIVE_ARCH: u32 = AUDIT_ARCH_X86_64;
const AUDIT_ARCH_I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 0x4000_0000;
const MAX_INSTRUCTIONS: usize = 4096;

/// What happens for one number.
type Rules = Vec<(u32, Vec<LinuxSeccompArg>)>;

/// Compiles a profile. Names that no known kernel has are ignored, as libseccomp does.
pub fn compile(profile: &LinuxSeccomp) -> Result<Filter, CompileError> {
    let default = action(profile.default_action(), profile.default_errno_ret())?;
    let wanted = |arch: Arch| {
        profile.architectures().as_ref().is_none_or(|list| list.is_empty() || list.contains(&arch))
    };
    let wide = rules(profile, |row| row.1)?;
    let narrow = rules(profile, |row| row.2)?;
    let unknown = match profile.default_action() {
        // A call newer than this table: what an older kernel would say.
        LinuxSeccompAction::ScmpActErrno => {
            LinuxSeccompAction::ScmpActErrno.as_u32(Some(libc::ENOSYS as u32))
        }
        _ => default,
    };
    let kill = LinuxSeccompAction::ScmpActKillProcess.as_u32(None);
    let mut builder = Builder::default();
    // Built from the end: each part is emitted before what jumps to it.
    let narrow_start = if wanted(Arch::ScmpArchX86) {
        builder.tree(&entries(&narrow, default, unknown))
    } else {
        builder.ret(kill)
    };
    let wide_entries = entries(&wide, default, unknown);
    let wide_tree = builder.tree(&wide_entries);
    let x32 = if wanted(Arch::ScmpArchX32) {
        // The x32 numbers are those of x86-64 with a bit set, and its own calls from 512 on,
        // which stay forbidden.
        builder.jump_to(wide_tree);
        builder.emit(AND, 0, 0, !X32_BIT)
    } else {
        builder.ret(default)
    };
    let number = {
        builder.branch(GREATER_OR_EQUAL, X32_BIT, x32, wide_tree);
        builder.emit(LOAD, 0, 0, OFFSET_NUMBER)
    };
    let narrow_number = {
        builder.jump_to(narrow_start);
        builder.emit(LOAD, 0, 0, OFFSET_NUMBER)
    };
    let killed = builder.ret(kill);
    let other_arch = builder.branch(EQUAL, AUDIT_ARCH_I386, narrow_number, killed);
    builder.branch(EQUAL, AUDIT_ARCH_X86_64, number, other_arch);
    builder.emit(LOAD, 0, 0, OFFSET_ARCH);
    let program = builder.finish();
    if program.len() > MAX_INSTRUCTIONS {
        return Err(CompileError::TooLong(program.len()));
    }
    Ok(Filter { program, flags: flags(profile) })
}

fn flags(profile: &LinuxSeccomp) -> u64 {
    profile.flags().iter().flatten().fold(0, |flags, flag| {
        flags
            | match flag {
                LinuxSeccompFilterFlag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
                LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => {
                    libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW
                }
                // One thread: nothing to synchronize; no listener: nobody to wait for.
                _ => 0,
            }
    })
}

fn action(action: LinuxSeccompAction, errno: Option<u32>) -> Result<u32, CompileError> {
    match action {
        LinuxSeccompAction::ScmpActNotify => Err(CompileError::Notify),
        action => Ok(action.as_u32(errno)),
    }
}

fn rules(
    profile: &LinuxSeccomp,
    number: impl Fn(&(&str, i16, i16)) -> i16,
) -> Result<BTreeMap<u32, Rules>, CompileError> {
    let mut rules: BTreeMap<u32, Rules> = BTreeMap::new();
    for call in profile.syscalls().iter().flatten() {
        let action = action(call.action(), call.errno_ret())?;
        let args = call.args().clone().unwrap_or_default();
        if let Some(arg) = args.iter().find(|arg| arg.index() > 5) {
            return Err(CompileError::Argument(arg.index()));
        }
        for name in call.names() {
            let Ok(row) = SYSCALLS.binary_search_by(|(known, ..)| (*known).cmp(name.as_str()))
            else {
                continue;
            };
            if let Ok(number) = u32::try_from(number(&SYSCALLS[row])) {
                rules.entry(number).or_default().push((action, args.clone()));
            }
        }
    }
    Ok(rules)
}

/// Ranges of numbers with the same outcome: each begins where the one before ends.
fn entries(rules: &BTreeMap<u32, Rules>, default: u32, unknown: u32) -> Vec<(u32, Outcome)> {
    let end = SYSCALLS.iter().map(|row| row.1.max(row.2)).max().unwrap_or(0) as u32 + 1;
    let mut entries: Vec<(u32, Outcome)> = Vec::new();
    for number in 0..=end {
        let outcome = match rules.get(&number) {
            _ if number == end => Outcome::Return(unknown),
            None => Outcome::Return(default),
            Some(rules) => match rules.iter().find(|(_, args)| args.is_empty()) {
                // A rule without arguments holds for every call.
                Some((action, _)) => Outcome::Return(*action),
                None => Outcome::Conditions(rules.clone(), default),
            },
        };
        if entries.last().is_none_or(|(_, last)| *last != outcome) {
            entries.push((number, outcome));
        }
    }
    entries
}

#[derive(Clone, PartialEq)]
enum Outcome {
    Return(u32),
    Conditions(Rules, u32),
}

/// Emits a program backwards, so that all jump targets are known when a jump is emitted.
#[derive(Default)]
struct Builder {
    /// Instructions, last first.
    reversed: Vec<u64>,
}

/// A place in the program: how many instructions follow from it to the end, itself included.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Label(usize);

impl Builder {
    fn label(&self) -> Label {
        Label(self.reversed.len())
    }

    fn emit(&mut self, code: u16, jt: u8, jf: u8, k: u32) -> Label {
        self.reversed
            .push(u64::from(code) | u64::from(jt) << 16 | u64::from(jf) << 24 | u64::from(k) << 32);
        self.label()
    }

    fn ret(&mut self, value: u32) -> Label {
        self.emit(RETURN, 0, 0, value)
    }

    /// How far `target` is from the instruction emitted next.
    fn distance(&self, target: Label) -> usize {
        self.reversed.len() - target.0
    }

    fn jump_to(&mut self, target: Label) -> Label {
        let distance = self.distance(target) as u32;
        if distance == 0 { target } else { self.emit(JUMP, 0, 0, distance) }
    }

    /// A conditional jump; far targets are reached through a jump of their own.
    fn branch(&mut self, code: u16, k: u32, yes: Label, no: Label) -> Label {
        const REACH: usize = 250;
        let no = if self.distance(no) > REACH { self.jump_to(no) } else { no };
        let yes = if self.distance(yes) > REACH { self.jump_to(yes) } else { yes };
        let (jt, jf) = (self.distance(yes) as u8, self.distance(no) as u8);
        self.emit(code, jt, jf, k)
    }

    /// A binary search over ranges; the number is in the accumulator.
    fn tree(&mut self, entries: &[(u32, Outcome)]) -> Label {
        match entries {
            [] => self.ret(0),
            [(_, outcome)] => self.outcome(outcome),
            _ => {
                let (low, high) = entries.split_at(entries.len() / 2);
                let above = self.tree(high);
                let below = self.tree(low);
                self.branch(GREATER_OR_EQUAL, high[0].0, above, below)
            }
        }
    }

    fn outcome(&mut self, outcome: &Outcome) -> Label {
        match outcome {
            Outcome::Return(value) => self.ret(*value),
            Outcome::Conditions(rules, default) => {
                let mut next = self.ret(*default);
                for (action, args) in rules.iter().rev() {
                    let matched = self.ret(*action);
                    let mut success = matched;
                    for arg in args.iter().rev() {
                        success = self.condition(arg, success, next);
                    }
                    next = success;
                }
                next
            }
        }
    }

    /// Compares one 64-bit argument, high half first.
    fn condition(&mut self, arg: &LinuxSeccompArg, yes: Label, no: Label) -> Label {
        use LinuxSeccompOperator as Operator;
        let low_offset = OFFSET_ARGS + 8 * arg.index() as u32;
        let high_offset = low_offset + 4;
        let (value, mask) = match arg.op() {
            Operator::ScmpCmpMaskedEq => (arg.value_two().unwrap_or(0), Some(arg.value())),
            _ => (arg.value(), None),
        };
        let (low, high) = (value as u32, (value >> 32) as u32);
        match arg.op() {
            Operator::ScmpCmpEq | Operator::ScmpCmpNe | Operator::ScmpCmpMaskedEq => {
                let (yes, no) = if arg.op() == Operator::ScmpCmpNe { (no, yes) } else { (yes, no) };
                self.branch(EQUAL, low, yes, no);
                if let Some(mask) = mask {
                    self.emit(AND, 0, 0, mask as u32);
                }
                let low_part = self.emit(LOAD, 0, 0, low_offset);
                self.branch(EQUAL, high, low_part, no);
                if let Some(mask) = mask {
                    self.emit(AND, 0, 0, (mask >> 32) as u32);
                }
                self.emit(LOAD, 0, 0, high_offset)
            }
            operator => {
                // a < b is not(a >= b), a <= b is not(a > b).
                let (low_code, yes, no) = match operator {
                    Operator::ScmpCmpGe => (GREATER_OR_EQUAL, yes, no),
                    Operator::ScmpCmpGt => (GREATER, yes, no),
                    Operator::ScmpCmpLt => (GREATER_OR_EQUAL, no, yes),
                    _ => (GREATER, no, yes),
                };
                self.branch(low_code, low, yes, no);
                let low_part = self.emit(LOAD, 0, 0, low_offset);
                let equal = self.branch(EQUAL, high, low_part, no);
                self.branch(GREATER, high, yes, equal);
                self.emit(LOAD, 0, 0, high_offset)
            }
        }
    }

    fn finish(mut self) -> Vec<u64> {
        self.reversed.reverse();
        self.reversed
    }
}

/// Returns whether a program allows all of these calls, of which it may look at the first argument
/// only.
pub fn allows(program: &[u64], calls: &[(libc::c_long, u64)]) -> bool {
    const LOG: u32 = 0x7ffc_0000;
    calls.iter().all(|(number, argument)| {
        let args = [*argument, 0, 0, 0, 0, 0];
        evaluate(program, NATIVE_ARCH, *number as u32, args).is_some_and(|action| action >= LOG)
    })
}

/// Runs a program as the kernel would; `None` for one that the kernel does not take.
fn evaluate(program: &[u64], arch: u32, number: u32, args: [u64; 6]) -> Option<u32> {
    let load = |offset: u32| match offset {
        OFFSET_NUMBER => number,
        OFFSET_ARCH => arch,
        offset => {
            let word = (offset - OFFSET_ARGS) as usize / 4;
            (args[word / 2] >> (32 * (word % 2))) as u32
        }
    };
    let mut accumulator = 0;
    let mut at = 0;
    // Jumps lead forward only.
    loop {
        let instruction = *program.get(at)?;
        let code = instruction as u16;
        let (jt, jf) = ((instruction >> 16) as u8, (instruction >> 24) as u8);
        let k = (instruction >> 32) as u32;
        at += 1;
        let mut branch = |truth: bool| at += usize::from(if truth { jt } else { jf });
        match code {
            LOAD => accumulator = load(k),
            AND => accumulator &= k,
            JUMP => at += k as usize,
            EQUAL => branch(accumulator == k),
            GREATER => branch(accumulator > k),
            GREATER_OR_EQUAL => branch(accumulator >= k),
            RETURN => return Some(k),
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::seccomp::runtime_default;
    use oci_spec::runtime::{Capabilities, Capability};

    fn run(program: &[u64], arch: u32, number: u32, args: [u64; 6]) -> u32 {
        evaluate(program, arch, number, args).unwrap()
    }

    const ALLOW: u32 = 0x7fff_0000;
    const EPERM: u32 = 0x0005_0001;
    const ENOSYS: u32 = 0x0005_0000 | libc::ENOSYS as u32;

    #[test]
    fn the_default_profile_decides_as_containerd_does() {
        let plain = compile(&runtime_default(&Capabilities::new())).unwrap();
        let admin = compile(&runtime_default(&Capabilities::from([Capability::SysAdmin]))).unwrap();
        let newuser = libc::CLONE_NEWUSER as u64;
        let cases = [
            (libc::SYS_read, [0; 6], ALLOW, ALLOW),
            (libc::SYS_openat2, [0; 6], ALLOW, ALLOW),
            (libc::SYS_mount, [0; 6], EPERM, ALLOW),
            (libc::SYS_keyctl, [0; 6], EPERM, EPERM),
            (libc::SYS_clone3, [0; 6], ENOSYS, ALLOW),
            (libc::SYS_clone, [0; 6], ALLOW, ALLOW),
            (libc::SYS_clone, [newuser, 0, 0, 0, 0, 0], EPERM, ALLOW),
            (libc::SYS_personality, [8, 0, 0, 0, 0, 0], ALLOW, ALLOW),
            (libc::SYS_personality, [0x40000, 0, 0, 0, 0, 0], EPERM, EPERM),
            (libc::SYS_socket, [2, 0, 0, 0, 0, 0], ALLOW, ALLOW),
            (libc::SYS_socket, [40, 0, 0, 0, 0, 0], EPERM, EPERM),
            (9999, [0; 6], ENOSYS, ENOSYS),
        ];
        for (number, args, without, with) in cases {
            let number = number as u32;
            for (filter, expected) in [(&plain, without), (&admin, with)] {
                let result = run(&filter.program, AUDIT_ARCH_X86_64, number, args);
                assert_eq!(result, expected, "call {number} {args:?}");
            }
        }
        // i386: 3 is read, 21 mount; x32: read with the bit.
        assert_eq!(run(&plain.program, AUDIT_ARCH_I386, 3, [0; 6]), ALLOW);
        assert_eq!(run(&plain.program, AUDIT_ARCH_I386, 21, [0; 6]), EPERM);
        assert_eq!(run(&plain.program, AUDIT_ARCH_X86_64, X32_BIT, [0; 6]), ALLOW);
        assert_eq!(run(&plain.program, 0x1234, 0, [0; 6]), 0x8000_0000);
        assert!(plain.program.len() < 1000, "{}", plain.program.len());
    }

    #[test]
    fn operators_compare_all_64_bits() {
        use LinuxSeccompOperator as Op;
        use oci_spec::runtime::{LinuxSeccompArgBuilder, LinuxSeccompBuilder, LinuxSyscallBuilder};
        let big = 0x1_0000_0005_u64;
        let cases: [(Op, u64, bool); 14] = [
            (Op::ScmpCmpEq, big, true),
            (Op::ScmpCmpEq, 5, false),
            (Op::ScmpCmpNe, 5, true),
            (Op::ScmpCmpNe, big, false),
            (Op::ScmpCmpLt, big - 1, true),
            (Op::ScmpCmpLt, big, false),
            (Op::ScmpCmpLt, 0x2_0000_0000, false),
            (Op::ScmpCmpLe, big, true),
            (Op::ScmpCmpLe, big + 1, false),
            (Op::ScmpCmpGe, big, true),
            (Op::ScmpCmpGe, 6, false),
            (Op::ScmpCmpGt, big + 1, true),
            (Op::ScmpCmpGt, big, false),
            (Op::ScmpCmpGt, 0x2_0000_0000, true),
        ];
        for (op, argument, expected) in cases {
            let arg =
                LinuxSeccompArgBuilder::default().index(2_usize).value(big).op(op).build().unwrap();
            let call = LinuxSyscallBuilder::default()
                .names(vec!["read".to_owned()])
                .action(LinuxSeccompAction::ScmpActAllow)
                .args(vec![arg])
                .build()
                .unwrap();
            let profile = LinuxSeccompBuilder::default()
                .default_action(LinuxSeccompAction::ScmpActErrno)
                .syscalls(vec![call])
                .build()
                .unwrap();
            let filter = compile(&profile).unwrap();
            let result = run(&filter.program, AUDIT_ARCH_X86_64, 0, [9, 9, argument, 9, 9, 9]);
            assert_eq!(result == ALLOW, expected, "{op:?} {argument:#x}");
        }
    }
}
