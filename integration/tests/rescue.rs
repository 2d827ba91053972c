//! Backups, restores and repairs, on nodes that run, that do not, and that an object keeps from
//! starting.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;

use coracle_integration::{Api, Node, NodeOptions, Random, privileged};
use serde_json::{Value, json};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn bare() -> NodeOptions {
    NodeOptions { without_images: true, ..NodeOptions::default() }
}

/// The ConfigMaps of these tests by name, with all that they contain.
fn config_maps(api: &Api) -> BTreeMap<String, Value> {
    let list = api.get(CONFIG_MAPS);
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap().to_owned();
    let all = list.items().iter().map(|object| (name(object), object["data"].clone()));
    all.filter(|(name, _)| name != "kube-root-ca.crt").collect()
}

fn create(api: &Api, name: &str, value: &str) {
    let object = json!({"metadata": {"name": name}, "data": {"v": value}});
    let reply = api.request("POST", CONFIG_MAPS, Some(&object));
    assert!(reply.ok(), "{reply:?}");
}

fn random_text(random: &mut Random, bytes: usize) -> String {
    (0..bytes).map(|_| char::from(b'a' + random.below(26) as u8)).collect()
}

/// Runs `coracle …`; returns whether it succeeded, and what it printed.
fn run(node: &Node, verb: &[&str], arguments: &[&str]) -> (bool, String) {
    let output = node.coracle(verb).args(arguments).output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

fn ok(node: &Node, verb: &[&str], arguments: &[&str]) -> String {
    let (succeeded, text) = run(node, verb, arguments);
    assert!(succeeded, "{verb:?} {arguments:?}: {text}");
    text
}

fn fails(node: &Node, verb: &[&str], arguments: &[&str]) -> String {
    let (succeeded, text) = run(node, verb, arguments);
    assert!(!succeeded, "{verb:?} {arguments:?}: {text}");
    text
}

/// A file as it is compared: kind and mode, user, group, contents, an extended attribute.
type Entry = (u32, u32, u32, Vec<u8>, Option<Vec<u8>>);

/// Everything below a directory, by path.
fn tree(root: &Path) -> BTreeMap<String, Entry> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let metadata = std::fs::symlink_metadata(&path).unwrap();
        let content = if metadata.is_dir() {
            waiting.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            Vec::new()
        } else if metadata.is_symlink() {
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if metadata.is_file() {
            std::fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let attribute = xattr::get(&path, "user.origin").ok().flatten();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let (mode, uid, gid) = (metadata.mode(), metadata.uid(), metadata.gid());
        found.insert(name, (mode, uid, gid, content, attribute));
    }
    found
}

#[test]
fn backup_is_restored_with_contents_and_identity() {
    if !privileged() {
        return;
    }
    let mut random = Random::new(Random::seed());
    let mut node = Node::start_with(bare());
    let api = Api::of(&node);
    for number in 0..20 {
        create(&api, &format!("m{number}"), &random_text(&mut random, 1 + number * 9973));
    }
    let volume = node.data().join("volumes/pvc-test");
    std::fs::create_dir_all(volume.join("inner")).unwrap();
    std::fs::write(volume.join("inner/file"), random_text(&mut random, 300_000)).unwrap();
    std::fs::set_permissions(volume.join("inner"), PermissionsExt::from_mode(0o2750)).unwrap();
    std::fs::set_permissions(volume.join("inner/file"), PermissionsExt::from_mode(0o640)).unwrap();
    chown(volume.join("inner/file"), Some(1234), Some(4321)).unwrap();
    let _ = xattr::set(volume.join("inner/file"), "user.origin", b"kept");
    symlink("/etc/hostname", volume.join("link")).unwrap();
    nix::unistd::mkfifo(&volume.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let before = config_maps(&api);
    let contents = tree(&volume);

    let file = node.path("backup.tar");
    let file = file.to_str().unwrap();
    ok(&node, &["backup"], &["--volumes", file]);
    assert_eq!(std::fs::metadata(file).unwrap().mode() & 0o7777, 0o600);
    create(&api, "later", "not in the backup");
    std::fs::write(volume.join("later"), "not in the backup").unwrap();
    let busy = fails(&node, &["restore"], &["--force", file]);
    assert!(busy.contains("another coracle"), "{busy}");
    let newest: u64 = api.get(CONFIG_MAPS).revision().unwrap();
    node.stop_agent();

    let present = fails(&node, &["restore"], &[file]);
    assert!(present.contains("--force"), "{present}");
    // A damaged backup changes nothing.
    let bytes = std::fs::read(file).unwrap();
    let cut = node.path("cut.tar");
    std::fs::write(&cut, &bytes[..bytes.len() / 3]).unwrap();
    fails(&node, &["restore"], &["--force", cut.to_str().unwrap()]);
    // Cut between two entries: the last one has two blocks, and so has the end of the file.
    std::fs::write(&cut, &bytes[..bytes.len() - 4 * 512]).unwrap();
    let incomplete = fails(&node, &["restore"], &["--force", cut.to_str().unwrap()]);
    assert!(incomplete.contains("it is cut off"), "{incomplete}");
    node.up();
    assert!(config_maps(&api).contains_key("later"));
    node.stop_agent();

    ok(&node, &["restore"], &["--force", file]);
    node.up();
    // The same certificates are still good, and no revision is given twice.
    assert_eq!(config_maps(&api), before);
    assert!(api.get(CONFIG_MAPS).revision().unwrap() > newest);
    assert_eq!(tree(&volume), contents);
    assert!(std::fs::symlink_metadata(volume.join("fifo")).unwrap().file_type().is_fifo());
    node.stop_agent();

    // A node that does not run is backed up as well, and another one takes its place.
    let second = node.path("second.tar");
    ok(&node, &["backup"], &[second.to_str().unwrap()]);
    let mut other = Node::prepare(bare());
    ok(&other, &["restore"], &[second.to_str().unwrap()]);
    other.up();
    assert_eq!(config_maps(&Api::of(&other)), before);
    let mode = |name: &str| std::fs::metadata(other.data().join(name)).unwrap().mode() & 0o7777;
    assert_eq!([mode("state.redb"), mode("state.journal"), mode("pki/ca.key")], [0o600; 3]);
    assert_eq!([mode(""), mode("pki")], [0o700; 2]);
}

#[test]
fn undecodable_object_is_removed_offline() {
    if !privileged() {
        return;
    }
    let mut node = Node::start_with(bare());
    let api = Api::of(&node);
    for name in ["good", "other"] {
        create(&api, name, &format!("the value of {name}"));
    }
    create(&api, "bad", &"x".repeat(5000));
    let busy = fails(&node, &["state", "ls"], &[]);
    assert!(busy.contains("another coracle"), "{busy}");
    let mut expected = config_maps(&api);
    expected.remove("bad");
    node.stop_agent();
    let path = node.data().join("state.redb");
    let mut bytes = std::fs::read(&path).unwrap();
    let at = bytes.windows(40).position(|w| w.iter().all(|b| *b == b'x')).unwrap();
    bytes[at..at + 20].fill(b'"');
    std::fs::write(&path, bytes).unwrap();
    let said = node.up_fails();
    assert!(said.contains("core.configmaps/default/bad"), "{said}");
    assert!(said.contains("coracle state"), "{said}");

    let listed = ok(&node, &["state", "ls"], &["core.configmaps/default/"]);
    for name in ["good", "other", "bad"] {
        assert!(listed.contains(&format!("core.configmaps/default/{name}\n")), "{listed}");
    }
    let got: Value =
        serde_json::from_str(&ok(&node, &["state", "get"], &["core.configmaps/default/good"]))
            .unwrap();
    assert_eq!(got["data"]["v"], "the value of good");
    assert!(ok(&node, &["state", "get"], &["core.configmaps/default/bad"]).contains("xxxx"));
    let exported = node.coracle(&["state", "export"]).arg("core.configmaps/default/").output();
    let exported = exported.unwrap();
    assert!(String::from_utf8_lossy(&exported.stderr).contains("core.configmaps/default/bad"));
    let list: Value = serde_json::from_slice(&exported.stdout).unwrap();
    let values: Vec<&Value> =
        list["items"].as_array().unwrap().iter().map(|item| &item["data"]["v"]).collect();
    assert!(values.contains(&&json!("the value of other")), "{list}");
    // A backup is possible even now.
    ok(&node, &["backup"], &[node.path("broken.tar").to_str().unwrap()]);
    let unknown = ["core.configmaps/default/bad", "core.configmaps/default/typo"];
    let missing = fails(&node, &["state", "rm"], &unknown);
    assert!(missing.contains("nothing was removed"), "{missing}");
    ok(&node, &["state", "rm"], &["core.configmaps/default/bad"]);
    node.up();
    assert_eq!(config_maps(&api), expected);
}

#[test]
fn backups_replace_regular_files_only() {
    if !privileged() {
        return;
    }
    let mut node = Node::start_with(bare());
    node.stop_agent();
    let (pipe, directory, link) = (node.path("pipe"), node.path("directory"), node.path("link"));
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRUSR).unwrap();
    std::fs::create_dir(&directory).unwrap();
    for refused in [&pipe, &directory] {
        let said = fails(&node, &["backup"], &[refused.to_str().unwrap()]);
        assert!(said.contains("is not a regular file"), "{said}");
    }
    assert!(std::fs::symlink_metadata(&pipe).unwrap().file_type().is_fifo());
    symlink("old.tar", &link).unwrap();
    assert!(fails(&node, &["backup"], &[link.to_str().unwrap()]).contains("link"));
    std::fs::write(node.path("old.tar"), "old").unwrap();
    ok(&node, &["backup"], &[link.to_str().unwrap()]);
    assert!(link.is_symlink());
    assert!(std::fs::metadata(node.path("old.tar")).unwrap().len() > 1000);
    let left: Vec<_> = std::fs::read_dir(node.dir.path()).unwrap().flatten().collect();
    let left = left.iter().filter(|entry| entry.file_name().to_string_lossy().ends_with(".new"));
    assert_eq!(left.count(), 0);
}

#[test]
fn offline_removal_of_namespaces_includes_their_objects() {
    if !privileged() {
        return;
    }
    let mut node = Node::start_with(bare());
    let api = Api::of(&node);
    let kubectl = node.any_kubectl();
    kubectl.ok(&["create", "namespace", "broken"]);
    kubectl.ok(&["-n", "broken", "create", "configmap", "inside", "--from-literal=a=b"]);
    create(&api, "outside", "stays");
    node.stop_agent();
    let alone = fails(&node, &["state", "rm"], &["core.namespaces//broken"]);
    assert!(alone.contains("--recursive; nothing was removed"), "{alone}");
    let said = ok(&node, &["state", "rm", "--recursive"], &["core.namespaces//broken"]);
    assert!(said.contains("core.configmaps/broken/inside removed\n"), "{said}");
    let left = ok(&node, &["state", "ls"], &[]);
    assert!(!left.contains("/broken"), "{left}");
    node.up();
    assert!(kubectl.fails(&["get", "namespace", "broken"]).contains("NotFound"));
    assert_eq!(config_maps(&api)["outside"]["v"], "stays");
}

#[test]
fn pods_can_be_removed_while_none_run() {
    if !privileged() {
        return;
    }
    let config = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(config.path(), "no-pods: false\n").unwrap();
    let mut node = Node::start_with(NodeOptions {
        arguments: vec![format!("--config={}", config.path().display())],
        without_images: true,
        ..NodeOptions::default()
    });
    node.load_image("busybox-latest");
    let kubectl = node.any_kubectl();
    for name in ["keep", "drop"] {
        kubectl.apply(&format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: {name}}}, spec: {{containers: [{{name: c,
              image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '10000']}}]}}}}"
        ));
    }
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/keep", "pod/drop", "--timeout=60s"]);
    let shims = |node: &Node| {
        node.census().processes.iter().filter(|process| process.contains("shim")).count()
    };
    let running = shims(&node);
    node.stop_agent();
    std::fs::write(config.path(), "no-pods: true\n").unwrap();
    node.up();
    kubectl.ok(&["delete", "pod", "drop", "--force", "--grace-period=0"]);
    kubectl.apply(
        "{apiVersion: v1, kind: Pod, metadata: {name: new}, spec: {containers: [{name: c,
          image: busybox, imagePullPolicy: IfNotPresent, command: [sleep, '10000']}]}}",
    );
    // Containers are left alone, and none is started.
    assert_eq!(shims(&node), running);
    assert_ne!(kubectl.jsonpath(&["pod", "new"], "{.status.phase}"), "Running");
    node.stop_agent();
    std::fs::write(config.path(), "no-pods: false\n").unwrap();
    node.up();
    kubectl.ok(&["wait", "--for=condition=Ready", "pod/keep", "pod/new", "--timeout=60s"]);
    let restarts = "{.status.containerStatuses[0].restartCount}";
    assert_eq!(kubectl.jsonpath(&["pod", "keep"], restarts), "0");
    assert!(kubectl.run(&["get", "pod", "drop"]).code != 0);
}
