//! `coracle reset`: ends the agent and every pod and removes what they left on the machine.

use std::collections::HashSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Runtime;
use runtime::sandbox::{RuntimeConfig, shim_group};

use crate::Failure;
use crate::cli::ResetOptions;
use crate::paths::{Paths, remove};

/// How long a running agent may take to end.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the last shims, which were told to, may take to leave.
const SHIM_TIMEOUT: Duration = Duration::from_secs(2);

/// Leaves the machine as it was found.
pub fn run(options: &ResetOptions) -> Result<(), Failure> {
    let paths = Paths::new(&options.dirs);
    if !options.yes && !confirmed(&paths)? {
        return Err("nothing was changed".into());
    }
    end_agent(&paths)?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if paths.containers().exists() || paths.run_dir.exists() {
        paths.create()?;
        tokio.block_on(async {
            let runtime = Runtime::open(RuntimeConfig {
                state_dir: paths.containers(),
                run_dir: paths.run_dir.clone(),
                shim_binary: "/proc/self/exe".into(),
                shim_group: shim_group(&options.dirs.cgroup_root),
            })?;
            runtime.cleanup(&HashSet::new()).await
        })?;
    }
    netproxy::teardown(&paths.run_dir)?;
    unmount_below(&paths.data_dir)?;
    unmount_below(&paths.run_dir)?;
    remove_logs(&options.dirs.log_dir)?;
    if options.keep_images {
        for entry in std::fs::read_dir(&paths.data_dir).into_iter().flatten().flatten() {
            if entry.path() != paths.images() {
                remove(&entry.path())?;
            }
        }
    } else {
        remove(&paths.data_dir)?;
    }
    remove(&paths.run_dir)?;
    remove(&options.dirs.kubeconfig)?;
    // Its directory is ours by name; one with anything else in it stays.
    if let Some(dir) = options.dirs.kubeconfig.parent().filter(|dir| dir.ends_with("coracle")) {
        let _ = std::fs::remove_dir(dir);
    }
    remove_cgroups(&options.dirs.cgroup_root);
    println!("nothing of coracle is left in {}", paths.data_dir.display());
    Ok(())
}

fn confirmed(paths: &Paths) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        return Err("reset ends every pod and removes all data; say --yes to mean it".into());
    }
    print!("End every pod and remove everything in {}? [y/N] ", paths.data_dir.display());
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

fn end_agent(paths: &Paths) -> Result<(), Failure> {
    let Some(pid) = paths.running() else { return Ok(()) };
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGTERM)?;
    let deadline = Instant::now() + AGENT_TIMEOUT;
    while paths.running().is_some() {
        if Instant::now() > deadline {
            return Err(format!("coracle (pid {pid}) does not end; end it first").into());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Unmounts what is mounted in a directory, deepest first.
fn unmount_below(dir: &Path) -> Result<(), Failure> {
    let mounts = agent::volume::mountinfo::read()?;
    let mut points: Vec<_> = mounts
        .into_iter()
        .map(|mount| mount.point)
        .filter(|point| point.starts_with(dir))
        .collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.as_os_str().len()));
    for point in points {
        umount2(&point, MntFlags::MNT_DETACH)
            .map_err(|e| format!("unmount {}: {e}", point.display()))?;
    }
    Ok(())
}

/// Removes pod logs, which carry a pod's UID in their name, and their links.
fn remove_logs(dir: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.split('_').count() == 3 {
            remove(&entry.path())?;
        }
    }
    let links = dir.parent().map(|parent| parent.join("containers"));
    for entry in links.iter().flat_map(std::fs::read_dir).flatten().flatten() {
        if std::fs::read_link(entry.path()).is_ok_and(|target| target.starts_with(dir)) {
            remove(&entry.path())?;
        }
    }
    // Directories that others use too are not empty, and stay.
    for dir in links.iter().map(PathBuf::as_path).chain([dir]) {
        let _ = std::fs::remove_dir(dir);
    }
    Ok(())
}

/// Removes the control groups above the pods', which are empty by now, and the shims', which are as
/// soon as the last shim has left.
fn remove_cgroups(root: &str) {
    fn remove_tree(dir: &Path) {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|t| t.is_dir()) {
                remove_tree(&entry.path());
            }
        }
        // What is still in use stays, and is nothing of ours.
        let _ = std::fs::remove_dir(dir);
    }
    let root = root.trim_matches('/');
    let tops = if root.is_empty() { vec!["kubepods", "coracle"] } else { vec![root] };
    let mounted = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(mounted).into_iter().flatten().flatten();
    let groups: Vec<PathBuf> = hierarchies
        .map(|entry| entry.path())
        .chain([mounted.to_owned()])
        .flat_map(|hierarchy| tops.iter().map(move |top| hierarchy.join(top)))
        .collect();
    let deadline = Instant::now() + SHIM_TIMEOUT;
    loop {
        groups.iter().filter(|group| group.is_dir()).for_each(|group| remove_tree(group));
        if Instant::now() > deadline || !groups.iter().any(|group| group.is_dir()) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
