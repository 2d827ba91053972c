//! Annotations that make a ReplicaSet a revision of its Deployment.

use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The number of a revision.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Earlier numbers of the same revision, separated by commas.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// The replicas that the Deployment wanted when it last scaled the ReplicaSet.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// The most replicas the Deployment allowed then, surge included.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// The longest revision history kept, in characters.
const HISTORY_CHARACTERS: usize = 2000;

/// Annotations that belong to one object and are not copied.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
];

/// One annotation of an object.
pub fn annotation<'a>(meta: &'a ObjectMeta, name: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(name).map(String::as_str)
}

/// The revision of a ReplicaSet, 0 if it has none.
pub fn revision(set: &ReplicaSet) -> i64 {
    annotation(&set.metadata, REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// A number that an annotation holds.
pub fn number(set: &ReplicaSet, name: &str) -> Option<i32> {
    annotation(&set.metadata, name)?.parse().ok()
}

/// Makes `set` carry the annotations of its Deployment and the number `revision`.
pub fn annotate_new(deployment: &Deployment, set: &mut ReplicaSet, revision: i64, existing: bool) {
    copy_annotations(deployment, set);
    let old = annotation(&set.metadata, REVISION).map(str::to_owned);
    let old_number = self::revision(set);
    if old_number >= revision {
        return;
    }
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(REVISION.to_owned(), revision.to_string());
    let Some(old) = old.filter(|_| existing) else { return };
    let known = annotations.get(REVISION_HISTORY).cloned().unwrap_or_default();
    let mut numbers: Vec<&str> = known.split(',').filter(|text| !text.is_empty()).collect();
    numbers.push(&old);
    // The oldest numbers go first; each of the others costs its text and a comma.
    let mut room = HISTORY_CHARACTERS + 1;
    let kept = numbers.iter().rev().take_while(|number| {
        let left = room.checked_sub(number.len() + 1);
        room = left.unwrap_or(0);
        left.is_some()
    });
    let first = numbers.len() - kept.count();
    annotations.insert(REVISION_HISTORY.to_owned(), numbers[first..].join(","));
}

/// Notes on `set` how far its Deployment wants to be scaled.
pub fn annotate_size(set: &mut ReplicaSet, desired: i32, max: i32) {
    let annotations = set.metadata.annotations.get_or_insert_default();
    annotations.insert(DESIRED_REPLICAS.to_owned(), desired.to_string());
    annotations.insert(MAX_REPLICAS.to_owned(), max.to_string());
}

fn copy_annotations(deployment: &Deployment, set: &mut ReplicaSet) {
    for (name, value) in deployment.metadata.annotations.iter().flatten() {
        if !OWN_ANNOTATIONS.contains(&name.as_str()) {
            set.metadata.annotations.get_or_insert_default().insert(name.clone(), value.clone());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_revision_remembers_its_earlier_numbers() {
        let mut deployment = Deployment::default();
        deployment.metadata.annotations = Some(
            [
                ("kubernetes.io/change-cause".to_owned(), "kubectl apply".to_owned()),
                ("kubectl.kubernetes.io/last-applied-configuration".to_owned(), "{}".to_owned()),
                (REVISION.to_owned(), "7".to_owned()),
            ]
            .into(),
        );
        let mut set = ReplicaSet::default();
        annotate_new(&deployment, &mut set, 1, false);
        assert_eq!(annotation(&set.metadata, REVISION), Some("1"));
        assert_eq!(annotation(&set.metadata, REVISION_HISTORY), None);
        assert_eq!(annotation(&set.metadata, "kubernetes.io/change-cause"), Some("kubectl apply"));
        assert_eq!(set.metadata.annotations.as_ref().unwrap().len(), 2);
        annotate_new(&deployment, &mut set, 3, true);
        annotate_new(&deployment, &mut set, 5, true);
        assert_eq!(annotation(&set.metadata, REVISION), Some("5"));
        assert_eq!(annotation(&set.metadata, REVISION_HISTORY), Some("1,3"));
        annotate_new(&deployment, &mut set, 4, true);
        assert_eq!(annotation(&set.metadata, REVISION), Some("5"));
    }
}
