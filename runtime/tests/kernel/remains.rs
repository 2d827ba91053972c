//! Sandboxes whose records or sockets are lost while they run.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use coracle_runtime::{Runtime, Sandbox};

use crate::world::{self, Case, World};

pub const ALL: &[(&str, Case)] = &[
    ("lost_socket_ends_the_sandbox", |world| Box::pin(lost_socket_ends_the_sandbox(world))),
    ("lost_record_ends_the_sandbox", |world| Box::pin(lost_record_ends_the_sandbox(world))),
    ("lost_directories_end_the_sandbox", |world| Box::pin(lost_directories_end_the_sandbox(world))),
    ("unreadable_record_ends_the_sandbox", |world| {
        Box::pin(unreadable_record_ends_the_sandbox(world))
    }),
    ("lost_shim_and_record_end_the_sandbox", |world| {
        Box::pin(lost_shim_and_record_end_the_sandbox(world))
    }),
    ("cleanup_takes_what_has_no_record", |world| Box::pin(cleanup_takes_what_has_no_record(world))),
    ("one_failed_adoption_leaves_the_others", |world| {
        Box::pin(one_failed_adoption_leaves_the_others(world))
    }),
    ("other_nodes_sandboxes_are_left_alone", |world| {
        Box::pin(other_nodes_sandboxes_are_left_alone(world))
    }),
];

/// A sandbox that runs, and the process in it.
async fn running(world: &World) -> (Sandbox, u32) {
    let sandbox = world.sandbox().await;
    let script = "trap '' TERM; while :; do sleep 0.1; done";
    sandbox.create_container(world.container("a", &["sh", "-c", script])).await.unwrap();
    let pid = sandbox.start_container("a").await.unwrap();
    (sandbox, pid)
}

fn ended(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| stat.contains(") Z "))
}

/// The same, for a process that has left its control group and is about to be gone.
async fn ends(pid: i32) -> bool {
    for _ in 0..100 {
        if ended(pid) {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    false
}

fn remove(directory: &Path) {
    fs::remove_dir_all(directory).unwrap();
}

fn sockets(world: &World) -> PathBuf {
    world.directory.join("run/sandboxes").join(&world.id)
}

fn records(world: &World) -> PathBuf {
    world.directory.join("state/sandboxes").join(&world.id)
}

/// Adopts as another agent; asserts that nothing is adopted and nothing runs any more.
async fn ends_what_runs(world: &World, shim: i32, pid: u32) {
    let again = world::open(&world.directory, &world.id);
    let adoption = again.adopt().await.unwrap();
    assert!(adoption.adopted.is_empty());
    assert_eq!(adoption.ended.keys().collect::<Vec<_>>(), [&world.id]);
    assert!(ends(shim).await, "the shim runs");
    assert!(ends(pid as i32).await, "the container runs");
    assert_eq!(again.remains().await.unwrap(), Default::default());
}

async fn lost_socket_ends_the_sandbox(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    let shim = world.shim().unwrap();
    remove(&sockets(world));
    let again = world::open(&world.directory, &world.id);
    let (_, adopted) = again.adopt().await.unwrap().adopted.remove(0);
    assert!(!adopted.is_alive());
    adopted.remove().await.unwrap();
    assert!(ends(shim).await, "the shim runs");
    assert!(ends(pid as i32).await, "the container runs");
}

async fn lost_record_ends_the_sandbox(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    let shim = world.shim().unwrap();
    remove(&records(world));
    ends_what_runs(world, shim, pid).await;
}

async fn lost_directories_end_the_sandbox(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    let shim = world.shim().unwrap();
    remove(&sockets(world));
    remove(&records(world));
    ends_what_runs(world, shim, pid).await;
}

async fn unreadable_record_ends_the_sandbox(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    let shim = world.shim().unwrap();
    remove(&sockets(world));
    fs::write(records(world).join("sandbox.json"), "{").unwrap();
    ends_what_runs(world, shim, pid).await;
    assert!(world.directory.join("state/unreadable").join(format!("{}.json", world.id)).exists());
}

/// Only the processes themselves tell whose they are.
async fn lost_shim_and_record_end_the_sandbox(world: &'static World) {
    let sandbox = std::process::Command::new("/proc/self/exe")
        .arg("hold")
        .arg(&world.directory)
        .arg(&world.id)
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut agent = sandbox.unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(agent.stdout.take().unwrap());
    std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    agent.kill().unwrap();
    agent.wait().unwrap();
    let shim = world.shim().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(shim), nix::sys::signal::SIGKILL).unwrap();
    while !ended(shim) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    remove(&sockets(world));
    remove(&records(world));
    assert!(!ended(pid as i32));
    ends_what_runs(world, shim, pid).await;
}

async fn cleanup_takes_what_has_no_record(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    remove(&sockets(world));
    remove(&records(world));
    let again = world::open(&world.directory, &world.id);
    again.cleanup(&Default::default()).await.unwrap();
    assert!(ends(pid as i32).await, "the container runs");
}

/// A node with other directories that shares the control groups, one of which has the sandbox's name
/// among its own.
async fn other_nodes_sandboxes_are_left_alone(world: &'static World) {
    let (sandbox, pid) = running(world).await;
    let directory = world.directory.join("other");
    let other: Runtime = world::open(&directory, &world.id);
    fs::create_dir_all(directory.join("state/sandboxes").join(&world.id)).unwrap();
    assert_eq!(other.remains().await.unwrap(), Default::default());
    let adoption = other.adopt().await.unwrap();
    assert!(adoption.adopted.is_empty() && adoption.ended.is_empty());
    other.cleanup(&Default::default()).await.unwrap();
    assert!(!ended(pid as i32), "the container of another node was killed");
    assert!(sandbox.is_alive());
    sandbox.remove().await.unwrap();
}

async fn one_failed_adoption_leaves_the_others(world: &'static World) {
    let (_sandbox, pid) = running(world).await;
    let mut spec = world.sandbox_spec();
    spec.id = format!("{}-b", world.id);
    spec.cgroup = format!("{}-b", spec.cgroup);
    let id = spec.id.clone();
    let broken = world.runtime.create_sandbox(spec).await.unwrap();
    broken.create_container(world.container("b", &["sleep", "100"])).await.unwrap();
    let broken_pid = broken.start_container("b").await.unwrap();
    // Tells nothing of whether there is a shim.
    let socket = world.directory.join("run/sandboxes").join(&id).join("shim.sock");
    fs::remove_file(&socket).unwrap();
    std::os::unix::fs::symlink("shim.sock", &socket).unwrap();
    let again = world::open(&world.directory, &world.id);
    let adoption = again.adopt().await.unwrap();
    assert_eq!(adoption.failed.keys().collect::<Vec<_>>(), [&id]);
    let [(spec, adopted)] = &adoption.adopted[..] else { panic!("not adopted") };
    assert_eq!(spec.id, world.id);
    assert!(adopted.is_alive());
    assert!(again.adopt_one(&id).await.is_err());
    assert!(!ended(broken_pid as i32), "it was ended without need");
    again.end(&id).await.unwrap();
    assert!(ends(broken_pid as i32).await, "the container runs");
    assert!(!ended(pid as i32), "another container was ended");
}
