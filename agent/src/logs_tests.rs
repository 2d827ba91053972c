//! Logs as clients get them.

#![allow(clippy::unwrap_used)]
use super::*;

const LOG: &str = "2026-01-01T00:00:00.000000001Z stdout F one\n\
                   2026-01-01T00:00:01.000000001Z stdout P tw\n\
                   2026-01-01T00:00:01.000000002Z stdout F o\n\
                   2026-01-01T00:00:02.000000001Z stderr F three\n";

async fn all(options: LogOptions, files: &[(&str, &str)]) -> String {
    let id: u64 = rand::random();
    let directory = std::env::temp_dir().join(format!("coracle-logs-{id}"));
    std::fs::create_dir_all(&directory).unwrap();
    for (name, text) in files {
        std::fs::write(directory.join(name), text).unwrap();
    }
    let (sender, mut receiver) = mpsc::channel(64);
    read(directory.join("0.log"), options, || false, sender).await.unwrap();
    let mut text = Vec::new();
    while let Ok(piece) = receiver.try_recv() {
        text.extend_from_slice(&piece);
    }
    std::fs::remove_dir_all(&directory).unwrap();
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn lines_are_joined_cut_and_dated() {
    let files = [("0.log", LOG)];
    assert_eq!(all(LogOptions::default(), &files).await, "one\ntwo\nthree\n");
    let tail = LogOptions { tail_lines: Some(1), ..LogOptions::default() };
    assert_eq!(all(tail, &files).await, "three\n");
    let since = "2026-01-01T00:00:02Z".parse().ok();
    let options = LogOptions { since, ..LogOptions::default() };
    assert_eq!(all(options, &files).await, "three\n");
    let options = LogOptions { limit_bytes: Some(5), ..LogOptions::default() };
    assert_eq!(all(options, &files).await, "one\nt");
    let options = LogOptions { timestamps: true, tail_lines: Some(1), ..LogOptions::default() };
    assert_eq!(all(options, &files).await, "2026-01-01T00:00:02.000000001Z three\n");
}

#[tokio::test]
async fn rotated_files_come_first() {
    let old = "2025-01-01T00:00:00Z stdout F zero\n";
    let files = [("0.log", LOG), ("0.log.20250101-000000", old)];
    assert_eq!(all(LogOptions::default(), &files).await, "zero\none\ntwo\nthree\n");
    let tail = LogOptions { tail_lines: Some(5), ..LogOptions::default() };
    assert_eq!(all(tail, &files).await, "zero\none\ntwo\nthree\n");
    let follow = LogOptions { follow: true, ..LogOptions::default() };
    assert_eq!(all(follow, &files).await, "zero\none\ntwo\nthree\n");
}

#[tokio::test]
async fn slow_follower_misses_no_file() {
    let directory = tempfile_directory("rotation");
    let log = directory.join("0.log");
    let line = |text: &str| format!("2026-01-01T00:00:00Z stdout F {text}\n");
    std::fs::write(&log, line("one")).unwrap();
    let ended = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let (sender, mut receiver) = mpsc::channel(64);
    let running = {
        let ended = ended.clone();
        move || !ended.load(std::sync::atomic::Ordering::SeqCst)
    };
    let options = LogOptions { follow: true, ..LogOptions::default() };
    let reading = tokio::spawn(read(log.clone(), options, running, sender));
    assert_eq!(receiver.recv().await.unwrap(), "one\n");
    // Two rotations before the reader looks again.
    for (number, text) in [(1, "two"), (2, "three")] {
        let rotated = format!("0.log.2026010{number}-000000");
        std::fs::rename(&log, directory.join(rotated)).unwrap();
        std::fs::write(&log, line(text)).unwrap();
    }
    ended.store(true, std::sync::atomic::Ordering::SeqCst);
    reading.await.unwrap().unwrap();
    let mut rest = Vec::new();
    while let Ok(piece) = receiver.try_recv() {
        rest.extend_from_slice(&piece);
    }
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(String::from_utf8(rest).unwrap(), "two\nthree\n");
}

fn tempfile_directory(name: &str) -> PathBuf {
    let directory = std::env::temp_dir().join(format!("coracle-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    directory
}

#[test]
fn last_words() {
    let path = std::env::temp_dir().join(format!("coracle-tail-{}", std::process::id()));
    std::fs::write(&path, LOG).unwrap();
    assert_eq!(tail_text(&path, 80, 2048), "one\ntwo\nthree\n");
    assert_eq!(tail_text(&path, 80, 6), "three\n");
    std::fs::remove_file(&path).unwrap();
}

#[tokio::test]
async fn links_in_place_of_logs_are_not_read() {
    let id: u64 = rand::random();
    let directory = std::env::temp_dir().join(format!("coracle-logs-{id}"));
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("secret"), LOG).unwrap();
    std::os::unix::fs::symlink("secret", directory.join("0.log")).unwrap();
    let (sender, mut receiver) = mpsc::channel(64);
    let log = directory.join("0.log");
    assert!(read(log.clone(), LogOptions::default(), || false, sender).await.is_err());
    assert!(receiver.try_recv().is_err());
    assert_eq!(tail_text(&log, 80, 2048), "");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[tokio::test]
async fn bytes_without_lines_are_dropped() {
    let noise = "x".repeat(4 * MAX_ENTRY_BYTES);
    let log = format!("{noise}\n{LOG}");
    assert_eq!(all(LogOptions::default(), &[("0.log", &log)]).await, "one\ntwo\nthree\n");
}

#[tokio::test]
async fn large_logs_arrive_whole() {
    let line = "2026-01-01T00:00:00Z stdout F ";
    let text: String = (0..60_000).map(|n| format!("{line}{n}\n")).collect();
    let expected: String = (0..60_000).map(|n| format!("{n}\n")).collect();
    assert_eq!(all(LogOptions::default(), &[("0.log", &text)]).await, expected);
    let since = "2027-01-01T00:00:00Z".parse().ok();
    let none = LogOptions { since, ..LogOptions::default() };
    assert_eq!(all(none, &[("0.log", &text)]).await, "");
}
