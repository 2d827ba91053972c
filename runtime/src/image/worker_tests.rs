//! Workers that misbehave, played by shells.

#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;

/// The beginning of a script that takes its request.
const TAKE: &str = "read request; ";

fn store() -> (tempfile::TempDir, ImageStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    (directory, store)
}

fn request(store: &ImageStore) -> PullRequest {
    PullRequest {
        store: store.directory().to_owned(),
        reference: "r/a:v1".into(),
        options: PullOptions::default(),
        group: Vec::new(),
    }
}

async fn pull_by(script: &str, store: &ImageStore, held: impl Send + 'static) -> String {
    let script = format!("{TAKE}{script}");
    let arguments = ["-c", &script, store.directory().to_str().unwrap()];
    let command = WorkerCommand { program: Path::new("/bin/sh"), arguments: &arguments };
    let pulled = pull_in_child(command, store, &request(store), None, held).await;
    pulled.err().unwrap().to_string()
}

/// A script that makes a directory as an unfinished layer is.
const UNFINISHED: &str = "d=$0/incoming/$$-$(cut -d' ' -f22 /proc/$$/stat)-x; mkdir -p $d/layer; ";

fn unfinished(store: &ImageStore) -> usize {
    std::fs::read_dir(store.directory().join("incoming")).unwrap().count()
}

#[tokio::test]
async fn endless_reports_fail_the_pull() {
    let (_directory, store) = store();
    let begun = Instant::now();
    let text = pull_by("while :; do printf %01000d 0; done", &store, ()).await;
    let expected = format!("the pull sent a report of more than {MAX_REPORT_BYTES} bytes");
    assert!(text.ends_with(&expected), "{text}");
    assert!(begun.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn ends_without_a_result_are_told() {
    let (_directory, store) = store();
    for (script, expected) in [
        ("exit 3", "the pull ended without a result"),
        ("kill -ABRT $$", "the pull was aborted; it may have run out of memory"),
        ("kill -SEGV $$", "the pull was ended by signal 11"),
        ("echo nonsense", "the pull sent a broken report: expected"),
    ] {
        let text = pull_by(script, &store, ()).await;
        let expected = format!("failed to pull and unpack image \"r/a:v1\": {expected}");
        assert!(text.starts_with(&expected), "{text}");
    }
    let killed = ExitStatus::from_raw(libc::SIGKILL);
    assert_eq!(ending(killed, true), "the pull ran out of memory");
    assert_eq!(ending(killed, false), "the pull was ended by signal 9");
}

#[tokio::test]
async fn pull_beyond_its_memory_is_told() {
    if !crate::skip::is_root("making control groups") {
        return;
    }
    let (_directory, store) = store();
    let group = format!("coracle-test-pulls-{}", std::process::id());
    let hierarchies = crate::cgroup::Hierarchies::detect().unwrap();
    let files = hierarchies.create_bounded(&group, 32 << 20).unwrap();
    // Without the end of a line all of it is kept.
    let script = format!("echo 0 >{}; exec tail /dev/zero", files[0].display());
    let text = pull_by(&script, &store, ()).await;
    hierarchies.remove(&group).await.unwrap();
    assert!(text.ends_with("the pull ran out of memory"), "{text}");
}

#[tokio::test]
async fn killed_worker_leaves_nothing() {
    let (_directory, store) = store();
    pull_by(&format!("{UNFINISHED} kill -KILL $$"), &store, ()).await;
    assert_eq!(unfinished(&store), 0);
}

#[tokio::test]
async fn dropped_pull_ends_its_worker_and_leaves_nothing() {
    let (_directory, store) = store();
    let (held, mut ended) = tokio::sync::mpsc::channel::<()>(1);
    let script = format!("{UNFINISHED} exec sleep 1000");
    let pull = pull_by(&script, &store, held);
    let begun = async {
        while unfinished(&store) == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        text = pull => panic!("{text}"),
        () = begun => {}
    }
    // What the pull held is let go of after its process has ended and its files are removed.
    assert_eq!(ended.recv().await, None);
    assert_eq!(unfinished(&store), 0);
}

#[test]
fn texts_of_failures_are_bounded() {
    let Report::Failed { message, .. } = failure(&"\x1b[0m".repeat(10 << 20), false) else {
        panic!("it failed");
    };
    assert!(message.len() <= MAX_MESSAGE_BYTES && !message.contains('\x1b'), "{message}");
}

#[test]
fn progress_is_summed_up() {
    let begun = Instant::now();
    let mut steps = Steps::new(begun);
    let received = |bytes| Progress::Received { digest: "d".into(), bytes };
    assert!(steps.take(received(1), begun).is_empty());
    assert!(steps.take(received(2), begun).is_empty());
    let later = begun + PROGRESS_INTERVAL;
    let told = steps.take(received(4), later);
    assert!(matches!(&told[..], [Progress::Received { bytes: 7, .. }]), "{told:?}");
    assert!(steps.take(received(8), later).is_empty());
    let told = steps.take(Progress::Unpacked("d".into()), later);
    let expected =
        [Progress::Received { digest: "d".into(), bytes: 8 }, Progress::Unpacked("d".into())];
    assert_eq!(format!("{told:?}"), format!("{expected:?}"));
}

#[test]
fn panics_are_told() {
    let panicked = caught("r/a:v1", || -> Result<(), PullError> { panic!("at the {}", "layer") });
    assert_eq!(
        panicked.unwrap_err().to_string(),
        "failed to pull and unpack image \"r/a:v1\": the pull failed unexpectedly: at the layer"
    );
}
