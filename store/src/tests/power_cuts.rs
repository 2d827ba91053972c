//! Power cuts after every operation.

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::simulated::{Fault, Plan, Simulated};
use super::{Model, load, open};

/// Images that are rebuilt for each cut.
const IMAGES: usize = 3;
/// Cuts that one test tries, spread over all operations.
const CUTS: u64 = 50;

/// Two runs of a store: what they acknowledged before the files froze.
fn run(files: &Simulated, seed: u64) -> Model {
    let mut random = StdRng::seed_from_u64(seed);
    let mut model = Model::default();
    for _ in 0..2 {
        let Ok(store) = open(files) else { break };
        load(&store, &mut model, &mut random, 25, false);
        store.close();
    }
    model
}

fn cut_everywhere(seed: u64, before: impl Fn(&Simulated)) {
    let whole = Simulated::new();
    before(&whole);
    let start = whole.operations();
    run(&whole, seed);
    let operations = whole.operations() - start;
    let mut random = StdRng::seed_from_u64(seed);
    for cut in 0..CUTS {
        let at = start + 1 + cut * operations / CUTS;
        let files = Simulated::new();
        before(&files);
        files.plan(Some(Plan { first: at, last: u64::MAX, fault: Fault::Io }));
        let model = run(&files, seed);
        for image in 0..IMAGES {
            let context = format!("seed {seed}, cut before operation {at}, image {image}");
            let image = files.cut(&mut random);
            let store = open(&image).unwrap_or_else(|error| panic!("{context}: {error}"));
            model.check(&store, &context);
            store.close();
        }
    }
}

#[test]
fn power_cuts_lose_nothing() {
    for seed in 1..4 {
        cut_everywhere(seed, |_| {});
    }
}

#[test]
fn power_cuts_during_first_start_need_no_repair() {
    let whole = Simulated::new();
    open(&whole).unwrap().close();
    let mut random = StdRng::seed_from_u64(5);
    for at in 1..=whole.operations() {
        let files = Simulated::new();
        files.plan(Some(Plan { first: at, last: u64::MAX, fault: Fault::Io }));
        if let Ok(store) = open(&files) {
            store.close();
        }
        for _ in 0..IMAGES {
            let image = files.cut(&mut random);
            let store = open(&image).unwrap_or_else(|e| panic!("cut at {at}: {e}"));
            let mut model = Model::default();
            load(&store, &mut model, &mut random, 3, false);
            store.close();
            model.check(&open(&image.remounted()).unwrap(), "after an interrupted first start");
        }
    }
}
