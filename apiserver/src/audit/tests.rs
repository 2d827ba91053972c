//! Requests to a server with an audit log, and what is in the log then.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::PathBuf;

use http::{Method, Request};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::policy::Level;
use super::{Audit, FileOptions, Policy};
use crate::body::full;
use crate::security::{Attributes, User};
use crate::tests::harness::{Cluster, read};

/// A policy with every field.
const POLICY: &str = include_str!("testdata/policy.yaml");
/// Requests, and what the policy says about each.
const VERDICTS: &str = include_str!("testdata/verdicts.txt");
/// Policies that are refused, and why.
const REFUSED: &str = include_str!("testdata/refused.txt");

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

struct Log {
    cluster: Cluster,
    directory: TempDir,
}

impl Log {
    async fn new(policy: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let policy_path = directory.path().join("policy.yaml");
        fs::write(&policy_path, policy).unwrap();
        let cluster = Cluster::new().await;
        let options =
            FileOptions { path: directory.path().join("audit.log"), ..FileOptions::default() };
        cluster.server.set_audit(Audit::open(policy_path, options).unwrap());
        Self { cluster, directory }
    }

    /// The events so far.
    fn events(&self) -> Vec<Value> {
        self.cluster.server.audit.get().unwrap().flush();
        let text = fs::read_to_string(self.path()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("audit.log")
    }
}

fn policy(level: &str) -> String {
    format!("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{{level: {level}}}]\n")
}

#[test]
fn first_matching_rule_decides() {
    let policy = Policy::parse(POLICY).unwrap();
    for line in VERDICTS.lines().filter(|line| !line.starts_with('#')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [user, verb, path, expected] = words.as_slice() else { panic!("{line}") };
        let (name, groups) = user.split_once(':').unwrap_or((user, ""));
        let user = User {
            name: name.into(),
            groups: groups.split(',').map(str::to_owned).collect(),
            ..User::default()
        };
        let parts: Vec<&str> = path.split('|').collect();
        let is_resource = parts.len() == 5;
        let part = |index: usize| if is_resource { parts[index] } else { "" };
        let attributes = Attributes {
            user: &user,
            verb,
            group: part(0),
            version: "v1",
            resource: part(1),
            subresource: part(2),
            namespace: part(3),
            name: part(4),
            path,
            is_resource,
        };
        let verdict = policy.verdict(&attributes);
        let stages: String = [
            (super::policy::Stage::RequestReceived, "r"),
            (super::policy::Stage::ResponseStarted, "s"),
            (super::policy::Stage::ResponseComplete, "c"),
        ]
        .into_iter()
        .filter(|(stage, _)| verdict.level != Level::None && !verdict.omits(*stage))
        .map(|(_, letter)| letter)
        .collect();
        let managed = if verdict.omit_managed_fields { "" } else { "+managed" };
        let managed = if verdict.level == Level::None { "" } else { managed };
        assert_eq!(format!("{:?}:{stages}{managed}", verdict.level), *expected, "{line}");
    }
}

#[test]
fn invalid_policies_are_refused() {
    for case in REFUSED.split("---\n").filter(|case| !case.trim().is_empty()) {
        let (policy, reason) = case.trim_end().rsplit_once('\n').unwrap();
        let error = Policy::parse(policy).unwrap_err().to_string();
        let reason = reason.strip_prefix("# ").unwrap();
        assert!(error.contains(reason), "{policy}\n{error}");
    }
}

#[tokio::test]
async fn events_are_upstreams() {
    let log = Log::new(&policy("RequestResponse")).await;
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "b"}});
    let request = Request::post(format!("{CONFIG_MAPS}?fieldManager=t&x=y"))
        .header("content-type", "application/json")
        .header("user-agent", "u".repeat(2000))
        .header("audit-id", "given")
        .header("x-forwarded-for", "192.0.2.7, nonsense");
    let answer = read(log.cluster.raw(request.body(full(object.to_string())).unwrap()).await).await;
    assert_eq!(answer.headers["audit-id"], "given");
    let made = answer.ok();
    let [received, complete]: [Value; 2] = log.events().try_into().unwrap();
    let moment = |event: &Value, field: &str| -> jiff::Timestamp {
        let text = event[field].as_str().unwrap();
        assert!(text.len() == 27 && text.ends_with('Z'), "{text}");
        text.parse().unwrap()
    };
    let [began, ended] =
        ["requestReceivedTimestamp", "stageTimestamp"].map(|f| moment(&complete, f));
    assert!(began <= ended);
    let mut expected = json!({
        "kind": "Event",
        "apiVersion": "audit.k8s.io/v1",
        "level": "RequestResponse",
        "auditID": "given",
        "stage": "RequestReceived",
        "requestURI": format!("{CONFIG_MAPS}?fieldManager=t&x=y"),
        "verb": "create",
        "user": {"username": "admin", "groups": ["system:masters", "system:authenticated"]},
        "sourceIPs": ["192.0.2.7", "127.0.0.1"],
        "userAgent": format!("{}...TRUNCATED", "u".repeat(1024)),
        "objectRef": {"resource": "configmaps", "namespace": "default", "apiVersion": "v1"},
        "requestReceivedTimestamp": received["requestReceivedTimestamp"],
        "stageTimestamp": received["requestReceivedTimestamp"],
    });
    assert_eq!(received, expected);
    expected["stage"] = json!("ResponseComplete");
    expected["objectRef"]["name"] = json!("c");
    expected["responseStatus"] = json!({"metadata": {}, "code": 201});
    expected["requestObject"] = object;
    expected["responseObject"] = made;
    expected["stageTimestamp"] = complete["stageTimestamp"].clone();
    expected["annotations"] =
        json!({"authorization.k8s.io/decision": "allow", "authorization.k8s.io/reason": ""});
    assert_eq!(complete, expected);
}

#[tokio::test]
async fn metadata_has_no_bodies() {
    let log = Log::new(&policy("Metadata")).await;
    let secret = json!({"metadata": {"name": "s"}, "stringData": {"password": "hunter2"}});
    log.cluster.post("/api/v1/namespaces/default/secrets", &secret).await.ok();
    log.cluster.get("/api/v1/namespaces/default/secrets/s").await.ok();
    log.cluster.get("/api/v1/namespaces/default/secrets/none").await.fails(404);
    let events = log.events();
    let text = fs::read_to_string(log.path()).unwrap();
    assert!(!text.contains("hunter2") && !text.contains("aHVudGVyMg"));
    assert!(events.iter().all(|e| e["requestObject"].is_null() && e["responseObject"].is_null()));
    let status = &events.last().unwrap()["responseStatus"];
    assert_eq!(
        *status,
        json!({"metadata": {}, "status": "Failure", "message": "secrets \"none\" not found",
            "reason": "NotFound", "details": {"name": "none", "kind": "secrets"}, "code": 404})
    );
}

#[tokio::test]
async fn impersonation_and_refusal_are_recorded() {
    let log = Log::new(&policy("Request")).await;
    let uri = "/api/v1/namespaces/default/secrets";
    let request = Request::get(uri).header("impersonate-user", "jane").body(full("")).unwrap();
    read(log.cluster.raw(request).await).await.fails(403);
    let request =
        Request::get(uri).header("authorization", "Bearer nonsense").body(full("")).unwrap();
    read(log.cluster.server.handle(request).await).await.fails(401);
    let events = log.events();
    assert_eq!(events[1]["user"]["username"], "admin");
    assert_eq!(events[1]["impersonatedUser"]["username"], "jane");
    assert_eq!(events[1]["annotations"]["authorization.k8s.io/decision"], "forbid");
    assert_eq!(events[1]["responseStatus"]["reason"], "Forbidden");
    assert_eq!(events.len(), 3);
    assert_eq!(events[2]["stage"], "ResponseStarted");
    assert_eq!(events[2]["user"], json!({}));
    assert_eq!(events[2]["responseStatus"]["code"], 401);
}

#[tokio::test]
async fn watch_has_three_stages() {
    let log = Log::new(&policy("RequestResponse")).await;
    let mut watch = log.cluster.watch(&format!("{CONFIG_MAPS}?watch=true&resourceVersion=0")).await;
    let object = json!({"metadata": {"name": "c"}});
    log.cluster.post(CONFIG_MAPS, &object).await.ok();
    watch.next().await.unwrap();
    let stages = |events: &[Value]| -> Vec<String> {
        let watches = events.iter().filter(|event| event["verb"] == "watch");
        watches.map(|event| event["stage"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(stages(&log.events()), ["RequestReceived", "ResponseStarted"]);
    drop(watch);
    let events = log.events();
    assert_eq!(stages(&events), ["RequestReceived", "ResponseStarted", "ResponseComplete"]);
    assert!(events.last().unwrap()["responseObject"].is_null());
}

#[tokio::test]
async fn bodies_of_all_encodings_are_objects() {
    let omit = policy("Request")
        .replace("rules:", "omitManagedFields: true\nomitStages: [RequestReceived]\nrules:");
    let log = Log::new(&omit).await;
    let text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: conf, managedFields: []}\ndata: {a: b}\n";
    log.cluster.send(Method::POST, CONFIG_MAPS, "application/yaml", text).await.ok();
    let uri = format!("{CONFIG_MAPS}/conf");
    let patch = json!([{"op": "replace", "path": "/data/a", "value": "c"}]);
    log.cluster.patch(&uri, "json-patch", &patch).await.ok();
    let events = log.events();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "conf"}, "data": {"a": "b"}});
    assert_eq!(events[0]["requestObject"], object);
    assert_eq!(events[1]["requestObject"], patch);
    assert_eq!(events.len(), 2);
}

#[tokio::test]
async fn large_body_is_left_out() {
    let log = Log::new(&policy("RequestResponse")).await;
    for n in 0..5 {
        let object =
            json!({"metadata": {"name": format!("c{n}")}, "data": {"a": "x".repeat(900_000)}});
        log.cluster.post(CONFIG_MAPS, &object).await.ok();
    }
    let made = log.events().len();
    let reads = |events: Vec<Value>| {
        events.into_iter().skip(made).find(|e| e["stage"] == "ResponseComplete")
    };
    // A list of 4.5 MB is recorded, one above the bound is not.
    let listed = log.cluster.get(CONFIG_MAPS).await.ok();
    assert_eq!(reads(log.events()).unwrap()["responseObject"], listed);
    for n in 5..13 {
        let object =
            json!({"metadata": {"name": format!("c{n}")}, "data": {"a": "x".repeat(900_000)}});
        log.cluster.post(CONFIG_MAPS, &object).await.ok();
    }
    log.cluster.get(CONFIG_MAPS).await.ok();
    let last = log.events().pop().unwrap();
    assert_eq!(last["annotations"]["audit.k8s.io/truncated"], "true");
    assert!(last["responseObject"].is_null());
}

#[tokio::test]
async fn request_given_up_is_recorded() {
    let log =
        Log::new(&policy("Metadata").replace("rules:", "omitStages: [RequestReceived]\nrules:"))
            .await;
    let body = crate::body::stream(futures::stream::pending());
    let request = Request::post(CONFIG_MAPS).body(body).unwrap();
    let answer = log.cluster.raw(request);
    let early = std::time::Duration::from_millis(100);
    assert!(tokio::time::timeout(early, answer).await.is_err());
    let [event]: [Value; 1] = log.events().try_into().unwrap();
    assert_eq!(event["stage"], "ResponseComplete");
    assert_eq!(event["responseStatus"]["message"], "Connection closed early");
    assert_eq!(event["verb"], "create");
}

#[tokio::test]
async fn without_log_no_identifier_is_made() {
    let cluster = Cluster::new().await;
    assert!(cluster.get(CONFIG_MAPS).await.headers.get("audit-id").is_none());
}
