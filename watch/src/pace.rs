//! The pace at which pods of one owner are turned away, one after the other. Its owner replaces it at once, and the
//! replacement fits as little: where nothing slowed that down (upstream the limits of every client
//! do), the node would be busy with nothing else.

use std::collections::HashMap;
use std::time::Duration;

use kube::api::ObjectMeta;
use tokio::time::Instant;

/// Between the first verdict for a pod of an owner and the second; it doubles with every other one.
const FIRST_WAIT: Duration = Duration::from_secs(1);
/// Longest time between two verdicts.
const LAST_WAIT: Duration = Duration::from_secs(60);

struct Verdicts {
    wait: Duration,
    next_at: Instant,
}

/// The latest verdicts, by the uid of the owner.
#[derive(Default)]
pub struct Pace(HashMap<String, Verdicts>);

impl Pace {
    /// Asks to turn a pod away now: `None` where that may be, otherwise when to try the pod again.
    pub fn hold(&mut self, pod: &ObjectMeta, now: Instant) -> Option<Instant> {
        // An owner that was quiet for as long again begins anew.
        self.0.retain(|_, verdicts| now < verdicts.next_at + 2 * verdicts.wait);
        let owner = controller(pod)?;
        match self.0.get_mut(owner) {
            Some(verdicts) if now < verdicts.next_at => return Some(verdicts.next_at),
            Some(verdicts) => {
                verdicts.wait = LAST_WAIT.min(verdicts.wait * 2);
                verdicts.next_at = now + verdicts.wait;
            }
            None => {
                let first = Verdicts { wait: FIRST_WAIT, next_at: now + FIRST_WAIT };
                self.0.insert(owner.to_owned(), first);
            }
        }
        None
    }
}

/// The uid of the owner that will replace the pod.
fn controller(pod: &ObjectMeta) -> Option<&str> {
    let mut owners = pod.owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    fn owned(uid: &str) -> ObjectMeta {
        let owner = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "a",
            "uid": uid, "controller": true});
        serde_json::from_value(json!({"ownerReferences": [owner]})).unwrap()
    }

    #[test]
    fn verdicts_for_one_owner_come_ever_more_slowly() {
        let mut pace = Pace::default();
        let mut now = Instant::now();
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert_eq!(pace.hold(&owned("a"), now), None);
            let next_at = pace.hold(&owned("a"), now).unwrap();
            waits.push((next_at - now).as_secs());
            now = next_at;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        // Others wait for nobody.
        assert_eq!(pace.hold(&owned("b"), now), None);
        for _ in 0..2 {
            assert_eq!(pace.hold(&ObjectMeta::default(), now), None);
        }
    }

    #[test]
    fn who_was_quiet_begins_anew() {
        let mut pace = Pace::default();
        let now = Instant::now();
        assert_eq!(pace.hold(&owned("a"), now), None);
        let later = now + Duration::from_secs(3);
        assert_eq!(pace.hold(&owned("a"), later), None);
        assert_eq!(pace.hold(&owned("a"), later), Some(later + FIRST_WAIT));
    }
}
