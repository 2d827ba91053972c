//! An image registry (Debian's docker-registry) on the loopback of a network namespace, filled from
//! the archives of the test images.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::netns::NetNs;

/// User name, password and bcrypt hash of the one account of a registry that wants one.
pub const USER: &str = "carrier";
/// Its password.
pub const PASSWORD: &str = "pear";
const HASH: &str = "$2b$05$abcdefghijklmnopqrstuu5/PdoGRZEHzdS7rs3drQUFFdFug87.y";

/// A running registry; it ends with the value.
pub struct Registry {
    /// `host:port`.
    pub address: String,
    dir: tempfile::TempDir,
    netns: String,
    account: bool,
    child: Child,
}

impl Registry {
    /// Starts an empty registry that everybody may use.
    pub fn start(ns: &NetNs, port: u16) -> Self {
        Self::start_with(ns, port, false)
    }

    /// Starts one that only [`USER`] may use.
    pub fn start_private(ns: &NetNs, port: u16) -> Self {
        Self::start_with(ns, port, true)
    }

    fn start_with(ns: &NetNs, port: u16, account: bool) -> Self {
        let dir = tempfile::Builder::new().prefix("registry-").tempdir().unwrap();
        let address = format!("127.0.0.1:{port}");
        let mut config = format!(
            "version: 0.1\nlog: {{accesslog: {{disabled: true}}, level: error}}\n\
             storage: {{filesystem: {{rootdirectory: {:?}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.path().join("data")
        );
        if account {
            let accounts = dir.path().join("accounts");
            std::fs::write(&accounts, format!("{USER}:{HASH}\n")).unwrap();
            writeln!(config, "auth: {{htpasswd: {{realm: test, path: {accounts:?}}}}}").unwrap();
        }
        let file = dir.path().join("config.yml");
        std::fs::write(&file, config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let child = ns
            .command("setpriv")
            .args(["--pdeathsig", "KILL", "docker-registry", "serve"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::from(log.try_clone().unwrap()))
            .stderr(Stdio::from(log))
            .spawn()
            .expect("docker-registry is installed");
        let registry = Self { address, dir, netns: ns.path(), account, child };
        crate::within(20, "the registry answers", || {
            registry.curl(&["--fail", &registry.url("/v2/")]).status().unwrap().success()
        });
        registry
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn curl(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).args(["--", "curl", "--silent"]);
        command.args(["--output", "/dev/null", "--max-time", "20"]);
        if self.account {
            command.args(["--user", &format!("{USER}:{PASSWORD}")]);
        }
        command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Puts one of the test images there; returns the digests of its layers, compressed.
    pub fn push(&self, image: &str, repository: &str, tag: &str) -> Vec<String> {
        let archive = crate::workspace().join(format!("build/images/{image}.tar"));
        let work = tempfile::tempdir().unwrap();
        run(Command::new("tar").arg("-xf").arg(&archive).arg("-C").arg(work.path()));
        let manifest: Value = read_json(&work.path().join("manifest.json"));
        let config = work.path().join(manifest[0]["Config"].as_str().unwrap());
        let mut layers = Vec::new();
        for layer in manifest[0]["Layers"].as_array().unwrap() {
            let layer = work.path().join(layer.as_str().unwrap());
            run(Command::new("gzip").args(["-1", "-n"]).arg(&layer));
            let compressed = PathBuf::from(format!("{}.gz", layer.display()));
            layers.push(self.upload(repository, &compressed));
        }
        let describe = |kind: &str, (digest, size): &(String, u64)| {
            let media_type = format!("application/vnd.docker.{kind}");
            json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let layer_kind = "image.rootfs.diff.tar.gzip";
        let document = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": describe("container.image.v1+json", &self.upload(repository, &config)),
            "layers": layers.iter().map(|l| describe(layer_kind, l)).collect::<Vec<_>>(),
        });
        let file = work.path().join("pushed.json");
        std::fs::write(&file, document.to_string()).unwrap();
        let content = format!("Content-Type: {}", document["mediaType"].as_str().unwrap());
        self.put(&format!("/v2/{repository}/manifests/{tag}"), &content, &file);
        layers.into_iter().map(|(digest, _)| digest).collect()
    }

    fn upload(&self, repository: &str, file: &Path) -> (String, u64) {
        let output = Command::new("sha256sum").arg(file).output().unwrap();
        let sum = String::from_utf8(output.stdout).unwrap();
        let digest = format!("sha256:{}", sum.split(' ').next().unwrap());
        let headers = self.dir.path().join("headers");
        let begin = self.url(&format!("/v2/{repository}/blobs/uploads/"));
        run(self.curl(&["--fail", "-X", "POST", "-D"]).arg(&headers).arg(&begin));
        let text = std::fs::read_to_string(&headers).unwrap();
        let location = text.lines().find_map(|l| l.strip_prefix("Location: ")).unwrap().trim();
        let (host, query) = location.split_at(location.find("/v2/").unwrap());
        assert!(host.ends_with(&self.address), "{location}");
        self.put(
            &format!("{query}&digest={digest}"),
            "Content-Type: application/octet-stream",
            file,
        );
        (digest, std::fs::metadata(file).unwrap().len())
    }

    fn put(&self, path: &str, header: &str, file: &Path) {
        let data = format!("@{}", file.display());
        let arguments =
            ["--fail", "-X", "PUT", "-H", header, "--data-binary", &data, &self.url(path)];
        run(&mut self.curl(&arguments));
    }

    /// Replaces the content of a blob by as many other bytes: the registry lies about it from now on.
    pub fn spoil(&self, digest: &str) {
        let hex = digest.trim_start_matches("sha256:");
        let blob = format!("data/docker/registry/v2/blobs/sha256/{}/{hex}/data", &hex[..2]);
        let path = self.dir.path().join(blob);
        let length = std::fs::metadata(&path).expect("the blob was pushed").len();
        std::fs::write(path, vec![7; usize::try_from(length).unwrap()]).unwrap();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(command: &mut Command) {
    let status = command.status().unwrap();
    assert!(status.success(), "{command:?} ended with {status}");
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
