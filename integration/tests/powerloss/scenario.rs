//! The starts, stops, kills and faults of a recorded node.

use std::collections::BTreeMap;
use std::time::Duration;

use coracle_integration::Random;
use nix::errno::Errno;

use crate::faults::{Failure, Fault, Steps};
use crate::ledger::{Answer, Ledger};
use crate::node::RecordedNode;
use crate::run::{Outcome, Recording, copy_tree};
use crate::workload::altered_on_arrival;

/// The amount of work of clients between starts.
#[derive(Clone, Copy)]
pub struct Size {
    /// Operations of a client that is alone.
    pub alone: u64,
    /// Operations of each of eight clients.
    pub together: u64,
}

/// A first start, one client, `kill -9` under load, eight clients, an orderly stop, and again.
pub fn life(seed: u64, size: Size, outcome: &Outcome) -> (RecordedNode, Recording) {
    let mut node = RecordedNode::prepare(seed);
    let mut random = Random::new(seed);
    let name = format!("seed {seed}, life");
    node.start("first start").unwrap_or_else(|said| panic!("{name}: {said}"));
    node.log.phase("one client");
    node.load().run(1, size.alone, random.below(u64::MAX));
    let restart = |node: &mut RecordedNode, phase: &str| match node.start(phase) {
        Ok(()) => look(node, &name, outcome),
        Err(said) => outcome.report(format!("{name}: {phase}: {said}")),
    };
    for round in 0..2 {
        killed_under_load(&mut node, &mut random, size);
        restart(&mut node, "start after kill");
        node.log.phase("eight clients");
        node.load().run(8, size.together, random.below(u64::MAX));
        node.stop();
        restart(&mut node, "start after stop");
        node.log.phase("eight clients");
        node.load().run(8, size.together / 2, random.below(u64::MAX));
        if round == 0 {
            node.log.phase("one client");
            node.load().run(1, size.alone, random.below(u64::MAX));
        }
    }
    node.kill();
    finish(node, format!("seed {seed}, life"), seed, 0, outcome)
}

/// Eight clients work until the node is killed.
fn killed_under_load(node: &mut RecordedNode, random: &mut Random, size: Size) {
    node.log.phase("eight clients");
    let seed = random.below(u64::MAX);
    let time = Duration::from_millis(50 + random.below(500));
    let victim = node.killer();
    let load = node.load();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(time);
            victim();
        });
        load.run(8, size.together * 10, seed);
    });
    node.kill();
}

/// A moment at which a fault happens to a node that no client uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    FirstStart,
    StartAfterKill,
    StartAfterStop,
    Stop,
}

pub const MOMENTS: [Moment; 4] =
    [Moment::FirstStart, Moment::StartAfterKill, Moment::StartAfterStop, Moment::Stop];

/// A start or stop in which one step fails or is the last one, a whole start, and some load.
pub fn interrupted(
    seed: u64,
    moment: Moment,
    fault: Fault,
    outcome: &Outcome,
) -> (RecordedNode, Recording) {
    let name = format!("seed {seed}, {moment:?} with {fault}");
    let mut node = before(seed, moment);
    let from = if moment == Moment::FirstStart { 0 } else { node.log.position() };
    node.plan.arm(Some(fault));
    if moment == Moment::Stop {
        node.stop();
    } else if node.start("interrupted start").is_ok() {
        if fault.failure != Failure::Kill {
            look(&mut node, &name, outcome);
        }
        node.kill();
    }
    node.plan.arm(None);
    start_again(&mut node, "next start", &name, seed, outcome);
    finish(node, name, seed, from, outcome)
}

/// Starts a node that must start now, looks at its objects, and kills it after a little load.
fn start_again(node: &mut RecordedNode, phase: &str, name: &str, seed: u64, outcome: &Outcome) {
    match node.start(phase) {
        Ok(()) => {
            look(node, name, outcome);
            node.log.phase("two clients");
            node.load().run(2, 10, seed);
            node.kill();
        }
        Err(said) => outcome.report(format!("{name}: the {phase} fails: {said}")),
    }
}

/// A node at that moment.
fn before(seed: u64, moment: Moment) -> RecordedNode {
    let mut node = RecordedNode::prepare(seed);
    if moment != Moment::FirstStart {
        node.start("first start").unwrap_or_else(|said| panic!("{said}"));
        node.log.phase("two clients");
        node.load().run(2, 20, seed);
    }
    match moment {
        Moment::StartAfterKill => node.kill(),
        Moment::StartAfterStop => node.stop(),
        Moment::FirstStart | Moment::Stop => {}
    }
    node
}

/// So many failing steps are all of them.
const FOR_GOOD: usize = usize::MAX / 2;
/// Repetitions of a step from which on some stand for all.
const REPEATED_STEPS: usize = 40;

/// The steps that a node takes at that moment; of those that are repeated often, some.
pub fn steps(seed: u64, moment: Moment) -> Vec<usize> {
    let mut node = before(seed, moment);
    node.plan.arm(None);
    if moment == Moment::Stop {
        node.stop();
    } else {
        node.start("start").unwrap_or_else(|said| panic!("{said}"));
    }
    let mut like: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (number, step) in node.plan.trail().into_iter().enumerate() {
        like.entry(step).or_default().push(number);
    }
    let mut random = Random::new(seed);
    let mut some = |steps: Vec<usize>| {
        let count = steps.len();
        match count {
            ..=REPEATED_STEPS => steps,
            _ => {
                let drawn = [0, 1, count - 1]
                    .into_iter()
                    .chain(std::iter::repeat_with(|| random.below(count as u64) as usize).take(5));
                drawn.map(|index| steps[index]).collect()
            }
        }
    };
    like.into_values().flat_map(&mut some).collect()
}

/// A start on a disk that a power cut of another recording left, and some load.
pub fn start_after_cut(
    earlier: &Recording,
    seed: u64,
    outcome: &Outcome,
) -> (RecordedNode, Recording) {
    let (cut, base) = earlier.draw(seed);
    let name = format!("{}, seed {seed}, start after a cut after event {cut}", earlier.name);
    let mut node = RecordedNode::prepare(seed);
    copy_tree(base.path(), &node.root());
    node.ledger = Ledger::after(&earlier.entries, cut).into();
    start_again(&mut node, "start after a cut", &name, seed, outcome);
    let (node, recording) = finish(node, name, seed, 0, outcome);
    (node, Recording { base: Some(base), ..recording })
}

/// A fault under load, more load, a kill or an orderly stop, a start, and a little load.
pub fn fault_under_load(seed: u64, fault: Fault, outcome: &Outcome) -> (RecordedNode, Recording) {
    let mut node = RecordedNode::prepare(seed);
    let name = format!("seed {seed}, under load {fault}");
    let mut random = Random::new(seed);
    node.start("first start").unwrap_or_else(|said| panic!("{name}: {said}"));
    node.log.phase("two clients");
    node.load().run(2, 40, random.below(u64::MAX));
    let from = node.log.position();
    node.log.phase("load with a fault");
    node.plan.arm(Some(fault));
    node.load().run(4, 120, random.below(u64::MAX));
    if !node.plan.struck() {
        eprintln!("{name}: the load did not come so far");
    }
    // A disk that fails for good is replaced before the next start only.
    if fault.count < FOR_GOOD {
        node.plan.arm(None);
    }
    match random.below(3) {
        0 => node.kill(),
        end => {
            node.log.phase("load after the fault");
            node.load().run(4, 40, random.below(u64::MAX));
            if end == 1 { node.kill() } else { node.stop() }
        }
    }
    node.plan.arm(None);
    start_again(&mut node, "start after the fault", &name, random.below(u64::MAX), outcome);
    finish(node, name, seed, from, outcome)
}

fn look(node: &mut RecordedNode, name: &str, outcome: &Outcome) {
    let Some((found, revision)) = node.load().look() else {
        return outcome.report(format!("{name}: the node ended after its start"));
    };
    let at = node.log.position();
    let mut wrong = node.ledger.observe(&found, revision, at);
    if !wrong.is_empty() {
        let count = wrong.len();
        wrong.truncate(3);
        let wrong = wrong.join("; ");
        outcome.report(format!("{name}: after a start (event {at}): {count} objects, {wrong}"));
    }
}

fn finish(
    node: RecordedNode,
    name: String,
    seed: u64,
    from: usize,
    outcome: &Outcome,
) -> (RecordedNode, Recording) {
    let altered = altered_on_arrival(&node.ledger);
    if let Some(first) = altered.first() {
        outcome.report(format!("{name}: {} objects altered on arrival, {first}", altered.len()));
    }
    let recorded = node.take();
    let entries = node.ledger.entries();
    let count = |answer| entries.values().flatten().filter(|op| op.answer == answer).count();
    eprintln!(
        "{name}: {} events; {} writes acknowledged, {} refused, {} open",
        recorded.events.len(),
        count(Answer::Acknowledged),
        count(Answer::Refused),
        count(Answer::Unknown),
    );
    let (root, data) = (node.root(), node.data());
    (node, Recording { name, seed, root, data, recorded, entries, from, base: None })
}

/// Every way in which a step can fail, for each of the steps.
pub fn faults(steps: &[usize]) -> Vec<Fault> {
    let failures =
        [Failure::Error(Errno::EIO), Failure::Error(Errno::ENOSPC), Failure::Short, Failure::Kill];
    let fault =
        |nth: &usize, failure| Fault { steps: Steps::All, files: "", nth: *nth, count: 1, failure };
    steps.iter().flat_map(|nth| failures.map(|failure| fault(nth, failure))).collect()
}

/// A fault for a node under load, drawn by the seed.
pub fn draw_load_fault(random: &mut Random) -> Fault {
    let failure = match random.below(5) {
        0 | 1 => Failure::Error(Errno::EIO),
        2 | 3 => Failure::Error(Errno::ENOSPC),
        _ => Failure::Short,
    };
    let (steps, files, nth) = match random.below(8) {
        0 => (Steps::Syncs, "state.journal", random.below(200)),
        1..4 => (Steps::Syncs, "state.redb", random.below(3)),
        4 => (Steps::Writes, "state.journal", random.below(200)),
        5 | 6 => (Steps::Writes, "state.redb", random.below(25)),
        _ => (Steps::All, "", random.below(400)),
    };
    let count = [1, 1, 2, 5, 20, FOR_GOOD][random.below(6) as usize];
    Fault { steps, files, nth: nth as usize, count, failure }
}
