//! Pulls from registries that lie, on this machine's loopback.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};

use super::super::pull::PullError;
use super::super::store::ImageStore;
use super::*;

/// A response: status line and headers, and a body.
type Answer = (String, Vec<u8>);

/// The path and the `Authorization` of a request.
type Asked = (String, Option<String>);

/// A registry that answers by path, and what it was asked.
struct Registry {
    address: String,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Registry {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let registry = Self {
            address: listener.local_addr().unwrap().to_string(),
            answers: Arc::default(),
            asked: Arc::default(),
        };
        let (answers, asked) = (registry.answers.clone(), registry.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (answers, asked) = (answers.clone(), asked.clone());
                std::thread::spawn(move || serve(stream, &answers, &asked));
            }
        });
        registry
    }

    /// Answers `path` with `head`, the status line and headers.
    fn answer(&self, path: &str, head: &str, body: &[u8]) {
        self.answers.lock().unwrap().insert(path.into(), (head.into(), body.to_vec()));
    }

    fn blob(&self, body: &[u8]) -> Value {
        let digest = Digester::sha256_of(body);
        self.answer(&format!("/v2/team/app/blobs/{digest}"), "200 OK", body);
        json!({"digest": digest, "size": body.len()})
    }

    fn manifest(&self, config: &Value, layers: &[Value]) {
        let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers});
        self.answer(MANIFEST, "200 OK", manifest.to_string().as_bytes());
    }

    /// An image of one layer; returns the descriptors of its configuration and its layer.
    fn image(&self) -> (Value, Value) {
        let layer = layer();
        let document = json!({
            "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/x"]},
            "rootfs": {"type": "layers", "diff_ids": [Digester::sha256_of(&layer)]},
        });
        let config = self.blob(document.to_string().as_bytes());
        let layer = self.blob(&layer);
        self.manifest(&config, std::slice::from_ref(&layer));
        (config, layer)
    }

    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.asked.lock().unwrap().clone()
    }
}

const MANIFEST: &str = "/v2/team/app/manifests/v1";

fn serve(
    mut stream: TcpStream,
    answers: &Mutex<HashMap<String, Answer>>,
    asked: &Mutex<Vec<(String, Option<String>)>>,
) {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
    let request = lines.next().unwrap_or_default();
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut login = None;
    for line in lines.take_while(|line| !line.is_empty()) {
        if let Some((name, value)) = line.split_once(": ")
            && name.eq_ignore_ascii_case("authorization")
        {
            login = Some(value.to_owned());
        }
    }
    asked.lock().unwrap().push((path.clone(), login.clone()));
    let known = answers.lock().unwrap();
    let path = path.split('?').next().unwrap_or_default();
    let (mut head, mut body) =
        known.get(path).cloned().unwrap_or_else(|| ("404 Not Found".into(), Vec::new()));
    if let Some((challenge, _)) = known.get("challenge").filter(|_| login.is_none())
        && path.starts_with("/v2/")
    {
        (head, body) = (format!("401 Unauthorized\r\nWWW-Authenticate: {challenge}"), Vec::new());
    }
    drop(known);
    let length = body.len();
    let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    // A client that has heard enough closes the connection.
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// The tar of a layer with one file.
fn layer() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(5);
    header.set_mode(0o644);
    header.set_uid(u64::from(nix::unistd::getuid().as_raw()));
    header.set_gid(u64::from(nix::unistd::getgid().as_raw()));
    tar.append_data(&mut header, "file", &b"hello"[..]).unwrap();
    tar.into_inner().unwrap()
}

/// Pulls `registry/team/app:v1` into a new store; returns the name or the error.
fn pull_with(registry: &str, options: &PullOptions) -> Result<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let pulled = pull_into(&store, registry, options);
    assert!(std::fs::read_dir(directory.path().join("incoming")).unwrap().next().is_none());
    pulled
}

fn pull_into(store: &ImageStore, registry: &str, options: &PullOptions) -> Result<String, String> {
    try_pull(store, registry, options).map_err(|error| error.to_string())
}

fn try_pull(
    store: &ImageStore,
    registry: &str,
    options: &PullOptions,
) -> Result<String, PullError> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let reference: Reference = format!("{registry}/team/app:v1").parse().unwrap();
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pulled = tokio.block_on(store.pull(&reference, options, &|_| {}));
    pulled.map(|image| image.tags[0].clone())
}

fn pull(registry: &Registry) -> Result<String, String> {
    pull_with(&registry.address, &PullOptions::default())
}

fn login() -> PullOptions {
    let credentials = vec![Credentials { username: "carrier".into(), password: "pear".into() }];
    PullOptions { credentials, ..PullOptions::default() }
}

const BASIC: &str = "Basic Y2FycmllcjpwZWFy";

#[test]
fn images_are_pulled_with_and_without_login() {
    let registry = Registry::start();
    registry.image();
    let name = format!("{}/team/app:v1", registry.address);
    assert_eq!(pull(&registry), Ok(name.clone()));
    assert!(registry.asked().iter().all(|(_, login)| login.is_none()));
    registry.answer("challenge", "Basic realm=\"r\"", b"");
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("may require authorization: authorization failed"), "{error}");
    assert_eq!(pull_with(&registry.address, &login()), Ok(name.clone()));

    let realm = format!("Bearer realm=\"http://{}/token\",service=\"s\"", registry.address);
    registry.answer("challenge", &realm, b"");
    registry.answer("/token", "200 OK", b"{\"access_token\": \"secret\"}");
    assert_eq!(pull_with(&registry.address, &login()), Ok(name));
    let asked = registry.asked();
    let token = "/token?scope=repository%3Ateam%2Fapp%3Apull&service=s".to_owned();
    assert_eq!(asked[asked.len() - 4], (token, Some(BASIC.into())));
    assert_eq!(asked[asked.len() - 1].1.as_deref(), Some("Bearer secret"));
}

/// An error that counts as an absent registry starts copies that are out of date, in every namespace; so it
/// must not be what a secret, an image or a token server of one of them can bring about.
#[test]
fn only_registries_without_connections_are_unreachable() {
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let pulled = |address: &str| try_pull(&store, address, &login()).unwrap_err();
    let error = pulled(&closed);
    assert!(
        error.is_unreachable() && error.to_string().contains("failed to do request"),
        "{error}"
    );

    // A front end that resets what it does not like.
    let resetting = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = resetting.local_addr().unwrap().to_string();
    std::thread::spawn(move || resetting.incoming().for_each(drop));
    let error = pulled(&address);
    assert!(
        !error.is_unreachable() && error.to_string().contains("failed to do request"),
        "{error}"
    );

    // A token server and a storage that are not there.
    let registry = Registry::start();
    let (config, _) = registry.image();
    let realm = format!("Bearer realm=\"http://{closed}/token\",service=\"s\"");
    registry.answer("challenge", &realm, b"");
    assert!(!pulled(&registry.address).is_unreachable());
    registry.answers.lock().unwrap().remove("challenge");
    let path = format!("/v2/team/app/blobs/{}", config["digest"].as_str().unwrap());
    registry.answer(&path, &format!("307 Moved\r\nLocation: http://{closed}/blob"), b"");
    let error = pulled(&registry.address);
    assert!(
        !error.is_unreachable() && error.to_string().contains("failed to do request"),
        "{error}"
    );
}

#[test]
fn bodies_larger_than_promised_are_refused() {
    let registry = Registry::start();
    let (config, layer) = registry.image();
    let large = vec![b' '; 40 << 20];
    let (mut small, whole) = (registry.blob(&large), large.len());
    registry.manifest(&small, std::slice::from_ref(&layer));
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with(&format!("the image configuration has {whole} bytes")), "{error}");
    small["size"] = json!(500);
    registry.manifest(&small, std::slice::from_ref(&layer));
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("more than 4194304 bytes"), "{error}");
    // One byte is enough.
    let mut short = config.clone();
    short["size"] = json!(config["size"].as_u64().unwrap() - 1);
    registry.manifest(&short, std::slice::from_ref(&layer));
    let error = pull(&registry).unwrap_err();
    assert!(error.contains("failed size validation"), "{error}");
    registry.answer(MANIFEST, "200 OK", &large);
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("more than 4194304 bytes"), "{error}");
}

#[test]
fn layers_have_the_promised_size_and_digest() {
    let registry = Registry::start();
    let (config, layer) = registry.image();
    let size = layer["size"].as_i64().unwrap();
    for wrong in [1, size - 1, size + 1, 0, -5] {
        let mut lie = layer.clone();
        lie["size"] = json!(wrong);
        registry.manifest(&config, &[lie]);
        let error = pull(&registry).unwrap_err();
        let expected =
            if wrong < 0 { "has size -5".into() } else { format!("{size} != {wrong}: failed") };
        assert!(error.contains(&expected), "{error}");
    }
    registry.manifest(&config, std::slice::from_ref(&layer));
    let path = format!("/v2/team/app/blobs/{}", layer["digest"].as_str().unwrap());
    registry.answer(&path, "200 OK", &vec![7; usize::try_from(size).unwrap()]);
    let error = pull(&registry).unwrap_err();
    assert!(error.contains("unexpected commit digest sha256:"), "{error}");
}

#[test]
fn foreign_urls_of_layers_are_ignored() {
    let (registry, other) = (Registry::start(), Registry::start());
    let (config, mut layer) = registry.image();
    let path = format!("/v2/team/app/blobs/{}", layer["digest"].as_str().unwrap());
    let body = registry.answers.lock().unwrap().remove(&path).unwrap().1;
    other.answer("/layer", "200 OK", &body);
    layer["urls"] = json!([format!("http://{}/layer", other.address)]);
    registry.manifest(&config, &[layer]);
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("from remote: not found"), "{error}");
    assert_eq!(other.asked(), []);
}

#[test]
fn layers_of_others_need_their_blob() {
    let (registry, thief) = (Registry::start(), Registry::start());
    let (_, layer) = registry.image();
    let directory = tempfile::tempdir().unwrap();
    let store = ImageStore::open(directory.path()).unwrap();
    pull_into(&store, &registry.address, &PullOptions::default()).unwrap();
    // The digest of the contents is known, the blob is not.
    let (config, _) = thief.image();
    let other = Digester::sha256_of(b"another blob");
    thief.manifest(&config, &[json!({"digest": other, "size": 5})]);
    let error = pull_into(&store, &thief.address, &PullOptions::default()).unwrap_err();
    assert!(error.ends_with("from remote: not found"), "{error}");
    // The same blob is not fetched again, and another form of the layer is.
    thief.manifest(&config, std::slice::from_ref(&layer));
    pull_into(&store, &thief.address, &PullOptions::default()).unwrap();
    let path = format!("/v2/team/app/blobs/{}", layer["digest"].as_str().unwrap());
    assert!(!thief.asked().iter().any(|(asked, _)| *asked == path));
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packed.write_all(&self::layer()).unwrap();
    let packed = thief.blob(&packed.finish().unwrap());
    thief.manifest(&config, &[packed]);
    pull_into(&store, &thief.address, &PullOptions::default()).unwrap();
}

#[test]
fn errors_show_no_body_of_another_service() {
    let (registry, other) = (Registry::start(), Registry::start());
    other.answer("/secret", "403 Forbidden", b"the secret of another service");
    registry.answer(
        MANIFEST,
        &format!("302 Found\r\nLocation: http://{}/secret?sign=s", other.address),
        b"",
    );
    let name = format!("{}/team/app:v1", registry.address);
    assert_eq!(
        pull(&registry).unwrap_err(),
        format!(
            "failed to pull and unpack image \"{name}\": unexpected status from GET request to \
             http://{}/secret: 403 Forbidden",
            other.address
        )
    );
    registry.answer(MANIFEST, "500 Oops", &vec![b'E'; 1_400_000]);
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("/manifests/v1: 500 Internal Server Error"), "{error}");
}

#[test]
fn texts_of_registries_are_cut_and_printable() {
    let registry = Registry::start();
    let (config, mut layer) = registry.image();
    for digest in ["sha256:\n\u{1b}[31m".to_owned(), format!("sha256:{}", "a".repeat(3 << 20))] {
        layer["digest"] = json!(digest);
        registry.manifest(&config, &[layer.clone()]);
        let error = pull(&registry).unwrap_err();
        assert!(error.len() < 1200 && !error.contains(char::is_control), "{error}");
        assert!(error.contains("invalid digest"), "{error}");
    }
}

#[test]
fn tokens_that_are_no_header_values_are_refused() {
    let registry = Registry::start();
    registry.image();
    let realm = format!("Bearer realm=\"http://{}/token\"", registry.address);
    registry.answer("challenge", &realm, b"");
    registry.answer("/token", "200 OK", b"{\"token\": \"a\\nb\\u0000\"}");
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("token: the token is no value of a header"), "{error}");
    registry.answer("/token", "200 OK", &vec![b' '; 2 << 20]);
    let error = pull(&registry).unwrap_err();
    assert!(error.ends_with("more than 1048576 bytes"), "{error}");
}

#[test]
fn logins_do_not_follow_redirects() {
    let (registry, other) = (Registry::start(), Registry::start());
    let (_, layer) = registry.image();
    let path = format!("/v2/team/app/blobs/{}", layer["digest"].as_str().unwrap());
    let body = registry.answers.lock().unwrap().remove(&path).unwrap().1;
    registry.answer(
        &path,
        &format!("307 Temporary Redirect\r\nLocation: http://{}/layer", other.address),
        b"",
    );
    registry.answer("challenge", "Basic realm=\"r\"", b"");
    other.answer("/layer", "200 OK", &body);
    pull_with(&registry.address, &login()).unwrap();
    assert!(registry.asked().contains(&(path, Some(BASIC.into()))));
    assert_eq!(other.asked(), [("/layer".to_owned(), None)]);
    // Nor are they given to a host that asks for them after a redirect.
    let challenge = "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\"";
    other.answer("/layer", challenge, b"");
    let error = pull_with(&registry.address, &login()).unwrap_err();
    assert!(error.ends_with("authorization failed"), "{error}");
    assert!(other.asked().iter().all(|(_, login)| login.is_none()));
}

#[test]
fn plain_mirrors_get_no_login() {
    let mirror = Registry::start();
    mirror.image();
    mirror.answer("challenge", "Basic realm=\"r\"", b"");
    let mirrors = [("registry.invalid".to_owned(), vec![mirror.address.clone()])].into();
    let options = PullOptions { mirrors, plain_http: vec![mirror.address.clone()], ..login() };
    let error = pull_with("registry.invalid", &options).unwrap_err();
    assert!(error.ends_with("authorization failed"), "{error}");
    assert_eq!(mirror.asked(), [(format!("{MANIFEST}?ns=registry.invalid"), None)]);
    mirror.answers.lock().unwrap().remove("challenge");
    assert_eq!(pull_with("registry.invalid", &options).unwrap(), "registry.invalid/team/app:v1");
}

#[test]
fn loopback_registries_are_recognised() {
    for yes in ["localhost", "localhost:5000", "127.0.0.1:5000", "127.3.2.1", "[::1]:5000"] {
        assert!(is_loopback(yes), "{yes}");
    }
    for no in ["docker.io", "localhost.example:5000", "10.0.0.1:5000", "127.example"] {
        assert!(!is_loopback(no), "{no}");
    }
}
