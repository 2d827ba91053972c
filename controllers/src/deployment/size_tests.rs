//! Deployments of any size that the API accepts: sizes and counts stay within 31 bits and their bounds.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::rollout::{bounds, size};
use super::tests::{World, rolling};

const SIZES: [i32; 6] = [0, 1, 3, i32::MAX / 2, i32::MAX - 1, i32::MAX];

fn amounts() -> [Value; 8] {
    let percents = ["0%", "1%", "100%", "2147483647%"].map(Value::from);
    let [none, least, all, most] = percents;
    [json!(0), json!(1), json!(i32::MAX - 1), json!(i32::MAX), none, least, all, most]
}

/// Lets every ReplicaSet reach its size, with some of its pods available.
fn follow(world: &mut World, random: &mut StdRng) {
    for set in &mut world.sets {
        let size = size(set);
        let available = random.random_range(0..=size);
        let status = set.status.get_or_insert_default();
        status.replicas = size;
        status.ready_replicas = Some(available);
        status.available_replicas = Some(available);
        status.observed_generation = set.metadata.generation;
    }
}

#[test]
fn sizes_at_their_edges_keep_their_bounds() {
    let mut random = StdRng::seed_from_u64(11);
    for replicas in SIZES {
        for surge in amounts() {
            for unavailable in amounts() {
                let strategy = rolling(surge.clone(), unavailable);
                let mut world = World::new(replicas, strategy);
                for round in 0..12 {
                    if round % 4 == 3 {
                        world.set_image(&format!("web:{round}"));
                        let replicas = SIZES[random.random_range(0..SIZES.len())];
                        world.edit(|value| value["spec"]["replicas"] = json!(replicas));
                    }
                    world.step();
                    follow(&mut world, &mut random);
                }
                let sizes = world.sizes();
                let total: i64 = sizes.iter().copied().map(i64::from).sum();
                let replicas = i64::from(world.deployment.spec.as_ref().unwrap().replicas.unwrap());
                let most = replicas + i64::from(bounds(&world.deployment).surge);
                assert!(sizes.iter().all(|size| *size >= 0), "{sizes:?}");
                let largest = i64::from(i32::MAX).max(most);
                assert!(total <= largest, "{surge}: {sizes:?} of {replicas}, at most {most}");
            }
        }
    }
}

#[test]
fn revisions_at_their_edges_are_survived() {
    for number in ["9223372036854775807", "-1", "", "1e9", "99999999999999999999"] {
        let mut world = World::new(2, rolling(json!(1), json!(0)));
        world.settle();
        let annotations = world.sets[0].metadata.annotations.as_mut().unwrap();
        annotations.insert(super::revision::REVISION.to_owned(), number.to_owned());
        world.set_image("web:2");
        world.settle();
        assert_eq!(world.sizes(), [0, 2], "{number}");
    }
}
