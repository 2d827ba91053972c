//! Certificates, over time and after damage.

#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;
use std::sync::Mutex;
use std::time::UNIX_EPOCH;

use super::*;

fn names() -> ServingNames {
    ServingNames {
        addresses: vec!["192.0.2.7".parse().unwrap(), "10.47.240.1".parse().unwrap()],
        names: vec!["Box".to_owned()],
        cluster_domain: "cluster.local".to_owned(),
    }
}

/// A clock that tests set.
fn clock(start: SystemTime) -> (Arc<Mutex<SystemTime>>, Clock) {
    let time = Arc::new(Mutex::new(start));
    let clock = {
        let time = time.clone();
        Arc::new(move || *time.lock().unwrap()) as Clock
    };
    (time, clock)
}

fn days(n: u64) -> Duration {
    Duration::from_secs(n * 24 * 3600)
}

#[test]
fn state_is_private_and_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("pki");
    let (_, clock) = clock(SystemTime::now());
    let first = Pki::open(&dir, &names(), clock.clone()).unwrap();
    assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
    for entry in std::fs::read_dir(&dir).unwrap() {
        let entry = entry.unwrap();
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
    let again = Pki::open(&dir, &names(), clock).unwrap();
    assert_eq!(first.authority_pem(), again.authority_pem());
    assert_eq!(first.token_key(), again.token_key());
    assert_eq!(first.admin.pem(), again.admin.pem());
    assert_eq!(first.serving.certificate().cert, again.serving.certificate().cert);
    first.server_config().unwrap();
}

#[test]
fn the_serving_certificate_is_renewed_in_process() {
    let dir = tempfile::tempdir().unwrap();
    let start = SystemTime::now();
    let (time, clock) = clock(start);
    let pki = Pki::open(dir.path(), &names(), clock.clone()).unwrap();
    let old = pki.serving.certificate();
    *time.lock().unwrap() = start + days(200);
    assert_eq!(pki.serving.certificate().cert, old.cert);
    *time.lock().unwrap() = start + days(400);
    let new = pki.serving.certificate();
    assert_ne!(new.cert, old.cert);
    assert_eq!(pki.serving.certificate().cert, new.cert);
    let reopened = Pki::open(dir.path(), &names(), clock).unwrap();
    assert_eq!(reopened.serving.certificate().cert, new.cert);
    assert_eq!(reopened.admin.pem(), pki.admin.pem());
}

#[test]
fn a_clock_that_starts_in_1970_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let (time, clock) = clock(UNIX_EPOCH + days(1));
    let pki = Pki::open(dir.path(), &names(), clock.clone()).unwrap();
    let old = pki.serving.certificate();
    *time.lock().unwrap() = SystemTime::now();
    assert_ne!(pki.serving.certificate().cert, old.cert);
    // And back again: still valid, because validity begins in 1970.
    *time.lock().unwrap() = UNIX_EPOCH + days(1);
    Pki::open(dir.path(), &names(), clock).unwrap();
}

#[test]
fn a_new_address_gets_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let (_, clock) = clock(SystemTime::now());
    let pki = Pki::open(dir.path(), &names(), clock.clone()).unwrap();
    let old = pki.serving.certificate();
    pki.set_names(&names()).unwrap();
    assert_eq!(pki.serving.certificate().cert, old.cert);
    let mut moved = names();
    moved.addresses.push("2001:db8::1".parse().unwrap());
    pki.set_names(&moved).unwrap();
    let new = pki.serving.certificate();
    assert_ne!(new.cert, old.cert);
    let reopened = Pki::open(dir.path(), &moved, clock.clone()).unwrap();
    assert_eq!(reopened.serving.certificate().cert, new.cert);
    let back = Pki::open(dir.path(), &names(), clock).unwrap();
    assert_ne!(back.serving.certificate().cert, new.cert);
}

#[test]
fn damaged_leaves_are_replaced_but_a_damaged_authority_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (_, clock) = clock(SystemTime::now());
    let pki = Pki::open(dir.path(), &names(), clock.clone()).unwrap();
    std::fs::write(dir.path().join("serving.pem"), "garbage").unwrap();
    std::fs::write(dir.path().join("admin.pem"), "").unwrap();
    let again = Pki::open(dir.path(), &names(), clock.clone()).unwrap();
    assert_eq!(pki.authority_pem(), again.authority_pem());
    std::fs::write(dir.path().join("ca.key"), "garbage").unwrap();
    let error = Pki::open(dir.path(), &names(), clock).err().unwrap();
    assert!(matches!(error, PkiError::Damaged(..)));
}

#[test]
fn kubeconfig_is_yaml_and_merges() {
    let dir = tempfile::tempdir().unwrap();
    let (_, clock) = clock(SystemTime::now());
    let pki = Pki::open(&dir.path().join("pki"), &names(), clock).unwrap();
    let config = pki.admin_kubeconfig("https://127.0.0.1:6443");
    let parsed: serde_json::Value = serde_saphyr::from_str(&config.to_yaml()).unwrap();
    assert_eq!(parsed["clusters"][0]["cluster"]["server"], "https://127.0.0.1:6443");
    assert_eq!(parsed["current-context"], "coracle");

    let path = dir.path().join("home/.kube/config");
    merge_into(&path, &config).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let other = "apiVersion: v1\nkind: Config\ncurrent-context: work\nclusters:\n- name: work\n  \
                 cluster: {server: \"https://work\", insecure-skip-tls-verify: true}\ncontexts: []\n\
                 users:\n- name: coracle-admin\n  user: {token: old}\n- name: me\n  user:\n    \
                 exec: {command: get, args: [\"a b\", '1']}\n";
    std::fs::write(&path, other).unwrap();
    merge_into(&path, &config).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    let parsed: serde_json::Value = serde_saphyr::from_str(&text).unwrap();
    assert_eq!(parsed["current-context"], "coracle");
    assert_eq!(parsed["clusters"][0]["cluster"]["insecure-skip-tls-verify"], true);
    assert_eq!(parsed["clusters"][1]["name"], "coracle");
    assert_eq!(parsed["users"][0]["user"]["token"], serde_json::Value::Null);
    assert_eq!(parsed["users"][1]["user"]["exec"]["args"][0], "a b");
    assert_eq!(parsed["users"][1]["user"]["exec"]["args"][1], "1");
    std::fs::write(&path, "[1, 2").unwrap();
    assert!(merge_into(&path, &config).is_err());
}

#[test]
fn merged_kubeconfig_stays_its_owners() {
    use std::os::unix::fs::{MetadataExt, chown};
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    std::fs::create_dir(&home).unwrap();
    // Only root gives files away.
    let given = chown(&home, Some(1000), Some(1001)).is_ok();
    let owner = owner_of(&home);
    assert!(!given || owner == (1000, 1001));
    let (_, clock) = clock(SystemTime::now());
    let pki = Pki::open(&dir.path().join("pki"), &names(), clock).unwrap();
    let config = pki.admin_kubeconfig("https://127.0.0.1:6443");
    let path = home.join(".kube/config");
    merge_into(&path, &config).unwrap();
    for path in [path.parent().unwrap(), &path] {
        assert_eq!(owner_of(path), owner, "{}", path.display());
    }
    std::fs::write(&path, "apiVersion: v1\nkind: Config\n").unwrap();
    merge_into(&path, &config).unwrap();
    assert_eq!(owner_of(&path), owner);

    fn owner_of(path: &std::path::Path) -> (u32, u32) {
        let metadata = std::fs::metadata(path).unwrap();
        (metadata.uid(), metadata.gid())
    }
}
