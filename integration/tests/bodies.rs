//! Objects of random contents arrive whole: by every verb, media type and protocol, and through
//! every client that reads them back.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coracle_integration::{Api, Node, NodeOptions, Random, privileged};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

/// Objects that are written, unless `CORACLE_OBJECTS` names another number.
const OBJECTS: usize = 300;
/// Objects that are there at the same time.
const BATCH: usize = 50;
/// The contents of the largest object; upstream's limit is 1 MiB for all of its values together.
const CONTENT_BYTES_MAX: u64 = (1 << 20) - 64;
/// The largest object that kubectl applies on its side, which keeps a copy in an annotation.
const APPLY_BYTES_MAX: usize = 100_000;
const NAMESPACE: &str = "default";

/// The way in which an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    CreateJson,
    CreateYaml,
    CreateProtobuf,
    Update,
    UpdateProtobuf,
    MergePatch,
    StrategicPatch,
    JsonPatch,
    Apply,
    KubectlCreate,
    KubectlReplace,
    KubectlApply,
    KubectlServerSide,
    Rust,
    RustApply,
}

const WAYS: [Way; 15] = [
    Way::CreateJson,
    Way::CreateYaml,
    Way::CreateProtobuf,
    Way::Update,
    Way::UpdateProtobuf,
    Way::MergePatch,
    Way::StrategicPatch,
    Way::JsonPatch,
    Way::Apply,
    Way::KubectlCreate,
    Way::KubectlReplace,
    Way::KubectlApply,
    Way::KubectlServerSide,
    Way::Rust,
    Way::RustApply,
];

/// Options of curl for each protocol.
const PROTOCOLS: [&[&str]; 3] =
    [&["--http1.1"], &["--http1.1", "--header", "Transfer-Encoding: chunked"], &["--http2"]];

/// One object and what it is to contain.
struct Thing {
    name: String,
    secret: bool,
    way: Way,
    protocol: &'static [&'static str],
    content: Vec<u8>,
}

impl Thing {
    /// The thing of this number: its size is anything from 1 byte to the limit, small ones as often
    /// as large ones.
    fn new(seed: u64, number: usize) -> Self {
        let mut random =
            Random::new(seed ^ (number as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let top = 1 << random.below(21);
        let mut size = (1 + random.below(top)).min(CONTENT_BYTES_MAX) as usize;
        if number % 20 == 19 {
            size = CONTENT_BYTES_MAX as usize;
        }
        let way = WAYS[number % WAYS.len()];
        if way == Way::KubectlApply {
            size = size.min(APPLY_BYTES_MAX);
        }
        let secret = random.below(2) == 0;
        let content =
            if secret { random_bytes(&mut random, size) } else { random_text(&mut random, size) };
        let protocol = PROTOCOLS[random.below(PROTOCOLS.len() as u64) as usize];
        Self { name: format!("t{number}"), secret, way, protocol, content }
    }

    fn plural(&self) -> &'static str {
        if self.secret { "secrets" } else { "configmaps" }
    }

    fn collection(&self) -> String {
        format!("/api/v1/namespaces/{NAMESPACE}/{}", self.plural())
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection(), self.name)
    }

    /// The value of its only key, as JSON has it.
    fn value(&self) -> String {
        if self.secret {
            STANDARD.encode(&self.content)
        } else {
            String::from_utf8(self.content.clone()).unwrap()
        }
    }

    fn object(&self, value: &str) -> Value {
        let kind = if self.secret { "Secret" } else { "ConfigMap" };
        json!({"apiVersion": "v1", "kind": kind, "metadata": {"name": self.name},
            "data": {"key": value}})
    }

    fn whole(&self) -> Value {
        self.object(&self.value())
    }

    fn yaml(&self) -> String {
        let kind = if self.secret { "Secret" } else { "ConfigMap" };
        let value = yaml_text(&self.value());
        format!(
            "apiVersion: v1\nkind: {kind}\nmetadata:\n  name: {}\ndata:\n  key: {value}\n",
            self.name
        )
    }

    /// As kubectl sends typed objects.
    fn protobuf(&self) -> Vec<u8> {
        let kind = if self.secret { "Secret" } else { "ConfigMap" };
        let metadata = field(1, self.name.as_bytes());
        let entry = [field(1, b"key"), field(2, &self.content)].concat();
        let raw = [field(1, &metadata), field(2, &entry)].concat();
        let type_meta = [field(1, b"v1"), field(2, kind.as_bytes())].concat();
        [b"k8s\0".to_vec(), field(1, &type_meta), field(2, &raw)].concat()
    }
}

/// A text between double quotes as YAML has it, which would take some letters for the end of a line.
fn yaml_text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            ' '..='~' => quoted.push(letter),
            other => quoted.push_str(&format!("\\U{:08x}", u32::from(other))),
        }
    }
    quoted.push('"');
    quoted
}

/// A length-delimited field of protobuf.
fn field(number: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![number << 3 | 2];
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
    out
}

fn random_bytes(random: &mut Random, size: usize) -> Vec<u8> {
    (0..size).map(|_| random.below(256) as u8).collect()
}

/// Text that JSON, YAML and shells have reason to get wrong, in letters of one to four bytes.
fn random_text(random: &mut Random, size: usize) -> Vec<u8> {
    const RARE: [char; 14] =
        ['"', '\\', '\n', '\t', '\r', '\'', ':', '#', '{', 'é', '日', '😀', '\u{2028}', '\u{7f}'];
    let mut text = String::with_capacity(size);
    while text.len() < size {
        let next = match random.below(20) {
            0 => RARE[random.below(RARE.len() as u64) as usize],
            _ => char::from(b' ' + 1 + random.below(94) as u8),
        };
        let fits = text.len() + next.len_utf8() <= size;
        text.push(if fits { next } else { 'x' });
    }
    text.into_bytes()
}

/// The clients of one node.
struct Clients {
    node: Node,
    api: Api,
    runtime: tokio::runtime::Runtime,
    dir: PathBuf,
}

impl Clients {
    fn start() -> Self {
        let node = Node::start_with(NodeOptions { without_images: true, ..NodeOptions::default() });
        let api = Api::of(&node);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let dir = node.path("bodies");
        std::fs::create_dir_all(&dir).unwrap();
        Self { node, api, runtime, dir }
    }

    fn file(&self, bytes: &[u8]) -> PathBuf {
        let path = self.dir.join("body");
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Returns the body that curl gets.
    fn curl(&self, arguments: &[&str], path: &str) -> Vec<u8> {
        let mut command: Command = self.api.curl();
        let output = command
            .args(["--show-error", "--fail-with-body"])
            .args(arguments)
            .arg(format!("https://127.0.0.1:6443{path}"))
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{arguments:?} {path}: {} {}",
            String::from_utf8_lossy(&output.stderr),
            String::from_utf8_lossy(&output.stdout[..output.stdout.len().min(1000)]),
        );
        output.stdout
    }

    fn send(&self, thing: &Thing, method: &str, path: &str, media_type: &str, body: &[u8]) {
        let data = format!("@{}", self.file(body).display());
        let kind = format!("Content-Type: {media_type}");
        let arguments = ["--request", method, "--header", &kind, "--data-binary", &data];
        self.curl(&[thing.protocol, &arguments].concat(), path);
    }

    /// A client of kube-rs does something inside the node's network.
    fn rust<F: Future<Output = ()> + Send>(&self, work: impl FnOnce(kube::Client) -> F + Send) {
        let kubeconfig = Kubeconfig::read_from(self.node.kubeconfig()).unwrap();
        self.node.ns.within(|| {
            self.runtime.block_on(async {
                let options = KubeConfigOptions::default();
                let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options);
                let client = kube::Client::try_from(config.await.unwrap()).unwrap();
                work(client).await;
            });
        });
    }

    fn write(&self, thing: &Thing) {
        let json_type = "application/json";
        let protobuf = "application/vnd.kubernetes.protobuf";
        let (collection, path) = (thing.collection(), thing.path());
        let whole = thing.whole().to_string();
        let before = || {
            let before = thing.object("YmVmb3Jl").to_string();
            self.send(thing, "POST", &collection, json_type, before.as_bytes());
        };
        let value = thing.value();
        match thing.way {
            Way::CreateJson => {
                self.send(thing, "POST", &collection, json_type, whole.as_bytes());
            }
            Way::CreateYaml => {
                let yaml = thing.yaml();
                self.send(thing, "POST", &collection, "application/yaml", yaml.as_bytes());
            }
            Way::CreateProtobuf => {
                self.send(thing, "POST", &collection, protobuf, &thing.protobuf());
            }
            Way::Update => {
                before();
                self.send(thing, "PUT", &path, json_type, whole.as_bytes());
            }
            Way::UpdateProtobuf => {
                before();
                self.send(thing, "PUT", &path, protobuf, &thing.protobuf());
            }
            Way::MergePatch | Way::StrategicPatch => {
                before();
                let kind = match thing.way {
                    Way::MergePatch => "application/merge-patch+json",
                    _ => "application/strategic-merge-patch+json",
                };
                let patch = json!({"data": {"key": value}}).to_string();
                self.send(thing, "PATCH", &path, kind, patch.as_bytes());
            }
            Way::JsonPatch => {
                before();
                let patch = json!([{"op": "replace", "path": "/data/key", "value": value}]);
                let patch = patch.to_string();
                let kind = "application/json-patch+json";
                self.send(thing, "PATCH", &path, kind, patch.as_bytes());
            }
            Way::Apply => {
                let path = format!("{path}?fieldManager=test&force=true");
                let kind = "application/apply-patch+yaml";
                self.send(thing, "PATCH", &path, kind, thing.yaml().as_bytes());
            }
            Way::KubectlCreate => {
                let from = format!("--from-file=key={}", self.file(&thing.content).display());
                let kind: &[&str] =
                    if thing.secret { &["secret", "generic"] } else { &["configmap"] };
                let kubectl = self.node.any_kubectl();
                kubectl.ok(&[&["create"], kind, &[&thing.name, &from]].concat());
            }
            Way::KubectlReplace => {
                before();
                self.kubectl(&["replace", "-f"], &whole);
            }
            Way::KubectlApply => self.kubectl(&["apply", "-f"], &thing.yaml()),
            Way::KubectlServerSide => self.kubectl(&["apply", "--server-side", "-f"], &whole),
            Way::Rust | Way::RustApply => {
                let apply = thing.way == Way::RustApply;
                let (name, object, secret) = (&thing.name, thing.whole(), thing.secret);
                self.rust(move |client| async move {
                    if secret {
                        let api: kube::Api<Secret> = kube::Api::namespaced(client, NAMESPACE);
                        rust_write(&api, name, object, apply).await;
                    } else {
                        let api: kube::Api<ConfigMap> = kube::Api::namespaced(client, NAMESPACE);
                        rust_write(&api, name, object, apply).await;
                    }
                });
            }
        }
    }

    fn kubectl(&self, arguments: &[&str], text: &str) {
        let path = self.file(text.as_bytes()).display().to_string();
        self.node.any_kubectl().ok(&[arguments, &[path.as_str()]].concat());
    }

    /// Reads every object of a batch back through every client.
    fn check(&self, things: &[Thing]) {
        for thing in things {
            for protocol in [&["--http1.1"][..], &["--http2"], &["--http2", "--compressed"]] {
                let got = self.curl(protocol, &thing.path());
                thing.is_in(&serde_json::from_slice(&got).unwrap(), "GET");
            }
        }
        for plural in ["configmaps", "secrets"] {
            let wanted: Vec<&Thing> = things.iter().filter(|t| t.plural() == plural).collect();
            let collection = format!("/api/v1/namespaces/{NAMESPACE}/{plural}");
            let list: Value = serde_json::from_slice(&self.curl(&[], &collection)).unwrap();
            let items = list["items"].as_array().unwrap().clone();
            are_in(&wanted, &items, "LIST");
            let pages = self.pages(&collection);
            are_in(&wanted, &pages, "LIST in pages");
            let watch = format!("{collection}?watch=true&resourceVersion=0&timeoutSeconds=1");
            for protocol in ["--http1.1", "--http2"] {
                let events = self.curl(&[protocol], &watch);
                let lines = events.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
                let events: Vec<Value> =
                    lines.map(|line| serde_json::from_slice(line).unwrap()).collect();
                let objects: Vec<Value> =
                    events.iter().map(|event| event["object"].clone()).collect();
                are_in(&wanted, &objects, "WATCH");
            }
            let shown = self.node.any_kubectl().json(&[plural]);
            are_in(&wanted, shown["items"].as_array().unwrap(), "kubectl get");
        }
        self.rust(|client| async move {
            let maps: kube::Api<ConfigMap> = kube::Api::namespaced(client.clone(), NAMESPACE);
            let maps = maps.list(&ListParams::default()).await.unwrap().items;
            let maps: BTreeMap<_, _> =
                maps.into_iter().map(|m| (m.metadata.name.unwrap(), m.data)).collect();
            let secrets: kube::Api<Secret> = kube::Api::namespaced(client, NAMESPACE);
            let secrets = secrets.list(&ListParams::default()).await.unwrap().items;
            let secrets: BTreeMap<_, _> =
                secrets.into_iter().map(|s| (s.metadata.name.unwrap(), s.data)).collect();
            for thing in things {
                let got = match thing.secret {
                    true => secrets[&thing.name].as_ref().unwrap()["key"].0.clone(),
                    false => maps[&thing.name].as_ref().unwrap()["key"].clone().into_bytes(),
                };
                assert!(got == thing.content, "kube-rs: {}", thing.describe());
            }
        });
    }

    fn pages(&self, collection: &str) -> Vec<Value> {
        let (mut items, mut token) = (Vec::new(), String::new());
        loop {
            let page = self.curl(&[], &format!("{collection}?limit=7&continue={token}"));
            let page: Value = serde_json::from_slice(&page).unwrap();
            items.extend(page["items"].as_array().unwrap().clone());
            match page["metadata"]["continue"].as_str() {
                Some(next) => next.clone_into(&mut token),
                None => return items,
            }
        }
    }

    fn delete(&self, things: &[Thing]) {
        for thing in things {
            assert!(self.api.request("DELETE", &thing.path(), None).ok(), "{}", thing.name);
        }
    }
}

async fn rust_write<K>(api: &kube::Api<K>, name: &str, object: Value, apply: bool)
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    if apply {
        let parameters = PatchParams::apply("kube-rs").force();
        api.patch(name, &parameters, &Patch::Apply(&object)).await.unwrap();
    } else {
        let object: K = serde_json::from_value(object).unwrap();
        api.create(&PostParams::default(), &object).await.unwrap();
    }
}

impl Thing {
    fn describe(&self) -> String {
        let size = self.content.len();
        format!("{} of {size} bytes by {:?} {:?}", self.path(), self.way, self.protocol)
    }

    fn is_in(&self, object: &Value, read: &str) {
        let value = object["data"]["key"].as_str().unwrap_or_default();
        assert!(value == self.value(), "{read} has other contents: {}", self.describe());
    }
}

fn are_in(things: &[&Thing], objects: &[Value], read: &str) {
    for thing in things {
        let object = objects.iter().find(|object| object["metadata"]["name"] == *thing.name);
        thing.is_in(object.unwrap_or(&Value::Null), read);
    }
}

#[test]
fn objects_of_every_size_arrive_whole() {
    if !privileged() {
        return;
    }
    let named = std::env::var("CORACLE_OBJECTS").ok().and_then(|number| number.parse().ok());
    let objects: usize = named.unwrap_or(OBJECTS);
    let seed = Random::seed();
    let clients = Clients::start();
    let numbers: Vec<usize> = (0..objects).collect();
    for batch in numbers.chunks(BATCH) {
        let things: Vec<Thing> = batch.iter().map(|number| Thing::new(seed, *number)).collect();
        for thing in &things {
            clients.write(thing);
        }
        clients.check(&things);
        clients.delete(&things);
    }
}

#[test]
fn objects_beyond_the_limits_are_refused() {
    if !privileged() {
        return;
    }
    let clients = Clients::start();
    let api = &clients.api;
    let maps = format!("/api/v1/namespaces/{NAMESPACE}/configmaps");
    let large = json!({"metadata": {"name": "large"}, "data": {"key": "x".repeat(1 << 20)}});
    assert!(api.request("POST", &maps, Some(&large)).code == 201, "1 MiB is the limit");
    let larger =
        json!({"metadata": {"name": "larger"}, "data": {"key": "x".repeat((1 << 20) + 1)}});
    let refused = api.request("POST", &maps, Some(&larger));
    assert_eq!((refused.code, &refused.body["reason"]), (422, &json!("Invalid")));
    // Over HTTP/1.1, where curl asks before it sends; over HTTP/2 it sends on and takes the refusal
    // for a broken stream.
    let body = json!({"metadata": {"name": "body"}, "data": {"key": "x".repeat(4 << 20)}});
    let data = format!("@{}", clients.file(body.to_string().as_bytes()).display());
    let refused = api
        .curl()
        .args(["--http1.1", "--header", "Content-Type: application/json", "--data-binary", &data])
        .arg(format!("https://127.0.0.1:6443{maps}"))
        .output()
        .unwrap();
    let refused: Value = serde_json::from_slice(&refused.stdout).unwrap();
    assert_eq!(refused["reason"], "RequestEntityTooLarge");
    assert_eq!(refused["message"], "Request entity too large: limit is 3145728");
}
