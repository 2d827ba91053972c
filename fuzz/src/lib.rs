//! Fuzzing that every test run repeats: the files of a committed corpus and mutations of them,
//! made from a seed, go through a parser, and a panic is a failure that names its input.
//!
//! `CORACLE_FUZZ_ROUNDS` asks for more mutations of each file than a test run makes,
//! `CORACLE_FUZZ_SEED` for others.

mod mutation;
mod random;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use mutation::mutate;
use random::Random;

/// Mutations of each file in a test run.
const ROUNDS: u64 = 2000;
/// The seed of a test run.
const SEED: u64 = 1;

/// Calls `parse` with each file in `corpus` and with mutations of it. A panic names the file and
/// the round and prints the input, which belongs into the corpus once its cause is mended.
///
/// # Panics
///
/// When `parse` does, and when the corpus is empty or cannot be read.
pub fn each(corpus: impl AsRef<Path>, parse: impl Fn(&[u8])) {
    let corpus = read(corpus.as_ref());
    let (rounds, seed) =
        (setting("CORACLE_FUZZ_ROUNDS", ROUNDS), setting("CORACLE_FUZZ_SEED", SEED));
    for (number, (path, whole)) in corpus.iter().enumerate() {
        let mut random = Random::new(seed.wrapping_add(number as u64));
        attempt(path, 0, whole, &parse);
        for round in 1..=rounds {
            let (_, other) = &corpus[random.below(corpus.len())];
            attempt(path, round, &mutate(&mut random, whole, other), &parse);
        }
    }
}

fn attempt(path: &Path, round: u64, input: &[u8], parse: &impl Fn(&[u8])) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| parse(input))) {
        let text = input.escape_ascii();
        eprintln!("{}, round {round}, {} bytes: b\"{text}\"", path.display(), input.len());
        resume_unwind(panic);
    }
}

/// The files of a corpus, in the order of their names.
fn read(corpus: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = std::fs::read_dir(corpus);
    let entries = entries.unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
    let mut files: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter_map(|path| Some((std::fs::read(&path).ok()?, path)))
        .map(|(bytes, path)| (path, bytes))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", corpus.display());
    files
}

fn setting(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// The sources of this crate serve as a corpus.
    const CORPUS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src");

    #[test]
    fn a_corpus_is_tried_whole_and_mutated() {
        let (whole, other) = (Cell::new(0), Cell::new(0));
        let files: Vec<Vec<u8>> = read(Path::new(CORPUS)).into_iter().map(|file| file.1).collect();
        each(CORPUS, |bytes| {
            let count = if files.iter().any(|file| file == bytes) { &whole } else { &other };
            count.set(count.get() + 1);
        });
        assert!(whole.get() >= files.len());
        assert!(other.get() > 1000 * files.len());
    }

    #[test]
    fn a_panic_is_a_failure() {
        let found = catch_unwind(|| each(CORPUS, |bytes| assert!(bytes.len() > 100)));
        assert!(found.is_err(), "no mutation was short");
    }
}
