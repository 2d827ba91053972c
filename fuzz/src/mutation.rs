//! What is done to an input.

use crate::random::Random;

/// How many changes one mutation makes at most.
const CHANGES_MAX: usize = 6;
/// Mutations do not grow beyond this.
const BYTES_MAX: usize = 1 << 16;
/// Bytes at which signs, lengths and states turn.
const EDGES: &[u8] = &[0, 1, 0x7f, 0x80, 0xc0, 0xfe, 0xff, b' ', b'"', b'%', b'-', b'.', b'9'];

/// `input` with a few changes, some of them made from pieces of `other`.
pub fn mutate(random: &mut Random, input: &[u8], other: &[u8]) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(CHANGES_MAX) {
        change(random, &mut bytes, other);
    }
    bytes.truncate(BYTES_MAX);
    bytes
}

fn change(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let span = at..(at + random.below(16)).min(bytes.len());
    match random.below(9) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(span)),
        2 => {
            let piece = bytes[span].to_vec();
            bytes.splice(at..at, piece);
        }
        3 => {
            let from = random.below(other.len() + 1);
            let to = (from + random.below(32)).min(other.len());
            bytes.splice(span, other[from..to].iter().copied());
        }
        4 => bytes.insert(at, EDGES[random.below(EDGES.len())]),
        5 => bytes.insert(at, random.bits() as u8),
        // Two bytes at once reach lengths and offsets.
        6 => bytes.iter_mut().skip(at).take(2).for_each(|byte| *byte = random.bits() as u8),
        change => {
            if let Some(byte) = bytes.get_mut(at) {
                match change {
                    7 => *byte ^= 1 << random.below(8),
                    _ => *byte = EDGES[random.below(EDGES.len())],
                }
            }
        }
    }
}
