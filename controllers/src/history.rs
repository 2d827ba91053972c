//! ControllerRevisions: the templates that a DaemonSet or StatefulSet has had, so that
//! `kubectl rollout history` and `undo` find them.

use std::collections::HashSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::ControllerRevision;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
use kube::{Client, Resource};
use serde_json::{Value, json};

use crate::cache::{Cache, ObjectKey};
use crate::error::Error;
use crate::ownership::{claim, controller_reference, settle};
use crate::request::{self, Kind};
use crate::selector::Labels;
use crate::template;

/// The label of a pod that names the template it was made from.
pub const POD_LABEL: &str = "controller-revision-hash";
/// How many old revisions are kept where an owner does not say.
const DEFAULT_LIMIT: i32 = 10;
/// The longest part of an owner's name in the name of a revision.
const PREFIX_CHARACTERS: usize = 223;

/// The template in a revision.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let data = revision.data.as_ref()?;
    let mut template = data.0.pointer("/spec/template")?.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.remove("$patch");
    }
    api::typed(&template).ok()
}

/// A patch that gives an owner this template, in the form that kubectl compares and applies.
pub fn patch(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or(Value::Null);
    if let Some(fields) = template.as_object_mut() {
        fields.insert("$patch".to_owned(), "replace".into());
    }
    // kubectl tells whether a rollback would change anything by comparing bytes with what its own
    // types print: these they always print.
    if let Some(metadata) = template.pointer_mut("/metadata").and_then(Value::as_object_mut) {
        metadata.entry("creationTimestamp").or_insert(Value::Null);
    }
    for list in ["/spec/containers", "/spec/initContainers"] {
        let containers = template.pointer_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            if let Some(container) = container.as_object_mut() {
                container.entry("resources").or_insert(json!({}));
            }
        }
    }
    json!({"spec": {"template": template}})
}

/// What a revision is made from.
pub struct Snapshot<'a, O> {
    /// The owner.
    pub owner: &'a O,
    /// Its template.
    pub template: &'a PodTemplateSpec,
    /// Under which label the revision carries its hash.
    pub hash_label: &'static str,
    /// How often a name was taken by another template.
    pub collisions: Option<i32>,
    /// The number of the revision.
    pub number: i64,
}

impl<O: Resource<DynamicType = ()>> Snapshot<'_, O> {
    /// The revision.
    pub fn revision(&self) -> ControllerRevision {
        let hash = template::hash(self.template, self.collisions);
        let owner = self.owner.meta();
        let name = owner.name.as_deref().unwrap_or_default();
        let mut labels: Labels = self
            .template
            .metadata
            .as_ref()
            .and_then(|metadata| metadata.labels.clone())
            .unwrap_or_default();
        labels.insert(self.hash_label.to_owned(), hash.clone());
        ControllerRevision {
            metadata: ObjectMeta {
                name: Some(format!("{}-{hash}", prefix(name))),
                namespace: owner.namespace.clone(),
                labels: Some(labels),
                annotations: owner.annotations.clone(),
                owner_references: Some(vec![controller_reference(self.owner)]),
                ..ObjectMeta::default()
            },
            data: Some(RawExtension(patch(self.template))),
            revision: self.number,
        }
    }
}

fn prefix(name: &str) -> &str {
    name.char_indices().nth(PREFIX_CHARACTERS).map_or(name, |(end, _)| &name[..end])
}

/// The hash that a revision carries.
pub fn hash<'a>(revision: &'a ControllerRevision, label: &str) -> &'a str {
    let labels = revision.metadata.labels.as_ref();
    labels.and_then(|labels| labels.get(label)).map_or("", String::as_str)
}

/// The number of the next revision.
pub fn next_number(revisions: &[Arc<ControllerRevision>]) -> i64 {
    revisions.iter().map(|revision| revision.revision).max().unwrap_or(0).saturating_add(1)
}

/// Sorts by number, then age, then name.
fn sort(revisions: &mut [Arc<ControllerRevision>]) {
    revisions.sort_by(|a, b| {
        let created = |revision: &ControllerRevision| {
            revision.metadata.creation_timestamp.as_ref().map(|time| time.0)
        };
        a.revision
            .cmp(&b.revision)
            .then_with(|| created(a).cmp(&created(b)))
            .then_with(|| a.metadata.name.cmp(&b.metadata.name))
    });
}

/// What the history of an owner needs so that its template is the newest revision.
#[derive(Debug, PartialEq)]
pub enum Current {
    /// A revision of the template is the newest.
    Is(Arc<ControllerRevision>),
    /// An older revision has the template: it gets this number.
    Renumber(Arc<ControllerRevision>, i64),
    /// No revision has the template: one of this number is to be made.
    Create(i64),
}

/// Looks for the template among sorted revisions.
pub fn current(template: &PodTemplateSpec, revisions: &[Arc<ControllerRevision>]) -> Current {
    let wanted = template::canonical(template);
    let newest = revisions.iter().map(|revision| revision.revision).max();
    let next = next_number(revisions);
    let equal = revisions.iter().rev().find(|revision| {
        template_of(revision).is_some_and(|template| template::canonical(&template) == wanted)
    });
    match equal {
        None => Current::Create(next),
        Some(revision) if Some(revision.revision) == newest => Current::Is(revision.clone()),
        Some(revision) => Current::Renumber(revision.clone(), next),
    }
}

/// The revisions to forget: the oldest beyond `limit` of those that are not `live`.
fn surplus(
    revisions: &[Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: i32,
) -> Vec<Arc<ControllerRevision>> {
    let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
    let dead: Vec<_> =
        revisions.iter().filter(|revision| !live.contains(&name(revision))).cloned().collect();
    let limit = usize::try_from(limit).unwrap_or(0);
    let surplus = dead.len().saturating_sub(limit);
    dead.into_iter().take(surplus).collect()
}

/// The revisions of `owner`, once it has adopted those that its selector selects and nobody owns:
/// sorted.
pub async fn revisions<O: Kind>(
    client: &Client,
    cache: &Cache<ControllerRevision>,
    owner: &O,
    selector: &LabelSelector,
) -> Result<Vec<Arc<ControllerRevision>>, Error> {
    let namespace = owner.meta().namespace.as_deref().unwrap_or_default();
    let claimed = claim(owner.meta(), selector, cache.namespaced(namespace), |_| true);
    let mut revisions = settle(client, cache, owner, claimed).await?;
    sort(&mut revisions);
    Ok(revisions)
}

/// Deletes the [`surplus`].
pub async fn forget(
    client: &Client,
    revisions: &[Arc<ControllerRevision>],
    live: &HashSet<String>,
    limit: Option<i32>,
) -> Result<(), Error> {
    for revision in surplus(revisions, live, limit.unwrap_or(DEFAULT_LIMIT)) {
        let key = ObjectKey::of(revision.as_ref());
        let uid = revision.metadata.uid.as_deref();
        request::delete::<ControllerRevision>(client, &key, uid).await?;
    }
    Ok(())
}

/// What came of recording a template.
pub enum Recorded {
    /// It is there.
    Revision(Arc<ControllerRevision>),
    /// Its name is taken by another template: the owner's collision count must grow.
    Collision,
}

/// Makes `current` true.
pub async fn record<'a, O: Kind + 'a>(
    client: &Client,
    cache: &Cache<ControllerRevision>,
    current: Current,
    snapshot: impl FnOnce(i64) -> Snapshot<'a, O> + Send,
) -> Result<Recorded, Error> {
    let written = match current {
        Current::Is(revision) => return Ok(Recorded::Revision(revision)),
        Current::Renumber(revision, number) => {
            let mut revision = (*revision).clone();
            revision.revision = number;
            request::replace(client, &revision).await?
        }
        Current::Create(number) => {
            let snapshot = snapshot(number);
            let wanted = snapshot.revision();
            match request::create(client, &wanted).await {
                Ok(created) => created,
                Err(error) if error.is_already_exists() => {
                    let key = ObjectKey::of(&wanted);
                    let Some(found) = request::get::<ControllerRevision>(client, &key).await?
                    else {
                        return Err(error);
                    };
                    let same = template_of(&found)
                        .is_some_and(|found| template::same(&found, snapshot.template));
                    if !same {
                        return Ok(Recorded::Collision);
                    }
                    found
                }
                Err(error) => return Err(error),
            }
        }
    };
    cache.observe(written.clone());
    Ok(Recorded::Revision(Arc::new(written)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use k8s_openapi::api::apps::v1::DaemonSet;

    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({"metadata": {"labels": {"app": "a"}},
            "spec": {"containers": [{"name": "c", "image": image}]}}))
        .unwrap()
    }

    fn revision(image: &str, number: i64) -> Arc<ControllerRevision> {
        let mut owner = DaemonSet::default();
        owner.metadata.name = Some("agent".to_owned());
        let template = template(image);
        let snapshot = Snapshot {
            owner: &owner,
            template: &template,
            hash_label: POD_LABEL,
            collisions: None,
            number,
        };
        Arc::new(snapshot.revision())
    }

    #[test]
    fn a_template_that_comes_back_gets_a_new_number() {
        let revisions = [revision("a:1", 1), revision("a:2", 2)];
        assert_eq!(current(&template("a:2"), &revisions), Current::Is(revisions[1].clone()));
        assert_eq!(
            current(&template("a:1"), &revisions),
            Current::Renumber(revisions[0].clone(), 3)
        );
        assert_eq!(current(&template("a:3"), &revisions), Current::Create(3));
        assert_eq!(current(&template("a:1"), &[]), Current::Create(1));
    }

    #[test]
    fn revisions_hold_a_patch_that_replaces_the_template() {
        let made = revision("a:1", 1);
        let hash = hash(&made, POD_LABEL).to_owned();
        assert_eq!(made.metadata.name.as_deref(), Some(format!("agent-{hash}").as_str()));
        assert_eq!(made.metadata.labels.as_ref().unwrap()["app"], "a");
        assert_eq!(
            serde_json::to_string(&made.data.as_ref().unwrap().0).unwrap(),
            r#"{"spec":{"template":{"$patch":"replace","metadata":{"creationTimestamp":null,"labels":{"app":"a"}},"spec":{"containers":[{"image":"a:1","name":"c","resources":{}}]}}}}"#
        );
        assert!(template::same(&template_of(&made).unwrap(), &template("a:1")));
    }

    #[test]
    fn the_oldest_unused_revisions_are_forgotten() {
        let revisions = [revision("a:1", 1), revision("a:2", 2), revision("a:3", 3)];
        let name = |index: usize| revisions[index].metadata.name.clone().unwrap();
        let live = HashSet::from([name(0)]);
        let names = |limit: i32| -> Vec<String> {
            let surplus = surplus(&revisions, &live, limit);
            surplus.iter().map(|revision| revision.metadata.name.clone().unwrap()).collect()
        };
        assert_eq!(names(1), [name(1)]);
        assert_eq!(names(0), [name(1), name(2)]);
        assert!(names(5).is_empty());
    }
}
