//! Tests of the recorder and of the model.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use coracle_integration::{Random, within};
use nix::errno::Errno;

use crate::faults::{Failure, Fault, Steps};
use crate::image::Plan;
use crate::model::{Model, PAGE_BYTES, Rules};
use crate::recording::{Change, Event, Log};
use crate::tracer::{Purpose, spawn};

/// Images that show every choice.
const IMAGES: usize = 200;

/// Runs a shell script in a new recorded directory, with a fault; returns the directory and the
/// events.
fn record(script: &str, fault: Option<Fault>) -> (tempfile::TempDir, Vec<Event>) {
    let root = tempfile::tempdir().unwrap();
    let directory = root.path().join("data");
    fs::create_dir(&directory).unwrap();
    let (log, plan) = (Arc::<Log>::default(), Arc::<crate::faults::Plan>::default());
    plan.arm(fault);
    let mut command = Command::new("sh");
    command.args(["-c", &format!("cd {} && {script}", directory.display())]);
    let traced = spawn(&command, Purpose { directory, log: log.clone(), plan, seed: 1 });
    within(20, "the script ends", || traced.try_wait().is_some());
    let recorded = log.take();
    assert_eq!(recorded.unsupported, Vec::<String>::new());
    (root, recorded.events)
}

/// The events in short, without the directory.
fn in_short(root: &Path, events: &[Event]) -> Vec<String> {
    let directory = format!("{}/", root.join("data").display());
    let short = |event: &Event| match event {
        Event::Write { path, offset, bytes } => {
            format!("write {} at {offset}: {}", path.display(), bytes.len())
        }
        Event::Change(change) => format!("{change:?}"),
        other => format!("{other:?}"),
    };
    events.iter().map(|event| short(event).replace(&directory, "")).collect()
}

#[test]
fn recorder_sees_writes_syncs_and_renames() {
    // `exec`, since children of the shell are not traced.
    let (root, events) = record("exec dd if=/dev/zero of=a bs=700 count=2 conv=fsync", None);
    assert_eq!(
        in_short(root.path(), &events),
        [
            "Create(\"a\")",
            "write a at 0: 700",
            "write a at 700: 700",
            "Sync { path: \"a\", start: 3 }"
        ]
    );
    let (root, events) = record(": > a; exec mv a b", None);
    let expected = ["Create(\"a\")", "Rename { from: \"a\", to: \"b\" }"];
    assert_eq!(in_short(root.path(), &events), expected);
}

#[test]
fn faults_strike_the_chosen_step() {
    let script = "exec dd if=/dev/zero of=a bs=700 count=2 conv=fsync";
    let fault = |steps, nth, failure| Some(Fault { steps, files: "", nth, count: 1, failure });
    let (root, events) = record(script, fault(Steps::Writes, 1, Failure::Short));
    let short = in_short(root.path(), &events);
    assert_eq!(short[1..3], ["write a at 0: 700", "write a at 700: 350"]);
    assert!(fs::metadata(root.path().join("data/a")).unwrap().len() >= 1050);

    let (root, events) = record(script, fault(Steps::Syncs, 0, Failure::Error(Errno::EIO)));
    let short = in_short(root.path(), &events);
    assert_eq!(short.last().unwrap(), "FailedSync { path: \"a\", start: 3 }");

    let (root, events) = record(script, fault(Steps::All, 2, Failure::Kill));
    assert_eq!(in_short(root.path(), &events), ["Create(\"a\")", "write a at 0: 700"]);
    assert_eq!(fs::metadata(root.path().join("data/a")).unwrap().len(), 700);
}

/// The disks that events can leave: each file's first byte and its length, or nothing.
fn disks(rules: Rules, seed: u64, events: &[Event]) -> BTreeSet<Vec<(String, u8, usize)>> {
    let mut model = Model::new(rules, Path::new("/r"), seed);
    events.iter().enumerate().for_each(|(at, event)| model.apply(at, event));
    let mut random = Random::new(seed);
    let image = |_| {
        let target = tempfile::tempdir().unwrap();
        Plan::draw(&model, events.len(), &mut random).write(&model, target.path(), &mut random);
        let entries = fs::read_dir(target.path()).unwrap().map(|entry| {
            let bytes = fs::read(entry.as_ref().unwrap().path()).unwrap();
            let name = entry.unwrap().file_name().into_string().unwrap();
            (name, bytes.first().copied().unwrap_or(0), bytes.len())
        });
        let mut files: Vec<_> = entries.collect();
        files.sort();
        files
    };
    (0..IMAGES).map(image).collect()
}

fn path(name: &str) -> PathBuf {
    Path::new("/r").join(name)
}

fn write(name: &str, byte: u8) -> Event {
    Event::Write { path: path(name), offset: 0, bytes: vec![byte; PAGE_BYTES] }
}

fn sync(name: &str, start: usize) -> Event {
    Event::Sync { path: path(name), start }
}

fn file(byte: u8, length: usize) -> Vec<(String, u8, usize)> {
    vec![("a".to_owned(), byte, length)]
}

#[test]
fn strict_rules_need_both_syncs() {
    let mut events = vec![Event::Create(path("a")), write("a", 1), sync("a", 2)];
    let page = PAGE_BYTES;
    // The name may be missing; a file that is there is whole.
    assert_eq!(disks(Rules::Strict, 1, &events), [vec![], file(1, page)].into());
    events.push(sync("", 3));
    assert_eq!(disks(Rules::Strict, 1, &events), [file(1, page)].into());
    events.push(write("a", 2));
    assert_eq!(disks(Rules::Strict, 1, &events), [file(1, page), file(2, page)].into());
}

#[test]
fn ext4_rules_delay_the_end_of_files() {
    let page = PAGE_BYTES;
    let events = [Event::Create(path("a")), write("a", 1)];
    let expected = [vec![], file(0, 0), file(1, page)];
    assert_eq!(disks(Rules::Ext4, 1, &events), expected.into());
    let events = [&events[..], &[sync("a", 2)]].concat();
    assert_eq!(disks(Rules::Ext4, 1, &events), [file(1, page)].into());
}

#[test]
fn renames_are_whole() {
    for rules in [Rules::Strict, Rules::Ext4] {
        let events = [
            Event::Create(path("b")),
            write("b", 1),
            sync("b", 2),
            sync("", 2),
            Event::Change(Change::Rename { from: path("b"), to: path("a") }),
        ];
        let old = vec![("b".to_owned(), 1, PAGE_BYTES)];
        assert_eq!(disks(rules, 1, &events), [old, file(1, PAGE_BYTES)].into());
    }
}

#[test]
fn failed_sync_can_lose_pages_for_good() {
    let events = [
        Event::Create(path("a")),
        write("a", 1),
        sync("a", 2),
        sync("", 2),
        write("a", 2),
        Event::FailedSync { path: path("a"), start: 5 },
        sync("a", 6),
        write("a", 3),
        sync("a", 8),
    ];
    let page = PAGE_BYTES;
    let after = |count: usize| -> BTreeSet<_> {
        (0..20).flat_map(|seed| disks(Rules::Ext4, seed * 2 + 1, &events[..count])).collect()
    };
    // The next sync succeeds, and the page may still be the old one, even after a further write.
    assert_eq!(after(7), [file(1, page), file(2, page)].into());
    assert_eq!(after(9), [file(1, page), file(3, page)].into());
}
