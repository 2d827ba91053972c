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
            .write(
                &store.layer_record_path(diff_id),
                &json(&LayerRecord { size_bytes: 5, blobs: Vec::new() }),
            )
            .unwrap();
    }
    let config = json!({"architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    store.add_image(&id(digit), configuration(&config), &[name.to_owned()]).unwrap()
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

fn configuration(document: &serde_json::Value) -> Configuration {
    Configuration::parse(document.to_string().as_bytes()).unwrap()
}

#[test]
fn layers_that_no_kernel_mounts_are_refused() {
    let config = |layers: usize| {
        let diff_ids = vec![format!("sha256:{}", "0".repeat(64)); layers];
        configuration(&json!({
            "architecture": "amd64", "os": "linux", "history": [],
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        }))
    };
    let most = max_layers();
    check_config(&config(most), most).unwrap();
    let error = check_config(&config(most + 1), most + 1).unwrap_err().to_string();
    let expected =
        format!("the image has {} layers; this kernel mounts {most} at the most", most + 1);
    assert_eq!(error, expected);
}

/// The parts of a configuration that containers are made from.
fn settings() -> serde_json::Value {
    json!({
        "User": "1000:1000", "Env": ["A=1", "B=2"], "Entrypoint": ["/program"], "Cmd": ["-v"],
        "WorkingDir": "/data", "StopSignal": "SIGQUIT",
    })
}

/// Writes the record of an image with one layer in the format of earlier versions.
fn write_old(store: &ImageStore, digit: char, name: &str, more: &[u8]) {
    fs::create_dir_all(store.layer_path(&id(digit))).unwrap();
    let more = std::str::from_utf8(more).unwrap();
    let (id, settings) = (id(digit), settings());
    let record = format!(
        r#"{{"id":"{id}","size_bytes":7,"diff_ids":["{id}"],"config":{{"architecture":"amd64",
        "os":"linux","config":{settings},"rootfs":{{"type":"layers","diff_ids":["{id}"]}},
        "history":[{more}]}}}}"#
    );
    store.write(&store.record_path(&id), record.as_bytes()).unwrap();
    store.write(&store.reference_path(name), id.as_bytes()).unwrap();
}

#[test]
fn records_keep_what_containers_need_only() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    add(&store, 'a', OLD);
    let mut document = json!({
        "architecture": "amd64", "os": "linux", "author": "a", "config": settings(),
        "rootfs": {"type": "layers", "diff_ids": [id('0'), id('a')]},
        "history": vec![json!({"created_by": "RUN"}); 50_000],
    });
    document["config"]["Labels"] = json!({"label": "l".repeat(3 << 20)});
    document["config"]["Volumes"] = json!({"/data": {}});
    let image = store.add_image(&id('b'), configuration(&document), &[NEW.to_owned()]).unwrap();
    assert!(fs::metadata(store.record_path(&id('b'))).unwrap().len() < 1000);
    // As for readers of the image format, earlier versions among them.
    let record: serde_json::Value =
        serde_json::from_slice(&fs::read(store.record_path(&id('b'))).unwrap()).unwrap();
    let plain: oci_spec::image::ImageConfiguration =
        serde_json::from_value(record["config"].clone()).unwrap();
    assert_eq!(record["format"], 2);
    assert_eq!(plain, image.config);
    assert_eq!(serde_json::to_value(image.config.config()).unwrap(), settings());
    assert_eq!(image.layers, [store.layer_path(&id('0')), store.layer_path(&id('a'))]);
}

#[test]
fn images_with_too_many_settings_are_refused() {
    let config = |settings: serde_json::Value| {
        let document = json!({"rootfs": {"diff_ids": [id('a')]}, "config": settings}).to_string();
        Configuration::parse(document.as_bytes())
    };
    check_config(&config(json!({"Env": vec!["A=1"; 10_000]})).unwrap(), 1).unwrap();
    let error = config(json!({"Env": vec![""; 10_001]})).unwrap_err().to_string();
    assert!(error.contains("at most 10000 strings"), "{error}");
    let large = config(json!({"User": "u".repeat(1 << 20)})).unwrap();
    let error = check_config(&large, 1).unwrap_err().to_string();
    assert!(error.ends_with("at most 1048576 are kept"), "{error}");
}

#[test]
fn old_records_are_read_and_large_ones_rewritten() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    write_old(&store, 'a', OLD, b"{\"created_by\":\"RUN\"}");
    write_old(&store, 'b', NEW, &[b"{},".repeat(1_000_000), b"{}".to_vec()].concat());
    let store = ImageStore::open(directory.path()).unwrap();
    assert_eq!(present(&store), [OLD.to_owned(), id('a'), NEW.to_owned(), id('b')]);
    for digit in ['a', 'b'] {
        let image = store.find_id(&id(digit)).unwrap().unwrap();
        assert_eq!(image.size_bytes, 7);
        assert_eq!(image.config.history(), &None);
        assert_eq!(serde_json::to_value(image.config.config()).unwrap(), settings());
    }
    assert!(fs::metadata(store.record_path(&id('b'))).unwrap().len() < 1000);
}

#[test]
fn damaged_records_hide_no_other_image() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let whole = add(&store, 'a', OLD);
    write_old(&store, 'b', NEW, b"{");
    write_old(&store, 'c', "docker.io/library/app:big", &vec![b' '; 17 << 20]);
    let store = ImageStore::open(directory.path()).unwrap();
    assert_eq!(present(&store), [OLD.to_owned(), id('a')]);
    // They count as missing: they are pulled again, or removed with their layers.
    for digit in ['b', 'c'] {
        assert!(store.find_id(&id(digit)).unwrap().is_none());
    }
    assert!(store.find(&NEW.parse().unwrap()).unwrap().is_none());
    add(&store, 'b', NEW);
    assert_eq!(present(&store), [OLD.to_owned(), id('a'), NEW.to_owned(), id('b')]);
    store.collect().unwrap();
    assert!(!store.layer_path(&id('c')).is_dir() && !store.record_path(&id('c')).exists());
    assert!(whole.layers.iter().all(|layer| layer.is_dir()));
}
