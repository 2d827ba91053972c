//! Thresholds below which something is done: `memory.available<100Mi,nodefs.available<10%`.

use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::Pressure;
use super::signal::{Level, Observation};
use crate::container::resources;

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// `memory.available`
    Memory,
    /// `nodefs.available`
    NodeFs,
    /// `nodefs.inodesFree`
    NodeFsInodes,
    /// `imagefs.available`
    ImageFs,
    /// `imagefs.inodesFree`
    ImageFsInodes,
    /// `pid.available`
    Pids,
}

const NAMES: [(&str, Signal); 6] = [
    ("memory.available", Signal::Memory),
    ("nodefs.available", Signal::NodeFs),
    ("nodefs.inodesFree", Signal::NodeFsInodes),
    ("imagefs.available", Signal::ImageFs),
    ("imagefs.inodesFree", Signal::ImageFsInodes),
    ("pid.available", Signal::Pids),
];

impl Signal {
    /// The resource that is reclaimed, as messages name it.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::NodeFs | Self::ImageFs => "ephemeral-storage",
            Self::NodeFsInodes | Self::ImageFsInodes => "inodes",
            Self::Pids => "pids",
        }
    }

    /// Whether removing images and files helps.
    pub fn is_disk(self) -> bool {
        !matches!(self, Self::Memory | Self::Pids)
    }
}

/// Too little, absolutely or relatively.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Least {
    Amount(u64),
    Percent(u64),
    /// A percentage, but no more than [`ENOUGH_BYTES`].
    Modest(u64),
}

/// Percentages of a large disk are more than one machine needs: where nobody has set a threshold,
/// it is enough when so much is left.
pub const ENOUGH_BYTES: u64 = 2 << 30;

/// One threshold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threshold {
    /// What is watched.
    pub signal: Signal,
    least: Least,
}

impl Threshold {
    /// How much must be left.
    pub fn least(&self, level: Level) -> u64 {
        let percent = |percent: u64| {
            let least = u128::from(level.capacity) * u128::from(percent) / 100;
            u64::try_from(least).unwrap_or(u64::MAX)
        };
        match self.least {
            Least::Amount(amount) => amount,
            Least::Percent(least) => percent(least),
            Least::Modest(least) => percent(least).min(ENOUGH_BYTES),
        }
    }

    /// Whether less than that is left. What cannot be measured is never short.
    pub fn is_met(&self, observation: &Observation) -> bool {
        let level = observation.of(self.signal);
        level.capacity > 0 && level.available < self.least(level)
    }

    /// The kubelet's own, except that [`ENOUGH_BYTES`] of a disk are enough.
    pub fn usual() -> Vec<Self> {
        let modest = |signal, least| Self { signal, least: Least::Modest(least) };
        let amount = |signal, least| Self { signal, least: Least::Amount(least) };
        let percent = |signal, least| Self { signal, least: Least::Percent(least) };
        vec![
            amount(Signal::Memory, 100 << 20),
            modest(Signal::NodeFs, 10),
            percent(Signal::NodeFsInodes, 5),
            modest(Signal::ImageFs, 15),
            percent(Signal::ImageFsInodes, 5),
        ]
    }
}

/// A text that is no threshold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no eviction threshold such as memory.available<100Mi or nodefs.available<10%")]
pub struct ThresholdError {
    text: String,
}

impl FromStr for Threshold {
    type Err = ThresholdError;

    fn from_str(text: &str) -> Result<Self, ThresholdError> {
        let error = || ThresholdError { text: text.to_owned() };
        let (name, least) = text.split_once('<').ok_or_else(error)?;
        let (_, signal) = NAMES.iter().find(|(known, _)| *known == name).ok_or_else(error)?;
        let least = match least.strip_suffix('%') {
            Some(percent) => {
                Least::Percent(percent.parse().ok().filter(|p| *p <= 100).ok_or_else(error)?)
            }
            // An empty quantity would be zero.
            None if least.is_empty() => return Err(error()),
            None => {
                let units = resources::units(&Quantity(least.to_owned()));
                Least::Amount(units.and_then(|u| u64::try_from(u).ok()).ok_or_else(error)?)
            }
        };
        Ok(Self { signal: *signal, least })
    }
}

/// Those of `thresholds` that are met, memory first: it is what a machine dies of.
pub fn met(thresholds: &[Threshold], observation: &Observation) -> Vec<Threshold> {
    let mut met: Vec<Threshold> =
        thresholds.iter().copied().filter(|threshold| threshold.is_met(observation)).collect();
    met.sort_by_key(|threshold| threshold.signal != Signal::Memory);
    met
}

/// The pressure that thresholds stand for.
pub fn pressure(met: &[Threshold]) -> Pressure {
    let any = |test: fn(Signal) -> bool| met.iter().any(|threshold| test(threshold.signal));
    Pressure {
        memory: any(|signal| signal == Signal::Memory),
        disk: any(Signal::is_disk),
        pids: any(|signal| signal == Signal::Pids),
    }
}

/// An amount as upstream prints a quantity of this kind: `102400Ki`, `100Mi`.
pub struct Binary(pub u64);

impl fmt::Display for Binary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0;
        let mut suffix = "";
        for next in ["Ki", "Mi", "Gi", "Ti", "Pi"] {
            if value == 0 || !value.is_multiple_of(1024) {
                break;
            }
            value /= 1024;
            suffix = next;
        }
        write!(f, "{value}{suffix}")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn thresholds_are_read_and_compared() {
        let disk = Level { available: 9, capacity: 100 };
        let memory = Level { available: 200 << 20, capacity: 1 << 30 };
        let seen = Observation { nodefs: disk, memory, ..Observation::default() };
        for (text, is_met) in [
            ("nodefs.available<10%", true),
            ("nodefs.available<9%", false),
            ("memory.available<100Mi", false),
            ("memory.available<0.5Gi", true),
            // Not measured.
            ("imagefs.available<50%", false),
        ] {
            assert_eq!(text.parse::<Threshold>().unwrap().is_met(&seen), is_met, "{text}");
        }
        for bad in ["", "memory.available", "memory.available<", "disk<1", "nodefs.available<101%"]
        {
            assert!(bad.parse::<Threshold>().is_err(), "{bad}");
        }
    }

    #[test]
    fn large_disks_have_enough_unless_told_otherwise() {
        let large = Level { available: 3 << 30, capacity: 1 << 40 };
        let seen = Observation { nodefs: large, imagefs: large, ..Observation::default() };
        assert!(met(&Threshold::usual(), &seen).is_empty());
        assert!("nodefs.available<10%".parse::<Threshold>().unwrap().is_met(&seen));
    }

    #[test]
    fn memory_comes_first() {
        let low = Level { available: 1, capacity: 1 << 40 };
        let seen = Observation { nodefs: low, memory: low, ..Observation::default() };
        let met = met(&Threshold::usual(), &seen);
        let signals: Vec<Signal> = met.iter().map(|threshold| threshold.signal).collect();
        assert_eq!(signals, [Signal::Memory, Signal::NodeFs]);
        assert_eq!(pressure(&met), Pressure { memory: true, disk: true, pids: false });
    }

    #[test]
    fn amounts_are_printed_like_quantities() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (2048, "2Ki"), (100 << 20, "100Mi")] {
            assert_eq!(Binary(bytes).to_string(), text);
        }
    }
}
