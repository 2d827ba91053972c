//! Claims and volumes, step by step.

use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::StorageClass;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::claim::{self, Observed, Step};
use super::{protection, provision, released};
use crate::fixture::{merge, pod};

fn claim(more: Value) -> PersistentVolumeClaim {
    let mut value = json!({
        "metadata": {"name": "data", "namespace": "default", "uid": "c1"},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
            "resources": {"requests": {"storage": "1Gi"}}}
    });
    merge(&mut value, more);
    serde_json::from_value(value).unwrap()
}

fn volume(name: &str, more: Value) -> Arc<PersistentVolume> {
    let mut value = json!({
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "manual",
            "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/mnt"}},
        "status": {"phase": "Available"}
    });
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn class(name: &str, more: Value) -> Arc<StorageClass> {
    let mut value = json!({"metadata": {"name": name}, "provisioner": "coracle/local-path",
        "reclaimPolicy": "Delete", "volumeBindingMode": "Immediate"});
    merge(&mut value, more);
    Arc::new(serde_json::from_value(value).unwrap())
}

fn node() -> Arc<Node> {
    Arc::new(
        serde_json::from_value(
            json!({"metadata": {"name": "vm", "labels": {"kubernetes.io/hostname": "vm"}}}),
        )
        .unwrap(),
    )
}

fn step(
    claim: &PersistentVolumeClaim,
    volumes: &[Arc<PersistentVolume>],
    classes: &[Arc<StorageClass>],
) -> Step {
    claim::step(&Observed {
        claim,
        volumes,
        classes,
        nodes: &[node()],
        waiting_pod: None,
        directory: Path::new("/data/volumes"),
    })
}

fn bound_to(step: &Step) -> String {
    match step {
        Step::Bind(volume) => volume.name_any(),
        Step::Wait(Some(notice)) => notice.message.clone(),
        other => format!("{other:?}"),
    }
}

#[test]
fn the_smallest_volume_that_fits_is_taken() {
    let volumes = [
        volume("large", json!({"spec": {"capacity": {"storage": "5Gi"}}})),
        volume("small", json!({"spec": {"capacity": {"storage": "500Mi"}}})),
        volume("right", json!({"spec": {"capacity": {"storage": "2Gi"}}})),
        volume("other class", json!({"spec": {"storageClassName": "fast"}})),
        volume("other mode", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
        volume("block", json!({"spec": {"volumeMode": "Block"}})),
        volume("taken", json!({"spec": {"claimRef": {"name": "x", "namespace": "y"}}})),
        volume("released", json!({"status": {"phase": "Released"}})),
        volume("leaving", json!({"metadata": {"deletionTimestamp": "2024-01-01T00:00:00Z"}})),
    ];
    assert_eq!(bound_to(&step(&claim(json!({})), &volumes, &[])), "right");
    // One that is set aside goes first, whatever its size.
    let own = volume(
        "own",
        json!({"spec": {"capacity": {"storage": "9Gi"},
        "claimRef": {"name": "data", "namespace": "default"}}}),
    );
    let with_own = [volumes[2].clone(), own];
    assert_eq!(bound_to(&step(&claim(json!({})), &with_own, &[])), "own");
    let selective = claim(json!({"spec": {"selector": {"matchLabels": {"disk": "ssd"}}}}));
    assert_eq!(
        bound_to(&step(&selective, &volumes, &[])),
        "storageclass.storage.k8s.io \"manual\" not found"
    );
    let labelled = volume("ssd", json!({"metadata": {"labels": {"disk": "ssd"}}}));
    assert_eq!(bound_to(&step(&selective, &[labelled], &[])), "ssd");
}

#[test]
fn a_claim_may_name_its_volume() {
    let named = claim(json!({"spec": {"volumeName": "v"}}));
    assert_eq!(step(&named, &[], &[]), Step::Wait(None));
    assert_eq!(bound_to(&step(&named, &[volume("v", json!({}))], &[])), "v");
    let table = [
        (
            json!({"spec": {"capacity": {"storage": "1Mi"}}}),
            "Cannot bind to requested volume \"v\": requested PV is too small",
        ),
        (
            json!({"spec": {"storageClassName": "fast"}}),
            "Cannot bind to requested volume \"v\": storageClassName does not match",
        ),
        (
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
            "Cannot bind to requested volume \"v\": incompatible accessMode",
        ),
        (
            json!({"spec": {"claimRef": {"name": "x", "namespace": "default", "uid": "c2"}}}),
            "volume \"v\" already bound to a different claim.",
        ),
    ];
    for (more, expected) in table {
        assert_eq!(bound_to(&step(&named, &[volume("v", more)], &[])), expected);
    }
}

#[test]
fn claims_without_a_class_say_why_they_wait() {
    let bare = claim(json!({"spec": {"storageClassName": null}}));
    assert_eq!(
        bound_to(&step(&bare, &[], &[])),
        "no persistent volumes available for this claim and no storage class is set"
    );
    let default = class(
        "standard",
        json!({"metadata": {"annotations": {
        "storageclass.kubernetes.io/is-default-class": "true"}}}),
    );
    assert_eq!(
        step(&bare, &[], std::slice::from_ref(&default)),
        Step::UseClass("standard".to_owned())
    );
    // The empty class means: no class.
    let none = claim(json!({"spec": {"storageClassName": ""}}));
    assert!(bound_to(&step(&none, &[], &[default])).starts_with("no persistent volumes"));
}

#[test]
fn volumes_are_made_where_and_when_the_class_says() {
    let made = |step: Step| match step {
        Step::Provision(volume) => *volume,
        other => panic!("{other:?}"),
    };
    let wanted = claim(json!({}));
    let volume = made(step(&wanted, &[], &[class("manual", json!({}))]));
    assert_eq!(volume.name_any(), "pvc-c1");
    assert!(provision::is_ours(&volume));
    let spec = volume.spec.unwrap();
    assert_eq!(spec.host_path.unwrap().path, "/data/volumes/pvc-c1_default_data");
    assert_eq!(spec.persistent_volume_reclaim_policy.as_deref(), Some("Delete"));
    assert_eq!(spec.claim_ref.unwrap().uid.as_deref(), Some("c1"));
    let later = class("manual", json!({"volumeBindingMode": "WaitForFirstConsumer"}));
    assert_eq!(
        bound_to(&step(&wanted, &[], std::slice::from_ref(&later))),
        "waiting for first consumer to be created before binding"
    );
    // A free volume is not taken either before a pod says where it has to be.
    let free = [self::volume("free", json!({}))];
    assert!(bound_to(&step(&wanted, &free, std::slice::from_ref(&later))).starts_with("waiting"));
    let selected = claim(json!({"metadata": {"annotations": {
        "volume.kubernetes.io/selected-node": "vm"}}}));
    made(step(&selected, &[], std::slice::from_ref(&later)));
    let elsewhere = json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In",
            "values": ["other"]}]}]}}}});
    let far = [self::volume("far", elsewhere)];
    made(step(&selected, &far, std::slice::from_ref(&later)));
    assert_eq!(bound_to(&step(&selected, &free, &[later])), "free");
    let refused = |class: Value, more: Value| {
        bound_to(&step(&claim(more), &[], &[self::class("manual", class)]))
    };
    assert_eq!(
        refused(json!({"provisioner": "kubernetes.io/no-provisioner"}), json!({})),
        "no volume plugin matched name: kubernetes.io/no-provisioner"
    );
    assert!(refused(json!({}), json!({"spec": {"volumeMode": "Block"}})).contains("Block"));
    let Step::Ask { provisioner, .. } =
        step(&wanted, &[], &[class("manual", json!({"provisioner": "example.com/nfs"}))])
    else {
        panic!("nobody was asked");
    };
    assert_eq!(provisioner, "example.com/nfs");
}

#[test]
fn a_bound_claim_notices_what_it_lost() {
    let bound = claim(
        json!({"metadata": {"annotations": {"pv.kubernetes.io/bind-completed": "yes"}},
        "spec": {"volumeName": "v"}, "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
    );
    let own = json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c1"}}});
    assert_eq!(bound_to(&step(&bound, &[volume("v", own.clone())], &[])), "v");
    let Step::Lose(notice) = step(&bound, &[], &[]) else { panic!("it is lost") };
    assert_eq!(notice.reason, "ClaimLost");
    let theirs =
        json!({"spec": {"claimRef": {"name": "data", "namespace": "default", "uid": "c2"}}});
    let Step::Lose(notice) = step(&bound, &[volume("v", theirs)], &[]) else {
        panic!("it is misbound")
    };
    assert_eq!(notice.reason, "ClaimMisbound");
    // It grows where its class allows it.
    let mut grown = bound.clone();
    let requests = json!({"requests": {"storage": "2Gi"}});
    grown.spec.as_mut().unwrap().resources = serde_json::from_value(requests).unwrap();
    let mut ours = own;
    merge(
        &mut ours,
        json!({"metadata": {"annotations": {
            "pv.kubernetes.io/provisioned-by": "coracle/local-path"}}}),
    );
    let growing = class("manual", json!({"allowVolumeExpansion": true}));
    let volumes = [volume("v", ours)];
    assert!(matches!(step(&grown, &volumes, &[growing]), Step::Grow(_)));
    assert!(matches!(step(&grown, &volumes, &[class("manual", json!({}))]), Step::Bind(_)));
}

#[test]
fn a_volume_follows_its_claim() {
    use released::Step;
    let bound = |more: Value| {
        let mut value = json!({"spec": {"claimRef": {"name": "data", "namespace": "default",
            "uid": "c1"}, "persistentVolumeReclaimPolicy": "Retain"}, "status": {"phase": "Bound"}});
        merge(&mut value, more);
        volume("v", value)
    };
    let its = claim(json!({"spec": {"volumeName": "v"}}));
    let fresh = volume("v", json!({"status": {"phase": "Pending"}}));
    assert_eq!(released::step(&fresh, None), Step::Phase("Available"));
    assert_eq!(released::step(&volume("v", json!({})), None), Step::Rest);
    assert_eq!(released::step(&bound(json!({})), Some(&its)), Step::Rest);
    assert_eq!(released::step(&bound(json!({})), Some(&claim(json!({})))), Step::AskClaim);
    assert_eq!(released::step(&bound(json!({})), None), Step::Phase("Released"));
    // A namesake is another claim.
    let namesake = claim(json!({"metadata": {"uid": "c2"}}));
    assert_eq!(released::step(&bound(json!({})), Some(&namesake)), Step::Phase("Released"));
    let let_go = |policy: &str, annotations: Value| {
        let more = json!({"metadata": {"annotations": annotations},
            "spec": {"persistentVolumeReclaimPolicy": policy}, "status": {"phase": "Released"}});
        released::step(&bound(more), None)
    };
    let by = |who: &str| json!({"pv.kubernetes.io/provisioned-by": who});
    assert_eq!(let_go("Retain", by("coracle/local-path")), Step::Rest);
    assert_eq!(let_go("Delete", by("coracle/local-path")), Step::Delete);
    assert_eq!(let_go("Delete", by("example.com/nfs")), Step::Rest);
    let Step::Fail(notice) = let_go("Delete", json!({})) else { panic!("nobody can delete it") };
    assert_eq!(notice.reason, "VolumeFailedDelete");
    let other = claim(json!({"spec": {"volumeName": "w"}}));
    assert_eq!(released::step(&bound(json!({})), Some(&other)), Step::Unbind { keep_name: true });
    // The administrator takes the reference away: the volume is free again.
    let freed = volume("v", json!({"status": {"phase": "Released"}}));
    assert_eq!(released::step(&freed, None), Step::Phase("Available"));
}

#[test]
fn claims_stay_while_pods_use_them() {
    let on = |node: Value| {
        let volumes = json!([{"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {}}]);
        pod("p", json!({"spec": {"nodeName": node, "volumes": volumes}}))
    };
    let placed = [on(json!("vm"))];
    assert!(protection::is_used("data", placed.iter()));
    assert!(protection::is_used("p-b", placed.iter()));
    assert!(!protection::is_used("other", placed.iter()));
    assert!(!protection::is_used("data", [on(Value::Null)].iter()));
    // A pod that only waits for its dependents holds what was not made for it alone.
    let mut ended = (*on(json!("vm"))).clone();
    ended.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    ended.metadata.deletion_grace_period_seconds = Some(30);
    let leaving = [Arc::new(ended.clone())];
    assert!(protection::is_used("p-b", leaving.iter()));
    ended.metadata.deletion_grace_period_seconds = Some(0);
    let ended = [Arc::new(ended)];
    assert!(!protection::is_used("p-b", ended.iter()));
    assert!(protection::is_used("data", ended.iter()));
    let mut held = claim(json!({})).metadata;
    assert_eq!(protection::without(&held, protection::CLAIM_FINALIZER), None);
    held.finalizers = Some(vec![protection::CLAIM_FINALIZER.to_owned(), "mine".to_owned()]);
    assert_eq!(
        protection::without(&held, protection::CLAIM_FINALIZER),
        Some(vec!["mine".to_owned()])
    );
}
