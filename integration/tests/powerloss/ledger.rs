//! The answers that clients received, and the states that a disk may hold because of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::recording::Position;

/// The contents of an object; `None` for no object.
pub type State = Option<Arc<str>>;

/// The answer to a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// With success.
    Acknowledged,
    /// With a definite error: the write must never take effect.
    Refused,
    /// Not at all, or with an error that leaves the outcome open.
    Unknown,
}

/// A write of one object, or a look at it after a start, which is as good as an acknowledgement.
#[derive(Clone, Debug)]
pub struct Operation {
    /// The object after the operation.
    pub state: State,
    pub sent: Position,
    /// The position at which the answer had arrived.
    pub answered: Position,
    pub answer: Answer,
    /// The revision in the answer.
    pub revision: Option<u64>,
    /// The method and the status of the answer.
    pub note: String,
}

/// Every object with its operations in order; one client at a time works on each.
#[derive(Default)]
pub struct Ledger(Mutex<BTreeMap<String, Vec<Operation>>>);

/// A ledger that is complete.
pub type Entries = BTreeMap<String, Vec<Operation>>;

/// An object as a store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    pub contents: Arc<str>,
    pub revision: u64,
}

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn add(&self, name: &str, operation: Operation) {
        self.lock().entry(name.to_owned()).or_default().push(operation);
    }

    /// Returns the object after its last acknowledged operation.
    pub fn state(&self, name: &str) -> State {
        let entries = self.lock();
        let last = entries.get(name).and_then(|operations| {
            operations.iter().rfind(|operation| operation.answer == Answer::Acknowledged)
        });
        last.and_then(|operation| operation.state.clone())
    }

    /// A ledger that begins with the answers up to a cut.
    pub fn after(entries: &Entries, cut: Position) -> Self {
        let known = |operation: &Operation| {
            let answered = operation.answered <= cut;
            let answer = if answered { operation.answer } else { Answer::Unknown };
            Operation { sent: 0, answered: 0, answer, ..operation.clone() }
        };
        let begun = entries.iter().map(|(name, list)| {
            let sent = list.iter().filter(|operation| operation.sent <= cut);
            (name.clone(), sent.map(known).collect())
        });
        Self(Mutex::new(begun.collect()))
    }

    pub fn entries(&self) -> Entries {
        self.lock().clone()
    }

    /// Compares the objects of a restarted node with the answers. From then on they count as
    /// acknowledged.
    pub fn observe(
        &self,
        found: &BTreeMap<String, Found>,
        revision: u64,
        at: Position,
    ) -> Vec<String> {
        let violations = violations(&self.entries(), found, revision, at);
        for (name, operations) in self.lock().iter_mut() {
            let found = found.get(name);
            operations.push(Operation {
                state: found.map(|found| found.contents.clone()),
                sent: at,
                answered: at,
                answer: Answer::Acknowledged,
                revision: found.map(|found| found.revision),
                note: "seen after a start".into(),
            });
        }
        violations
    }
}

/// Everything in a store that answers up to `cut` do not allow. `revision` is the store's own.
pub fn violations(
    entries: &Entries,
    found: &BTreeMap<String, Found>,
    revision: u64,
    cut: Position,
) -> Vec<String> {
    let mut violations = Vec::new();
    let operations = entries.values().flatten().filter(|operation| operation.answered <= cut);
    let newest = operations.filter_map(|operation| operation.revision).max().unwrap_or(0);
    if revision < newest {
        violations.push(format!("the store is at revision {revision}, an answer had {newest}"));
    }
    for name in found.keys().filter(|name| !entries.contains_key(*name)) {
        violations.push(format!("{name} was never written"));
    }
    for (name, operations) in entries {
        violations.extend(violation(name, operations, found.get(name), cut));
    }
    violations
}

fn violation(
    name: &str,
    operations: &[Operation],
    found: Option<&Found>,
    cut: Position,
) -> Option<String> {
    let settled =
        operations.iter().rposition(|op| op.answer == Answer::Acknowledged && op.answered <= cut);
    let later = &operations[settled.map_or(0, |settled| settled + 1)..];
    let open =
        |op: &&Operation| op.sent <= cut && (op.answer == Answer::Unknown || op.answered > cut);
    let state = found.map(|found| &found.contents);
    let last = settled.map(|settled| &operations[settled]);
    if later.iter().filter(open).any(|op| op.state.as_ref() == state) {
        return None;
    }
    if last.and_then(|op| op.state.as_ref()) == state {
        let (acknowledged, is) =
            (last.and_then(|op| op.revision), found.map(|found| found.revision));
        return match (acknowledged, is) {
            (Some(acknowledged), Some(is)) if acknowledged != is => {
                Some(format!("{name} has revision {is}, acknowledged was {acknowledged}"))
            }
            _ => None,
        };
    }
    let refused = later.iter().chain(operations).find(|op| {
        op.answer == Answer::Refused && op.answered <= cut && op.state.as_ref() == state
    });
    let is = match (refused, found) {
        (Some(op), _) => format!("took the state of a refused write ({})", op.note),
        (None, None) => "is lost".into(),
        (None, Some(_)) if operations.iter().any(|op| op.state.as_ref() == state) => {
            "is back at an older state".into()
        }
        (None, Some(found)) => format!("is altered ({} bytes)", found.contents.len()),
    };
    let last = last.map_or("never acknowledged".into(), |op| {
        let size = op.state.as_ref().map_or("no object".into(), |s| format!("{} bytes", s.len()));
        format!("acknowledged by {} at event {}: {size}", op.note, op.answered)
    });
    Some(format!("{name} {is}; {last}"))
}

#[test]
fn ledger_tells_allowed_states_from_others() {
    let state = |text: &str| Some(Arc::from(text));
    let operation = |state, sent, answer| Operation {
        state,
        sent,
        answered: sent + 2,
        answer,
        revision: None,
        note: "PUT 200".into(),
    };
    let entries = Entries::from([(
        "a".to_owned(),
        vec![
            operation(state("1"), 0, Answer::Acknowledged),
            operation(state("2"), 10, Answer::Refused),
            operation(state("3"), 20, Answer::Acknowledged),
            operation(None, 30, Answer::Unknown),
        ],
    )]);
    let verdict = |text: Option<&str>, cut| {
        let found = text.map(|text| ("a".to_owned(), Found { contents: text.into(), revision: 1 }));
        violations(&entries, &found.into_iter().collect(), 1, cut).pop()
    };
    for (text, cut) in [
        (None, 1),
        (Some("1"), 1),
        (Some("1"), 5),
        (Some("2"), 11),
        (Some("1"), 12),
        (Some("3"), 21),
        (Some("1"), 21),
        (Some("3"), 40),
        (None, 40),
    ] {
        assert_eq!(verdict(text, cut), None, "{text:?} at {cut}");
    }
    for (text, cut, problem) in [
        (None, 5, "is lost"),
        (Some("2"), 12, "refused write"),
        (Some("1"), 25, "older state"),
        (Some("x"), 25, "is altered"),
        (None, 25, "is lost"),
    ] {
        let said = verdict(text, cut).unwrap_or_default();
        assert!(said.contains(problem), "{text:?} at {cut}: {said}");
    }
}
