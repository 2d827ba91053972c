//! The machine started anew, as a node sees it: no process, no mount, no control group, no link and
//! no rule of it is left, `/run` is empty, and the disk has what it had.

use std::path::Path;
use std::process::Command;

use crate::node::Node;

impl Node {
    /// Ends everything at once and takes away what does not outlive a reboot. The agent is not
    /// started again.
    pub fn power_off(&mut self) {
        self.kill_agent();
        crate::within(20, "all processes are gone", || {
            let processes = self.census().processes;
            let pids = processes.iter().map(|line| line.split(' ').next().unwrap());
            // One that ended by itself meanwhile makes `kill` complain.
            let _ = Command::new("kill").arg("-9").args(pids).output().unwrap();
            processes.is_empty()
        });
        let run = self.path("run");
        for point in self.mount_points().iter().rev() {
            if Path::new(point).starts_with(&run) || Path::new(point).starts_with(self.data()) {
                succeeds(Command::new("umount").args(["--lazy", point]));
            }
        }
        crate::within(20, "all control groups are gone", || {
            let groups = self.census().cgroups;
            // The kernel holds one for a moment after its last process.
            groups.iter().rev().for_each(|group| std::fs::remove_dir(group).unwrap_or_default());
            groups.is_empty()
        });
        std::fs::remove_dir_all(&run).unwrap();
        self.ns.run("nft", &["flush", "ruleset"]);
        for setting in ["net.ipv4.ip_forward=0", "net.ipv4.conf.all.route_localnet=0"] {
            self.ns.run("sysctl", &["-w", setting]);
        }
        for line in self.ns.run("ip", &["-o", "link"]).lines() {
            let name = line.split(": ").nth(1).unwrap().split('@').next().unwrap();
            if !["lo", "up0"].contains(&name) {
                // Its other end may have taken it along.
                let _ = self.ns.command("ip").args(["link", "delete", name]).output();
            }
        }
    }

    fn mount_points(&self) -> Vec<String> {
        let mounts = std::fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
        mounts.lines().map(|line| line.split(' ').nth(4).unwrap().to_owned()).collect()
    }
}

fn succeeds(command: &mut Command) {
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
}
