//! Power cuts and failing disks. The changes and syncs of a real node's data directory are recorded
//! under load; disks that a cut could have left at any moment are rebuilt from the recording, and a
//! store is started on each. Nothing that was acknowledged may be lost or altered, nothing that was
//! refused may appear, and no start may need a person (docs/decisions/0016).
//!
//! `CORACLE_POWERLOSS_IMAGES` says how many images (`make powerloss` sets it), `CORACLE_SEED` which.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs)]

mod check;
mod faults;
mod image;
mod image_node;
mod ledger;
mod model;
mod node;
mod recording;
mod run;
mod scenario;
mod syscalls;
mod tool_tests;
mod tracer;
mod workload;

use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use coracle_integration::{Random, privileged};

use crate::image_node::ImageNode;
use crate::run::Outcome;
use crate::scenario::{MOMENTS, Moment, Size};

/// Images of a run that is a part of all tests.
const SHORT_RUN_IMAGES: usize = 300;
/// Images of one recording with a fault under load.
const IMAGES_PER_FAULT: usize = 40;
/// Images of one recording with a fault in a start or stop.
const IMAGES_PER_INTERRUPTION: usize = 10;
/// One image in so many is started and recorded in turn.
const IMAGES_PER_SECOND_CUT: usize = 200;
/// Images of such a start.
const IMAGES_PER_START: usize = 20;

fn images() -> usize {
    let named = std::env::var("CORACLE_POWERLOSS_IMAGES").ok();
    named.and_then(|images| images.parse().ok()).unwrap_or(SHORT_RUN_IMAGES)
}

fn finish(test: &str, outcome: &Outcome, begin: Instant) {
    let (images, by_binary) =
        (outcome.images.load(Ordering::Relaxed), outcome.by_binary.load(Ordering::Relaxed));
    let wrong = outcome.wrong.load(Ordering::Relaxed);
    let seconds = begin.elapsed().as_secs();
    eprintln!(
        "{test}: {images} images, {by_binary} of them started with the binary, {seconds} s, {wrong} wrong"
    );
    let violations = outcome.violations.lock().unwrap_or_else(PoisonError::into_inner);
    assert!(violations.is_empty(), "{test}: {wrong} wrong, the first:\n{}", violations[0]);
}

#[test]
fn power_cuts_lose_nothing_acknowledged() {
    if !privileged() {
        return;
    }
    let (begin, seed, outcome) = (Instant::now(), Random::seed(), Outcome::default());
    let starter = ImageNode::new();
    let images = images();
    // The longer the run, the more recordings.
    let recordings = (images / 2000).max(1);
    let size = if images > 1000 {
        Size { alone: 200, together: 100 }
    } else {
        Size { alone: 50, together: 40 }
    };
    for number in 0..recordings {
        let (node, recording) =
            scenario::life(seed.wrapping_add(2 * number as u64), size, &outcome);
        recording.check(images / 2 / recordings, &starter, &outcome);
        for number in 0..(images / recordings / IMAGES_PER_SECOND_CUT).max(1) {
            let seed =
                recording.seed.wrapping_add(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let (again, second) = scenario::start_after_cut(&recording, seed, &outcome);
            second.check(IMAGES_PER_START, &starter, &outcome);
            drop(again);
        }
        drop(node);
    }
    finish("power cuts", &outcome, begin);
}

#[test]
fn interrupted_starts_need_no_manual_step() {
    if !privileged() {
        return;
    }
    let (begin, seed, outcome) = (Instant::now(), Random::seed(), Outcome::default());
    let starter = ImageNode::new();
    let wanted = images() / 4 / IMAGES_PER_INTERRUPTION;
    let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    // A short run looks at one moment only, besides the first start.
    let moments = if wanted < 100 {
        vec![Moment::FirstStart, MOMENTS[1 + random.below(3) as usize]]
    } else {
        MOMENTS.to_vec()
    };
    let mut cases = Vec::new();
    for moment in moments {
        let faults = scenario::faults(&scenario::steps(seed, moment));
        cases.extend(faults.into_iter().map(|fault| (random.below(u64::MAX), moment, fault)));
    }
    cases.sort_unstable_by_key(|(order, ..)| *order);
    let all = cases.len();
    cases.truncate(wanted.max(1));
    eprintln!("{} of {all} faults of single steps", cases.len());
    for (seed, moment, fault) in cases {
        let (node, recording) = scenario::interrupted(seed, moment, fault, &outcome);
        recording.check(IMAGES_PER_INTERRUPTION, &starter, &outcome);
        drop(node);
    }
    finish("interrupted starts and stops", &outcome, begin);
}

#[test]
fn disk_faults_under_load_lose_nothing() {
    if !privileged() {
        return;
    }
    let (begin, seed, outcome) = (Instant::now(), Random::seed(), Outcome::default());
    let starter = ImageNode::new();
    for number in 0..(images() / 4 / IMAGES_PER_FAULT).max(1) {
        let seed = seed.wrapping_add(2 * number as u64);
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let fault = scenario::draw_load_fault(&mut random);
        let (node, recording) = scenario::fault_under_load(seed, fault, &outcome);
        recording.check(IMAGES_PER_FAULT, &starter, &outcome);
        drop(node);
    }
    finish("disk faults", &outcome, begin);
}
