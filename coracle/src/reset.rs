//! `coracle reset`: ends the agent and every pod and removes what they left on the machine.

use std::collections::HashSet;
use std::io::{self, BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runtime::Runtime;
use runtime::engine::Remains;

use crate::Failure;
use crate::cli::ResetOptions;
use crate::paths::{Paths, remove};

/// How long a running agent may take to end.
const AGENT_TIMEOUT: Duration = Duration::from_secs(15);
/// How long the last shims, which were told to, may take to leave.
const SHIM_TIMEOUT: Duration = Duration::from_secs(2);

/// Leaves the machine as it was found. Fails, with everything that stays, if it cannot.
pub fn run(options: &ResetOptions) -> Result<(), Failure> {
    let paths = Paths::new(&options.dirs);
    if !options.yes && !confirmed(&paths)? {
        return Err("nothing was changed".into());
    }
    end_agent(&paths)?;
    // Pods may run although every file of them is lost.
    paths.create()?;
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // What pods use is removed after their end only.
    tokio.block_on(end_pods(options, &paths))?;
    let mut stays = Stays::default();
    stays.note("the pod network", netproxy::teardown(&paths.run_dir));
    for dir in [&paths.data_dir, &paths.run_dir] {
        stays.note("mounts", unmount_below(dir));
    }
    stays.note("logs", remove_logs(&options.dirs.log_dir));
    let kept = options.keep_images.then(|| paths.images());
    stays.note("data", clear(&paths.data_dir, kept.as_deref()));
    stays.note("run directory", clear(&paths.run_dir, None));
    stays.note("kubeconfig", remove(&options.dirs.kubeconfig));
    // Its directory is ours by name; one with anything else in it stays.
    if let Some(dir) = options.dirs.kubeconfig.parent().filter(|dir| dir.ends_with("coracle")) {
        let _ = std::fs::remove_dir(dir);
    }
    remove_cgroups(&options.dirs.cgroup_root);
    stays.finish()?;
    println!("nothing of coracle is left in {}", paths.data_dir.display());
    Ok(())
}

/// The things that are still on the machine, a line each.
#[derive(Default)]
struct Stays(Vec<String>);

impl Stays {
    fn note<E: Into<Failure>>(&mut self, what: &str, result: Result<(), E>) {
        if let Err(error) = result {
            let error: Failure = error.into();
            let mut line = format!("{what}: {error}");
            let mut cause = error.source();
            while let Some(source) = cause {
                line = format!("{line}: {source}");
                cause = source.source();
            }
            self.0.push(line);
        }
    }

    /// Fails if anything stays.
    fn finish(self) -> Result<(), Failure> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(format!("this stays on the machine:\n  {}", self.0.join("\n  ")).into()),
        }
    }
}

/// Ends every pod of the node, also those whose records are lost.
async fn end_pods(options: &ResetOptions, paths: &Paths) -> Result<(), Failure> {
    let runtime = Runtime::open(paths.runtime(&options.dirs.cgroup_root))?;
    let mut stays = Stays::default();
    stays.note("pods", runtime.cleanup(&HashSet::new()).await);
    stays.0.extend(left_of_pods(&runtime.remains().await?));
    stays.finish()
}

fn left_of_pods(remains: &Remains) -> Vec<String> {
    let shims = remains.shims.iter().flat_map(|(id, pids)| {
        pids.iter().map(move |pid| format!("process {pid}, the shim of pod {id}"))
    });
    let groups = remains.groups.iter().flat_map(|(id, groups)| {
        groups.iter().map(move |group| format!("control group {group} of pod {id}"))
    });
    let unclaimed = remains.unclaimed.iter().map(|(group, pids)| {
        let pids: Vec<String> = pids.iter().map(i32::to_string).collect();
        let pids = pids.join(", ");
        format!("control group {group} (processes {pids}), perhaps of another node: not ended")
    });
    shims.chain(groups).chain(unclaimed).collect()
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

/// The mounts below a directory, deepest first; what is mounted on it itself is not among them.
fn mounts_below(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // The kernel knows no symbolic links.
    let Ok(dir) = dir.canonicalize() else { return Ok(Vec::new()) };
    let mounts = agent::volume::mountinfo::read()?.into_iter().map(|mount| mount.point);
    let mut points: Vec<_> =
        mounts.filter(|point| point.starts_with(&dir) && *point != dir).collect();
    points.sort_by_key(|point| std::cmp::Reverse(point.components().count()));
    Ok(points)
}

/// Unmounts what is mounted below a directory.
fn unmount_below(dir: &Path) -> Result<(), Failure> {
    for point in mounts_below(dir)? {
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        umount2(&point, flags).map_err(|e| format!("unmount {}: {e}", point.display()))?;
    }
    match mounts_below(dir)?.first() {
        Some(point) => Err(format!("{} is mounted again", point.display()).into()),
        None => Ok(()),
    }
}

/// Removes a directory except for one entry of it. A disk that is mounted on it stays, empty, and so
/// does what a symbolic link in its place points to.
fn clear(dir: &Path, kept: Option<&Path>) -> Result<(), Failure> {
    let kept = kept.filter(|kept| kept.exists());
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry?.path();
        if kept != Some(&path) {
            remove(&path).map_err(|e| format!("remove {}: {e}", path.display()))?;
        }
    }
    if kept.is_some() {
        return Ok(());
    }
    match remove(dir) {
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => Ok(()),
        other => Ok(other?),
    }
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
