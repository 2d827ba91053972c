//! Concrete kubectl binaries (never a dispatcher that chooses one itself).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::neighbour::CLIENT_NICENESS;

/// The versions that the tests want; those missing are skipped visibly.
pub const VERSIONS: [&str; 6] = ["1.20", "1.27", "1.30", "1.31", "1.33", "1.36"];

/// The oldest of them and one that knows nearly everything.
pub const OLD_AND_NEW: [&str; 2] = ["1.20", "1.33"];

/// What a command printed and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// One kubectl binary with one kubeconfig, run inside a network namespace.
#[derive(Clone)]
pub struct Kubectl {
    pub version: String,
    binary: PathBuf,
    kubeconfig: PathBuf,
    home: PathBuf,
    netns: String,
    namespace: Option<String>,
}

impl Kubectl {
    /// The binary of a minor version, or `None` where there is none.
    pub fn binary(version: &str) -> Option<PathBuf> {
        let path = crate::workspace().join("build/kubectl").join(version).join("kubectl");
        path.exists().then_some(path)
    }

    /// Reports that tests go on without this version.
    pub fn skip(version: &str) {
        let tool = format!("kubectl-{version}");
        crate::skip::skip("the client is not in build/kubectl (make kubectl)", &tool);
    }

    pub fn new(
        version: &str,
        binary: PathBuf,
        kubeconfig: &Path,
        home: &Path,
        netns: &str,
    ) -> Self {
        Self {
            version: version.to_owned(),
            binary,
            kubeconfig: kubeconfig.to_owned(),
            home: home.join(format!("home-{version}")),
            netns: netns.to_owned(),
            namespace: None,
        }
    }

    /// The same client with another default namespace.
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self { namespace: Some(namespace.to_owned()), ..self.clone() }
    }

    /// Deletes the default namespace of this client and waits for its end.
    pub fn delete_namespace(&self) {
        let namespace = self.namespace.as_deref().unwrap_or("default");
        self.ok(&["delete", "namespace", namespace, "--timeout=120s"]);
    }

    /// Whether this client is older than a minor version.
    pub fn older_than(&self, minor: u32) -> bool {
        self.version.split('.').nth(1).and_then(|m| m.parse::<u32>().ok()).unwrap_or(0) < minor
    }

    /// A command that is ready to start.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.netns)).arg("--");
        if let Ok(niceness) = std::env::var(CLIENT_NICENESS) {
            command.arg("nice").arg(format!("--adjustment={niceness}"));
        }
        command
            .arg(&self.binary)
            .args(self.namespace.iter().map(|n| format!("--namespace={n}")))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .env("HOME", &self.home)
            .stdin(Stdio::null());
        command
    }

    /// Runs to the end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        output(self.command(arguments))
    }

    /// Runs with this standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        Output {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            code: output.status.code().unwrap_or(-1),
        }
    }

    /// Runs and expects success; returns standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(
            output.code == 0,
            "kubectl {} {arguments:?} exited {}\n{}{}",
            self.version,
            output.code,
            output.stdout,
            output.stderr
        );
        output.stdout
    }

    /// Applies a manifest given as text.
    pub fn apply(&self, manifest: &str) -> String {
        let output = self.run_with_input(&["apply", "-f", "-"], manifest);
        assert!(output.code == 0, "apply: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// The same without this client's own validation: an old one would not send what it does not
    /// know.
    pub fn apply_unvalidated(&self, manifest: &str) -> String {
        let output = self.run_with_input(&["apply", "--validate=false", "-f", "-"], manifest);
        assert!(output.code == 0, "apply: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// Waits until a pod is ready.
    pub fn ready(&self, pod: &str) {
        let pod = format!("pod/{pod}");
        self.ok(&["wait", "--for=condition=Ready", &pod, "--timeout=120s"]);
    }

    /// The events with this reason about an object, given by its name or as `Kind/name`.
    pub fn events(&self, object: &str, reason: &str) -> Vec<serde_json::Value> {
        let about = match object.split_once('/') {
            Some((kind, name)) => format!("involvedObject.kind={kind},involvedObject.name={name}"),
            None => format!("involvedObject.name={object}"),
        };
        let selector = format!("{about},reason={reason}");
        let list = self.json(&["events", "--field-selector", &selector]);
        list["items"].as_array().unwrap().clone()
    }

    /// Waits for such an event whose message contains `text`; returns the message.
    pub fn event(&self, object: &str, reason: &str, text: &str) -> String {
        crate::eventually(120, &format!("{object}: an event {reason} with {text:?}"), || {
            let events = self.events(object, reason);
            let messages = events.iter().filter_map(|event| event["message"].as_str());
            messages.into_iter().find(|message| message.contains(text)).map(str::to_owned)
        })
    }

    /// Runs and expects failure; returns standard error.
    pub fn fails(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.code != 0, "kubectl {arguments:?} succeeded:\n{}", output.stdout);
        output.stderr
    }

    /// One value by JSONPath.
    pub fn jsonpath(&self, what: &[&str], path: &str) -> String {
        let mut arguments = vec!["get"];
        arguments.extend(what);
        let path = format!("-o=jsonpath={path}");
        arguments.push(&path);
        self.ok(&arguments)
    }

    /// An object as JSON.
    pub fn json(&self, what: &[&str]) -> serde_json::Value {
        let mut arguments = vec!["get", "-o", "json"];
        arguments.extend(what);
        serde_json::from_str(&self.ok(&arguments)).unwrap()
    }
}

fn output(mut command: Command) -> Output {
    let output = command.output().unwrap();
    Output {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        code: output.status.code().unwrap_or(-1),
    }
}
