//! Resource limits of the OCI spec, written in each version's words.

use std::fs;
use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{Hierarchies, devices};

/// One value for one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Write {
    /// The version 1 controller; `None` on version 2.
    controller: Option<&'static str>,
    file: String,
    value: String,
}

/// Limits a group. The first value that the kernel refuses ends it, with the file in the error;
/// a controller that the machine does not have is left out.
pub fn apply(hierarchies: &Hierarchies, group: &str, resources: &LinuxResources) -> io::Result<()> {
    let writes = if hierarchies.is_unified() { unified(resources) } else { legacy(resources) };
    for write in writes {
        let directory = match write.controller {
            Some(controller) => match hierarchies.legacy_directory(controller, group) {
                Some(directory) => Some(directory),
                None => hierarchies.join_on_demand(controller, group)?,
            },
            None => hierarchies.unified_directory(group),
        };
        let Some(directory) = directory else { continue };
        set(&directory.join(&write.file), &write.value)?;
    }
    match (hierarchies.is_unified(), hierarchies.unified_directory(group)) {
        (true, Some(directory)) => devices::apply(&directory, &device_rules(resources)),
        _ => Ok(()),
    }
}

/// The device rules of a spec. After rules that deny anything, the devices that every container has
/// are allowed again, as the spec wants them there and other runtimes do.
fn device_rules(resources: &LinuxResources) -> Vec<LinuxDeviceCgroup> {
    /// `null`, `zero`, `full`, `random`, `urandom`, `tty`, `ptmx`; the terminals.
    const DEFAULT: [(i64, Option<i64>); 8] = [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ];
    let mut rules = resources.devices().clone().unwrap_or_default();
    if rules.iter().all(LinuxDeviceCgroup::allow) {
        return rules;
    }
    for (major, minor) in DEFAULT {
        let mut rule = LinuxDeviceCgroup::default();
        rule.set_allow(true);
        rule.set_typ(Some(LinuxDeviceType::C));
        rule.set_major(Some(major));
        rule.set_minor(minor);
        rule.set_access(Some("rwm".to_owned()));
        rules.push(rule);
    }
    rules
}

fn set(file: &Path, value: &str) -> io::Result<()> {
    match fs::write(file, value) {
        Ok(()) => Ok(()),
        // The kernel was built without this knob (swap accounting, burst, …).
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(()),
        Err(error) => {
            Err(io::Error::new(error.kind(), format!("writing {value:?} to {file:?}: {error}")))
        }
    }
}

fn legacy(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put = |controller, file: &str, value: String| {
        writes.push(Write { controller: Some(controller), file: file.to_owned(), value });
    };
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
            put("cpu", "cpu.shares", shares.to_string());
        }
        if let Some(period) = cpu.period().filter(|p| *p > 0) {
            put("cpu", "cpu.cfs_period_us", period.to_string());
        }
        if let Some(quota) = cpu.quota().filter(|q| *q != 0) {
            put("cpu", "cpu.cfs_quota_us", quota.to_string());
        }
        if let Some(cpus) = cpu.cpus() {
            put("cpuset", "cpuset.cpus", cpus.clone());
        }
        if let Some(mems) = cpu.mems() {
            put("cpuset", "cpuset.mems", mems.clone());
        }
    }
    if let Some(memory) = resources.memory() {
        if let Some(limit) = memory.limit().filter(|l| *l != 0) {
            put("memory", "memory.limit_in_bytes", limit.to_string());
        }
        if let Some(soft) = memory.reservation().filter(|l| *l != 0) {
            put("memory", "memory.soft_limit_in_bytes", soft.to_string());
        }
        if let Some(swap) = memory.swap().filter(|l| *l != 0) {
            put("memory", "memory.memsw.limit_in_bytes", swap.to_string());
        }
    }
    if let Some(pids) = resources.pids() {
        put("pids", "pids.max", maximum(pids.limit()));
    }
    if let Some(block) = resources.block_io() {
        if let Some(weight) = block.weight().filter(|w| *w > 0) {
            put("blkio", "blkio.weight", weight.to_string());
        }
        let throttles = [
            ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
            ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
            ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
            ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
        ];
        for (file, devices) in throttles {
            for device in devices.iter().flatten() {
                let (major, minor, rate) = (device.major(), device.minor(), device.rate());
                put("blkio", file, format!("{major}:{minor} {rate}"));
            }
        }
    }
    for device in &device_rules(resources) {
        let file = if device.allow() { "devices.allow" } else { "devices.deny" };
        put("devices", file, device_rule(device));
    }
    writes
}

fn unified(resources: &LinuxResources) -> Vec<Write> {
    let mut writes = Vec::new();
    let mut put = |file: &str, value: String| {
        writes.push(Write { controller: None, file: file.to_owned(), value });
    };
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|s| *s > 0) {
            put("cpu.weight", weight(shares).to_string());
        }
        let period = cpu.period().filter(|p| *p > 0);
        let quota = cpu.quota().filter(|q| *q != 0);
        if quota.is_some() || period.is_some() {
            let quota = maximum(quota.unwrap_or(-1));
            let period = period.unwrap_or(100_000);
            put("cpu.max", format!("{quota} {period}"));
        }
        if let Some(cpus) = cpu.cpus() {
            put("cpuset.cpus", cpus.clone());
        }
        if let Some(mems) = cpu.mems() {
            put("cpuset.mems", mems.clone());
        }
    }
    if let Some(memory) = resources.memory() {
        let limit = memory.limit().filter(|l| *l != 0);
        if let Some(limit) = limit {
            put("memory.max", maximum(limit));
        }
        if let Some(soft) = memory.reservation().filter(|l| *l != 0) {
            put("memory.low", maximum(soft));
        }
        // The spec counts memory and swap together, version 2 swap alone.
        match (memory.swap(), limit) {
            (Some(swap), Some(limit)) if swap > 0 && limit > 0 => {
                put("memory.swap.max", swap.saturating_sub(limit).max(0).to_string());
            }
            (Some(-1), _) => put("memory.swap.max", "max".to_owned()),
            _ => {}
        }
    }
    if let Some(pids) = resources.pids() {
        put("pids.max", maximum(pids.limit()));
    }
    for (file, value) in resources.unified().iter().flatten() {
        put(file, value.clone());
    }
    writes
}

fn maximum(limit: i64) -> String {
    if limit <= 0 { "max".to_owned() } else { limit.to_string() }
}

/// Shares (2 to 262144) as weight (1 to 10000), on the line that runc and the kubelet use.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn device_rule(device: &LinuxDeviceCgroup) -> String {
    let kind = match device.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        _ => "a",
    };
    let number = |n: Option<i64>| match n {
        Some(n) if n >= 0 => n.to_string(),
        _ => "*".to_owned(),
    };
    let access = device.access().as_deref().filter(|a| !a.is_empty()).unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(device.major()), number(device.minor()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    fn lines(writes: Vec<Write>) -> Vec<String> {
        writes.into_iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }

    const SPEC: &str = r#"{
        "cpu": {"shares": 1024, "quota": 50000, "period": 100000},
        "memory": {"limit": 1048576, "swap": 1048576},
        "pids": {"limit": 100},
        "devices": [{"allow": false, "access": "rwm"},
                    {"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rwm"}]
    }"#;

    #[test]
    fn version_one() {
        assert_eq!(
            lines(legacy(&resources(SPEC))),
            [
                "cpu.shares=1024",
                "cpu.cfs_period_us=100000",
                "cpu.cfs_quota_us=50000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=1048576",
                "pids.max=100",
                "devices.deny=a *:* rwm",
                "devices.allow=c 1:3 rwm",
                "devices.allow=c 1:3 rwm",
                "devices.allow=c 1:5 rwm",
                "devices.allow=c 1:7 rwm",
                "devices.allow=c 1:8 rwm",
                "devices.allow=c 1:9 rwm",
                "devices.allow=c 5:0 rwm",
                "devices.allow=c 5:2 rwm",
                "devices.allow=c 136:* rwm",
            ]
        );
    }

    #[test]
    fn version_two() {
        assert_eq!(
            lines(unified(&resources(SPEC))),
            [
                "cpu.weight=39",
                "cpu.max=50000 100000",
                "memory.max=1048576",
                "memory.swap.max=0",
                "pids.max=100",
            ]
        );
        assert_eq!(lines(unified(&resources(r#"{"cpu":{"quota":-1}}"#))), ["cpu.max=max 100000"]);
    }

    #[test]
    fn weights_span_the_range() {
        assert_eq!([weight(0), weight(2), weight(1024), weight(262_144)], [1, 1, 39, 10000]);
    }
}
