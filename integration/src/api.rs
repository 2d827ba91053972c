//! The API through curl: light enough for many requests, and honest about how each one ended.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::node::Node;

/// A client with the administrator's certificate.
#[derive(Clone, Debug)]
pub struct Api {
    netns: String,
    dir: PathBuf,
}

/// How a request ended.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The HTTP status; 0 when no whole response came.
    pub code: u16,
    /// The body, null when it is not JSON.
    pub body: Value,
}

impl Reply {
    /// Whether the server said yes.
    pub fn ok(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// The resource version of the object or list in the body.
    pub fn revision(&self) -> Option<u64> {
        self.body["metadata"]["resourceVersion"].as_str()?.parse().ok()
    }

    /// The items of a list.
    pub fn items(&self) -> &[Value] {
        self.body["items"].as_array().map_or(&[], Vec::as_slice)
    }
}

impl Api {
    /// Takes the certificates out of the node's kubeconfig.
    pub fn of(node: &Node) -> Self {
        let dir = node.path("certificates");
        std::fs::create_dir_all(&dir).unwrap();
        for (file, field) in [
            ("authority", "clusters[0].cluster.certificate-authority-data"),
            ("certificate", "users[0].user.client-certificate-data"),
            ("key", "users[0].user.client-key-data"),
        ] {
            let path = format!("-o=jsonpath={{.{field}}}");
            let text = node.any_kubectl().ok(&["config", "view", "--raw", &path]);
            let encoded = dir.join(format!("{file}.64"));
            std::fs::write(&encoded, text).unwrap();
            let output = Command::new("base64").arg("-d").arg(&encoded).output().unwrap();
            assert!(output.status.success() && !output.stdout.is_empty(), "{field}");
            std::fs::write(dir.join(file), output.stdout).unwrap();
        }
        Self { netns: node.ns.path(), dir }
    }

    fn file(&self, name: &str) -> String {
        Path::new(&self.dir).join(name).display().to_string()
    }

    /// A curl with the certificates, in the network of the node.
    pub fn curl(&self) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.netns))
            .args(["--", "curl", "--silent", "--max-time", "30"])
            .args(["--cacert", &self.file("authority"), "--cert", &self.file("certificate")])
            .args(["--key", &self.file("key")])
            .stdin(Stdio::null());
        command
    }

    /// One request over a connection of its own.
    pub fn request(&self, method: &str, path: &str, body: Option<&Value>) -> Reply {
        let mut sent = None;
        let mut command = self.curl();
        command.args(["--request", method, "--write-out", "\n%{http_code}"]).stderr(Stdio::null());
        if let Some(body) = body {
            let file = tempfile::NamedTempFile::new_in(&self.dir).unwrap();
            std::fs::write(file.path(), body.to_string()).unwrap();
            command.args(["--header", "Content-Type: application/json", "--data-binary"]);
            command.arg(format!("@{}", file.path().display()));
            sent = Some(file);
        }
        let output = command.arg(format!("https://127.0.0.1:6443{path}")).output().unwrap();
        drop(sent);
        let text = String::from_utf8_lossy(&output.stdout);
        let (body, code) = text.rsplit_once('\n').unwrap_or(("", "0"));
        // A connection that broke in the middle of the body has said nothing.
        let code = if output.status.success() { code.parse().unwrap_or(0) } else { 0 };
        Reply { code, body: serde_json::from_str(body).unwrap_or_default() }
    }

    /// Reads; panics unless that succeeds.
    pub fn get(&self, path: &str) -> Reply {
        let reply = self.request("GET", path, None);
        assert!(reply.ok(), "GET {path}: {reply:?}");
        reply
    }
}
