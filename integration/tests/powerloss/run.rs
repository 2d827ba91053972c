//! Rebuilds many images of one recording, and checks each.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use coracle_integration::Random;
use tempfile::TempDir;

use crate::check;
use crate::image::Plan;
use crate::image_node::ImageNode;
use crate::ledger::Entries;
use crate::model::{Model, Rules};
use crate::recording::{Position, Recorded};

/// One image in so many is started with the binary.
const BINARY_SHARE: usize = 50;
/// Images that are kept when something is wrong with them.
const KEPT_IMAGES: usize = 5;
/// Images of one recording that are described when something is wrong with them.
const DESCRIBED_IMAGES: usize = 2;

/// Files in `pki` that never change after the first start.
const LASTING_KEYS: &[&str] = &["ca.key", "ca.crt", "service-account.key"];

/// A complete recording.
pub struct Recording {
    /// Its name in messages: the seed, the scenario and the fault.
    pub name: String,
    pub seed: u64,
    /// The directory that holds the recorded one.
    pub root: PathBuf,
    pub data: PathBuf,
    pub recorded: Recorded,
    pub entries: Entries,
    /// Cuts lie behind this event.
    pub from: Position,
    /// A copy of the root as it was before the first event, unless it was empty.
    pub base: Option<TempDir>,
}

/// The results of many images.
#[derive(Default)]
pub struct Outcome {
    pub images: AtomicUsize,
    pub by_binary: AtomicUsize,
    pub wrong: AtomicUsize,
    /// Descriptions of the images with something wrong.
    pub violations: Mutex<Vec<String>>,
}

impl Outcome {
    pub fn report(&self, text: String) {
        eprintln!("WRONG: {text}");
        self.wrong.fetch_add(1, Ordering::Relaxed);
        self.violations.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Recording {
    /// Checks so many images, half of them by each set of rules.
    pub fn check(&self, images: usize, starter: &ImageNode, outcome: &Outcome) {
        for call in &self.recorded.unsupported {
            outcome.report(format!("{}: the recorder does not support this: {call}", self.name));
        }
        std::thread::scope(|scope| {
            for rules in [Rules::Strict, Rules::Ext4] {
                scope.spawn(move || self.check_with(rules, images.div_ceil(2), starter, outcome));
            }
        });
    }

    fn check_with(&self, rules: Rules, images: usize, starter: &ImageNode, outcome: &Outcome) {
        let seed = self.seed ^ rules as u64;
        let mut random = Random::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut cuts: Vec<Position> = (0..images).map(|_| self.cut(&mut random)).collect();
        cuts.sort_unstable();
        let mut model = self.model(rules);
        let (mut applied, mut failed) = (0, 0);
        for (number, cut) in cuts.into_iter().enumerate() {
            for (at, event) in self.recorded.events.iter().enumerate().take(cut).skip(applied) {
                model.apply(at, event);
            }
            applied = cut;
            let (plan, directory) = self.image(&model, cut, &mut random);
            let data = directory.path().join(self.data.strip_prefix(&self.root).unwrap());
            let copy = memory();
            let kept = copy.path().join("image");
            copy_tree(&data, &kept);
            let mut wrong = self.certificates(&data, cut);
            if outcome.images.fetch_add(1, Ordering::Relaxed) % BINARY_SHARE == BINARY_SHARE - 1 {
                outcome.by_binary.fetch_add(1, Ordering::Relaxed);
                wrong.extend(starter.check(&data, &self.entries, cut));
            } else {
                wrong.extend(check::store(&data, &self.entries, cut));
            }
            if wrong.is_empty() {
                continue;
            }
            failed += 1;
            if failed > DESCRIBED_IMAGES {
                outcome.wrong.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let count = wrong.len();
            wrong.truncate(3);
            let place = self.keep(&kept, rules, number, outcome);
            outcome.report(format!(
                "{}: {count} violations: {} ({rules:?} image {number}, cut after event {cut} of {} \
                 in phase {:?}; {plan:?}; syncs failed: {:?}){place}",
                self.name,
                wrong.join("; "),
                self.recorded.events.len(),
                self.recorded.phase_at(cut),
                model.failed_syncs,
            ));
        }
        if failed > DESCRIBED_IMAGES {
            eprintln!("{}: {failed} images by {rules:?} are wrong", self.name);
        }
    }

    /// The file system before the first event.
    fn model(&self, rules: Rules) -> Model {
        let mut model = Model::new(rules, &self.root, self.seed);
        if let Some(base) = &self.base {
            model.load(base.path());
        }
        model
    }

    /// Rebuilds one disk for a model that has seen the events before `cut`.
    fn image(&self, model: &Model, cut: Position, random: &mut Random) -> (Plan, TempDir) {
        let plan = Plan::draw(model, cut, random);
        let directory = memory();
        plan.write(model, directory.path(), random);
        // A start creates the data directory if it is missing.
        fs::create_dir_all(directory.path().join(self.data.strip_prefix(&self.root).unwrap()))
            .unwrap();
        (plan, directory)
    }

    /// Rebuilds one disk at a place that the seed draws; returns the place, too.
    pub fn draw(&self, seed: u64) -> (Position, TempDir) {
        let mut random = Random::new(seed);
        let rules = if random.below(2) == 0 { Rules::Strict } else { Rules::Ext4 };
        let cut = self.cut(&mut random);
        let mut model = self.model(rules);
        self.recorded.events.iter().take(cut).enumerate().for_each(|(at, e)| model.apply(at, e));
        (cut, self.image(&model, cut, &mut random).1)
    }

    /// The keys and certificates that clients have known since their first answer and an image lacks.
    fn certificates(&self, data: &Path, cut: Position) -> Vec<String> {
        let answers = self.entries.values().flatten().map(|operation| operation.answered);
        if answers.min().is_none_or(|first| first > cut) {
            return Vec::new();
        }
        let read = |data: &Path, name: &str| fs::read(data.join("pki").join(name)).ok();
        let changed = LASTING_KEYS.iter().filter(|name| read(&self.data, name) != read(data, name));
        changed.map(|name| format!("pki/{name} is lost or altered")).collect()
    }

    /// A place for a cut: anywhere, or anywhere in a phase that is drawn first, since starts are
    /// short.
    fn cut(&self, random: &mut Random) -> Position {
        let end = self.recorded.events.len();
        let starts: Vec<Position> = self.recorded.phases.iter().map(|phase| phase.start).collect();
        let range = if random.below(2) == 0 || starts.is_empty() {
            self.from..end
        } else {
            let phase = random.below(starts.len() as u64) as usize;
            let end = starts.get(phase + 1).copied().unwrap_or(end);
            starts[phase].max(self.from)..end
        };
        if range.is_empty() {
            return end;
        }
        range.start + random.below(range.len() as u64 + 1) as usize
    }

    fn keep(&self, image: &Path, rules: Rules, number: usize, outcome: &Outcome) -> String {
        if outcome.wrong.load(Ordering::Relaxed) >= KEPT_IMAGES {
            return String::new();
        }
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join(format!("powerloss-{}-{rules:?}-{number}", self.seed));
        let _ = fs::remove_dir_all(&place);
        copy_tree(image, &place);
        format!("; the data directory is kept in {}", place.display())
    }
}

/// A directory in memory, where there is one.
fn memory() -> TempDir {
    let shared = Path::new("/dev/shm");
    let builder = tempfile::Builder::new().prefix("powerloss-").to_owned();
    if shared.is_dir() { builder.tempdir_in(shared) } else { builder.tempdir() }.unwrap()
}

/// Copies a tree of files.
pub fn copy_tree(from: &Path, to: &Path) {
    let mut open = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = open.pop() {
        if from.is_dir() {
            fs::create_dir_all(&to).unwrap();
            let entries = fs::read_dir(from).unwrap().map(|entry| entry.unwrap());
            open.extend(entries.map(|entry| (entry.path(), to.join(entry.file_name()))));
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}
