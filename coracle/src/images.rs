//! `coracle image …`: works on the store's files, so a running node sees the result at once.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use runtime::image::{
    Credentials, ImageStore, ImageSummary, Progress, PullOptions as HowToPull, PullRequest,
    Reference, WorkerCommand, pull_in_child,
};
use runtime::printable;

use crate::Failure;
use crate::cli::{DirOptions, LoadOptions, PullOptions, RemoveOptions};
use crate::paths::Paths;
use crate::registries;

/// `coracle image load`.
pub fn load(options: &LoadOptions) -> Result<(), Failure> {
    let store = open(&options.dirs)?;
    let name = options.name.as_deref().map(str::parse::<Reference>).transpose()?;
    for archive in &options.archives {
        let images = if archive == Path::new("-") {
            store.load(io::stdin().lock(), name.as_ref())?
        } else {
            let file = File::open(archive).map_err(|e| format!("{}: {e}", archive.display()))?;
            let bar = ProgressBar::new(file.metadata()?.len());
            bar.set_style(bytes_style());
            bar.set_message(archive.display().to_string());
            store.load(bar.wrap_read(file).by_ref(), name.as_ref()).inspect(|_| {
                bar.finish_and_clear();
            })?
        };
        for image in images {
            let name = image.tags.first().unwrap_or(&image.id);
            println!("Loaded image: {}", printable::printable(name));
        }
    }
    Ok(())
}

/// `coracle image pull`.
pub fn pull(options: &PullOptions) -> Result<(), Failure> {
    let store = open(&options.dirs)?;
    let credentials = options.creds.as_deref().map(credentials).transpose()?;
    let (mirrors, plain_http) =
        registries::resolve(&options.registry_mirror, &options.plain_http_registry);
    let how = HowToPull {
        credentials: credentials.into_iter().collect(),
        mirrors,
        plain_http,
        connect_timeout: None,
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for image in &options.images {
        let reference: Reference = image.parse()?;
        let request = PullRequest {
            store: Paths::new(&options.dirs).images(),
            reference: reference.to_string(),
            options: how.clone(),
            group: Vec::new(),
        };
        let bars = Arc::new(Bars::new());
        let shown = bars.clone();
        let command =
            WorkerCommand { program: Path::new("/proc/self/exe"), arguments: &["pull-worker"] };
        let report = Arc::new(move |step| shown.report(step));
        let pulled = tokio.block_on(pull_in_child(command, &store, &request, Some(report), ()));
        bars.clear();
        let pulled = pulled?;
        let name = pulled.digests.first().unwrap_or(&pulled.id);
        println!("{}", printable::printable(name));
    }
    Ok(())
}

/// `coracle image ls`.
pub fn list(options: &DirOptions) -> Result<(), Failure> {
    let mut rows = vec![["IMAGE", "TAG", "IMAGE ID", "SIZE"].map(str::to_owned)];
    for image in open(options)?.list()? {
        rows.extend(image_rows(&image));
    }
    let widths: Vec<usize> =
        (0..4).map(|c| rows.iter().map(|r| r[c].len()).max().unwrap_or(0)).collect();
    for row in rows {
        let line: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        println!("{}", printable::printable(line.join("   ").trim_end()));
    }
    Ok(())
}

fn image_rows(image: &ImageSummary) -> Vec<[String; 4]> {
    let id = image.id.trim_start_matches("sha256:").chars().take(13).collect::<String>();
    let size = human_bytes(image.size_bytes);
    let names: Vec<(&str, &str)> = if image.tags.is_empty() && image.digests.is_empty() {
        vec![("<none>", "<none>")]
    } else if image.tags.is_empty() {
        image.digests.iter().filter_map(|d| d.split_once('@')).map(|(n, _)| (n, "<none>")).collect()
    } else {
        image.tags.iter().filter_map(|t| t.rsplit_once(':')).collect()
    };
    names
        .into_iter()
        .map(|(name, tag)| [name.to_owned(), tag.to_owned(), id.clone(), size.clone()])
        .collect()
}

/// `coracle image rm`.
pub fn remove(options: &RemoveOptions) -> Result<(), Failure> {
    let store = open(&options.dirs)?;
    for image in &options.images {
        for name in store.remove(image)? {
            println!("Untagged: {name}");
        }
    }
    Ok(())
}

/// `coracle image prune`: what a container on this machine still uses stays.
pub fn prune(options: &DirOptions) -> Result<(), Failure> {
    println!("Total reclaimed space: {}", human_bytes(open(options)?.prune()?));
    Ok(())
}

fn open(options: &DirOptions) -> Result<ImageStore, Failure> {
    let paths = Paths::new(options);
    paths.create()?;
    Ok(ImageStore::open(&paths.images())?.sparing_containers(&paths.containers()))
}

fn credentials(text: &str) -> Result<Credentials, Failure> {
    let (username, password) = text.split_once(':').ok_or("--creds: expected USER:PASSWORD")?;
    Ok(Credentials { username: username.into(), password: password.into() })
}

fn human_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" {
                format!("{value}{unit}")
            } else {
                format!("{value:.1}{unit}")
            };
        }
        value /= 1000.0;
    }
    format!("{value:.1}TB")
}

fn bytes_style() -> ProgressStyle {
    ProgressStyle::with_template("{msg:.bold} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}")
        .expect("the template is constant")
}

/// One bar per layer, on a terminal only.
struct Bars {
    all: MultiProgress,
    layers: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn new() -> Self {
        let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
        Self { all, layers: Mutex::new(HashMap::new()) }
    }

    fn report(&self, step: Progress) {
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match step {
            Progress::Layers(wanted) => {
                for (digest, size) in wanted {
                    let bar = self.all.add(ProgressBar::new(size));
                    bar.set_style(bytes_style());
                    let short = digest.trim_start_matches("sha256:").chars().take(12);
                    let short = short.collect::<String>();
                    bar.set_message(printable::printable(&short).into_owned());
                    bar.enable_steady_tick(Duration::from_millis(200));
                    layers.insert(digest, bar);
                }
            }
            Progress::Received { digest, bytes } => {
                if let Some(bar) = layers.get(&digest) {
                    bar.inc(bytes);
                }
            }
            Progress::Unpacked(digest) => {
                if let Some(bar) = layers.get(&digest) {
                    bar.finish();
                }
            }
        }
    }

    fn clear(&self) {
        // A terminal that cannot be cleared keeps its bars.
        let _ = self.all.clear();
    }
}
