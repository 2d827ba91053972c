//! StatefulSets of any size that the API accepts: a round does as little as for small ones.

use serde_json::{Value, json};

use super::plan::Write;
use super::tests::World;
use crate::burst::BURST_PODS;

fn parallel(more: Value) -> Value {
    let mut spec = json!({"podManagementPolicy": "Parallel", "volumeClaimTemplates":
        [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    spec
}

fn made(world: &World) -> (usize, usize) {
    let plan = world.plan();
    let writes = || plan.writes.iter().flatten();
    let pods = writes().filter(|write| matches!(write, Write::CreatePod(_))).count();
    let claims = writes().filter(|write| matches!(write, Write::CreateClaim { .. })).count();
    (pods, claims)
}

#[test]
fn most_replicas_cost_one_burst_a_round() {
    assert_eq!(made(&World::new(i32::MAX, json!({}))), (1, 0));
    let mut world = World::new(i32::MAX, parallel(json!({})));
    assert_eq!(made(&world), (BURST_PODS, BURST_PODS));
    assert!(world.plan().requeue_after.is_some());
    world.step();
    assert_eq!(made(&world), (BURST_PODS, BURST_PODS));
    // The highest pod is updated only once all exist.
    world.roll();
    assert_eq!(made(&world), (BURST_PODS, BURST_PODS));
    world.edit(|spec| spec["replicas"] = json!(0));
    assert_eq!(world.step().len(), BURST_PODS);
}

#[test]
fn large_templates_make_small_bursts() {
    let text = "x".repeat(300 << 10);
    let template = json!({"metadata": {"labels": {"app": "mysql"}, "annotations": {"a": text}}});
    let (pods, claims) = made(&World::new(100, parallel(json!({"template": template}))));
    assert!(pods > 0 && pods < 10 && claims == pods, "{pods} {claims}");
}

#[test]
fn ordinals_beyond_31_bits_get_pods() {
    let mut world =
        World::new(2, json!({"podManagementPolicy": "Parallel", "ordinals": {"start": i32::MAX}}));
    assert_eq!(world.step(), ["+mysql-2147483647", "+mysql-2147483648"]);
    assert!(world.step().is_empty());
    let world = World::new(i32::MAX, parallel(json!({"ordinals": {"start": i32::MAX}})));
    assert_eq!(made(&world).0, BURST_PODS);
}
