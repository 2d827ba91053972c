//! `kill -9` of the agent at random moments of a churn: what was acknowledged is there, revisions
//! never go back, what ran once is not run again, nothing is stuck and nothing leaks.
//!
//! `CORACLE_KILLS` says how often (`make kills` asks for 200).
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use coracle_integration::{Api, Node, Random, privileged, random, within};
use serde_json::{Value, json};

/// Clients that write at the same time; each has objects of its own.
const CLIENTS: usize = 4;
/// Names of one kind that one client uses.
const NAMES: u64 = 5;
const KINDS: [&str; 3] = ["configmaps", "services", "pods"];

/// What a client knows of one of its objects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Known {
    /// States that it may be in: the value of its annotation, or `None` for not being there. More
    /// than one after a request without an answer.
    possible: BTreeSet<Option<String>>,
    /// The uid and cluster address that the server gave it, once acknowledged.
    identity: Option<(String, String)>,
}

impl Known {
    fn absent() -> Self {
        Self { possible: BTreeSet::from([None]), identity: None }
    }
}

#[derive(Default)]
struct World {
    /// By kind and name.
    objects: BTreeMap<(usize, String), Known>,
}

struct Client {
    api: Api,
    number: usize,
    random: Random,
    world: Arc<Mutex<World>>,
    newest: Arc<AtomicU64>,
    serial: u64,
    /// Where pods of the kind that runs once leave a mark each time they run.
    marks: String,
}

fn path(kind: usize, name: &str) -> String {
    let separator = if name.is_empty() { "" } else { "/" };
    format!("/api/v1/namespaces/default/{}{separator}{name}", KINDS[kind])
}

impl Client {
    fn object(&self, kind: usize, name: &str, value: &str) -> Value {
        let metadata =
            json!({"name": name, "annotations": {"value": value}, "labels": {"churn": "yes"}});
        match KINDS[kind] {
            "configmaps" => json!({"metadata": metadata, "data": {"v": value}}),
            "services" => json!({
                "metadata": metadata, "spec": {"selector": {"app": name}, "ports": [{"port": 80}]},
            }),
            _ => {
                let once = self.serial.is_multiple_of(2);
                let command = if once {
                    format!("echo ran >> /marks/{name}-{value}; exit 0")
                } else {
                    "sleep 10000".to_owned()
                };
                json!({
                    "metadata": metadata,
                    "spec": {
                        "restartPolicy": if once { "Never" } else { "Always" },
                        "terminationGracePeriodSeconds": 1,
                        "volumes": [{"name": "marks", "hostPath": {"path": self.marks}}],
                        "containers": [{
                            "name": "main", "image": "busybox", "imagePullPolicy": "IfNotPresent",
                            "command": ["sh", "-c", command],
                            "volumeMounts": [{"name": "marks", "mountPath": "/marks"}],
                        }],
                    },
                })
            }
        }
    }

    /// One random write; what is known afterwards is what the server said.
    fn act(&mut self) {
        let kind = match self.random.below(10) {
            0..6 => 0,
            6..8 => 1,
            _ => 2,
        };
        let name = format!("c{}-{}", self.number, self.random.below(NAMES));
        let key = (kind, name.clone());
        let before = {
            let world = self.world.lock().unwrap();
            world.objects.get(&key).cloned().unwrap_or_else(Known::absent)
        };
        self.serial += 1;
        let value = self.serial.to_string();
        let there = before.possible.iter().any(Option::is_some);
        let (reply, after) = if there && (KINDS[kind] == "pods" || self.random.below(2) == 0) {
            (self.api.request("DELETE", &path(kind, &name), None), None)
        } else if there && KINDS[kind] == "configmaps" {
            let object = self.object(kind, &name, &value);
            (self.api.request("PUT", &path(kind, &name), Some(&object)), Some(value))
        } else {
            let object = self.object(kind, &name, &value);
            (self.api.request("POST", &path(kind, ""), Some(&object)), Some(value))
        };
        if let Some(revision) = reply.revision().filter(|_| reply.ok()) {
            self.newest.fetch_max(revision, Ordering::SeqCst);
        }
        let mut world = self.world.lock().unwrap();
        let known = world.objects.entry(key).or_insert_with(Known::absent);
        match reply.code {
            200..300 => {
                known.possible = BTreeSet::from([after.clone()]);
                let text = |pointer: &str| {
                    reply.body.pointer(pointer).and_then(Value::as_str).unwrap_or("").to_owned()
                };
                known.identity = after.map(|_| (text("/metadata/uid"), text("/spec/clusterIP")));
            }
            // An answer, and a definite one: nothing was changed. (A pod that is still ending is
            // in the way of the next one of its name.)
            404 | 409 => {}
            // No answer: it may have been done or not.
            0 | 500.. => {
                known.possible.insert(after);
                known.identity = None;
                std::thread::sleep(Duration::from_millis(20));
            }
            _ => panic!("{name}: unexpected answer {reply:?}"),
        }
    }
}

/// Compares what the server has with what clients know; returns the newest revision.
fn verify(api: &Api, world: &Mutex<World>, newest: u64, round: u32) -> u64 {
    let mut world = world.lock().unwrap();
    let mut revision = 0;
    for (kind, plural) in KINDS.iter().enumerate() {
        let list = api.get(&format!("{}?labelSelector=churn", path(kind, "")));
        revision = list.revision().unwrap();
        assert!(revision >= newest, "kill {round}: revision {revision} after {newest}");
        let found: BTreeMap<String, &Value> = list
            .items()
            .iter()
            .map(|o| (o["metadata"]["name"].as_str().unwrap().to_owned(), o))
            .collect();
        for ((_, name), known) in world.objects.iter_mut().filter(|((k, _), _)| *k == kind) {
            let object = found.get(name);
            // What is being deleted counts as gone.
            let alive = object.filter(|o| o["metadata"]["deletionTimestamp"].is_null());
            let value =
                alive.map(|o| o["metadata"]["annotations"]["value"].as_str().unwrap().to_owned());
            assert!(
                known.possible.contains(&value),
                "kill {round}: {plural}/{name} is {value:?}, acknowledged was {known:?}"
            );
            if let (Some((uid, address)), Some(object)) = (&known.identity, alive) {
                assert_eq!(object["metadata"]["uid"], json!(uid), "{plural}/{name}");
                if !address.is_empty() {
                    assert_eq!(object["spec"]["clusterIP"], json!(address), "{name}");
                }
            }
            known.possible = BTreeSet::from([value]);
        }
        for name in found.keys() {
            assert!(world.objects.contains_key(&(kind, name.clone())), "{name} came from nowhere");
        }
        if *plural == "services" {
            let addresses: Vec<&Value> =
                found.values().map(|service| &service["spec"]["clusterIP"]).collect();
            let distinct: BTreeSet<String> = addresses.iter().map(|a| a.to_string()).collect();
            assert_eq!(distinct.len(), addresses.len(), "an address was given twice");
        }
    }
    revision
}

#[test]
fn acknowledged_writes_survive_kills() {
    if !privileged() {
        return;
    }
    let kills = random::kills(25);
    let seed = Random::seed();
    let mut node = Node::start();
    let api = Api::of(&node);
    let before = node.footprint();
    let marks = node.path("marks");
    std::fs::create_dir(&marks).unwrap();
    let world = Arc::new(Mutex::new(World::default()));
    let newest = Arc::new(AtomicU64::new(0));
    // Held for reading by every request, for writing while nobody may write.
    let gate = Arc::new(RwLock::new(()));
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let mut client = Client {
                api: api.clone(),
                number,
                random: Random::new(seed.wrapping_mul(number as u64 * 2 + 3)),
                world: world.clone(),
                newest: newest.clone(),
                serial: 0,
                marks: marks.display().to_string(),
            };
            let (gate, stop) = (gate.clone(), stop.clone());
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let _pass = gate.read().unwrap();
                    client.act();
                }
                client.serial
            })
        })
        .collect();
    let mut random = Random::new(seed);
    for round in 0..kills {
        std::thread::sleep(Duration::from_millis(random.below(1200)));
        node.kill_agent();
        // Some starts are killed, too.
        if random.below(4) == 0 {
            node.up_for(Duration::from_millis(random.below(700)));
        }
        node.up();
        let closed = gate.write().unwrap();
        let seen = verify(&api, &world, newest.load(Ordering::SeqCst), round);
        newest.fetch_max(seen, Ordering::SeqCst);
        drop(closed);
    }
    stop.store(true, Ordering::SeqCst);
    let requests: u64 = clients.into_iter().map(|client| client.join().unwrap()).sum();
    verify(&api, &world, newest.load(Ordering::SeqCst), kills);

    // No pod is stuck: each runs or has ended as it should.
    let mut ended = Vec::new();
    within(120, "every pod runs or has ended", || {
        let pods = api.get(&path(2, ""));
        ended =
            pods.items().iter().filter(|p| p["status"]["phase"] == "Succeeded").cloned().collect();
        pods.items().iter().all(|pod| {
            let once = pod["spec"]["restartPolicy"] == "Never";
            pod["metadata"]["deletionTimestamp"].is_null()
                && pod["status"]["phase"] == if once { "Succeeded" } else { "Running" }
        })
    });
    // What was to run once ran once, however often its agent was killed.
    let mut runs = 0;
    for entry in std::fs::read_dir(&marks).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        assert_eq!(text, "ran\n", "{}", entry.path().display());
        runs += 1;
    }
    for pod in &ended {
        let name = pod["metadata"]["name"].as_str().unwrap();
        let value = pod["metadata"]["annotations"]["value"].as_str().unwrap();
        assert!(marks.join(format!("{name}-{value}")).exists(), "{name} ended without having run");
    }
    eprintln!("{kills} kills survived: {requests} requests, {runs} pods ran once");
    let kubectl = node.any_kubectl();
    kubectl.ok(&["delete", "pods", "--all", "--timeout=120s"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while node.footprint() != before && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(200));
    }
    assert_eq!(node.footprint(), before, "something leaked");
}
