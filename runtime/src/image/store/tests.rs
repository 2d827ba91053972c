//! What removals spare.

#![allow(clippy::unwrap_used)]

use serde_json::json;

use super::*;
use crate::records;

const OLD: &str = "docker.io/library/app:old";
const NEW: &str = "docker.io/library/app:new";

fn id(digit: char) -> String {
    format!("sha256:{}", digit.to_string().repeat(64))
}

/// An image with one layer of its own on a layer that all have.
fn add(store: &ImageStore, digit: char, name: &str) -> Image {
    let diff_ids = [id('0'), id(digit)];
    for diff_id in &diff_ids {
        fs::create_dir_all(store.layer_path(diff_id)).unwrap();
        store
            .write(&store.layer_record_path(diff_id), &json(&LayerRecord { size_bytes: 5 }))
            .unwrap();
    }
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = serde_json::from_value(config).unwrap();
    store.add_image(&id(digit), config, &[name.to_owned()]).unwrap()
}

/// A container as the runtime records it.
fn run(state_dir: &Path, container: &str, layers: &[PathBuf]) -> PathBuf {
    let directory = state_dir.join("sandboxes/pod").join(container);
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join(records::CONTAINER), json(&json!({"id": "c", "layers": layers})))
        .unwrap();
    directory
}

fn present(store: &ImageStore) -> Vec<String> {
    let images = store.list().unwrap();
    images.into_iter().flat_map(|image| image.tags.into_iter().chain([image.id])).collect()
}

#[test]
fn a_removal_spares_an_image_that_is_being_made() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    add(&store, 'a', OLD);
    let claim = store.claim(&[id('0'), id('b')]).unwrap();
    let layer = store.layer_path(&id('b'));
    fs::create_dir(&layer).unwrap();
    store.remove(OLD).unwrap();
    // What was here before and what has come since.
    assert!(store.layer_path(&id('0')).is_dir() && layer.is_dir());
    assert!(!store.layer_path(&id('a')).is_dir());
    add(&store, 'b', NEW);
    drop(claim);
    store.collect().unwrap();
    assert!(layer.is_dir());
    store.remove(NEW).unwrap();
    assert!(!layer.is_dir());
}

#[test]
fn what_a_container_runs_from_stays() {
    let directory = tempfile::tempdir().unwrap();
    let state_dir = directory.path().join("containers");
    let store = ImageStore::open(&directory.path().join("images")).unwrap();
    let store = store.sparing_containers(&state_dir);
    let image = add(&store, 'a', OLD);
    add(&store, 'b', NEW);
    let container = run(&state_dir, "c", &image.layers);

    assert_eq!(store.prune().unwrap(), 5);
    assert_eq!(present(&store), [OLD.to_owned(), id('a')]);
    // Its name may go, and nothing else with it.
    assert_eq!(store.remove(OLD).unwrap(), [OLD]);
    assert_eq!(store.remove(&id('a')[..15]).unwrap(), Vec::<String>::new());
    assert_eq!(present(&store), [id('a')]);
    // A newer image takes the name over; the old one is found by its ID alone.
    add(&store, 'b', OLD);
    assert!(store.remove("nginx").unwrap_err().to_string().contains("not found"));
    store.prune().unwrap();
    assert_eq!(present(&store), [id('a')]);
    assert!(image.layers.iter().all(|layer| layer.is_dir()));

    // A container of an earlier boot and one that has ended need nothing.
    let started = json(&json!({"pid": 1, "boot_id": "another"}));
    fs::write(container.join(records::STARTED), started).unwrap();
    assert_eq!(usage::stacks(&state_dir).unwrap(), HashSet::new());
    fs::remove_file(container.join(records::STARTED)).unwrap();
    assert_eq!(usage::stacks(&state_dir).unwrap().len(), 1);
    fs::write(container.join(records::EXIT), "{}").unwrap();
    assert_eq!(store.remove(&id('a')).unwrap(), Vec::<String>::new());
    assert_eq!(present(&store), Vec::<String>::new());
    assert!(!image.layers.iter().any(|layer| layer.is_dir()));
}

#[test]
fn digests_of_all_algorithms_differ() {
    let hex = "a".repeat(64);
    let names: HashSet<String> = [
        format!("sha256:{hex}"),
        format!("sha512:{}", "a".repeat(128)),
        format!("sha512:{}", "b".repeat(128)),
        format!("blake3:{hex}"),
        "sha256:short".to_owned(),
        "sha256:../../etc".to_owned(),
        "sha512:../../etc".to_owned(),
        String::new(),
    ]
    .iter()
    .map(|digest| digest_name(digest))
    .collect();
    assert_eq!(names.len(), 8);
    assert!(names.iter().all(|name| !name.contains('/') && name.len() < 200), "{names:?}");
    for digest in [format!("sha256:{hex}"), format!("sha512:{}", "c".repeat(128))] {
        assert_eq!(named_digest(&digest_name(&digest)), digest);
    }
}

#[test]
fn a_start_sweeps_what_a_crash_left() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let incoming = directory.path().join("incoming");
    let mine = store.incoming().unwrap();
    fs::write(incoming.join(".tmpabc"), "of an earlier version").unwrap();
    // A process that is gone, and one whose process ID this process has now.
    let pid = std::process::id();
    fs::create_dir_all(incoming.join("4194304-1-x/layer/d")).unwrap();
    fs::write(incoming.join(format!("{pid}-1-file")), "").unwrap();
    ImageStore::open(directory.path()).unwrap();
    let left: Vec<_> = read_dir(&incoming).unwrap();
    assert_eq!(left, [mine.path().to_owned()]);
    drop(mine);
    assert!(read_dir(&incoming).unwrap().is_empty());
}

#[test]
fn layers_that_no_kernel_mounts_are_refused() {
    let config = |layers: usize| -> ImageConfiguration {
        let diff_ids = vec![format!("sha256:{}", "0".repeat(64)); layers];
        serde_json::from_value(serde_json::json!({
            "architecture": "amd64", "os": "linux", "history": [],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
        .unwrap()
    };
    let most = max_layers();
    check_layer_count(&config(most), most).unwrap();
    let error = check_layer_count(&config(most + 1), most + 1).unwrap_err().to_string();
    let expected =
        format!("the image has {} layers; this kernel mounts {most} at the most", most + 1);
    assert_eq!(error, expected);
}
