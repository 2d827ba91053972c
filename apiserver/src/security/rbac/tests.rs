//! Who may what.

#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::security::objects::ObjectChange;

type Key = (String, String, String, String);
type Log = Arc<Mutex<Vec<(Key, Parsed)>>>;
type Parsed = Option<Arc<PolicyObject>>;

/// Objects in a map, with what happened to them.
#[derive(Default)]
pub(crate) struct Fake {
    objects: Mutex<BTreeMap<Key, (Bytes, Parsed)>>,
    log: Log,
}

impl Fake {
    pub(crate) fn put(&self, group: &str, plural: &str, object: &Value) {
        let text = |field: &str| object["metadata"][field].as_str().unwrap_or("").to_owned();
        let key = (group.to_owned(), plural.to_owned(), text("namespace"), text("name"));
        let value: Bytes = object.to_string().into();
        let parsed = PolicyObject::read(group, plural, object);
        self.objects.lock().unwrap().insert(key.clone(), (value, parsed.clone()));
        self.log.lock().unwrap().push((key, parsed));
    }

    pub(crate) fn remove(&self, group: &str, plural: &str, namespace: &str, name: &str) {
        let key: Key = (group.into(), plural.into(), namespace.into(), name.into());
        self.objects.lock().unwrap().remove(&key).unwrap();
        self.log.lock().unwrap().push((key, None));
    }

    pub(crate) fn with_defaults() -> Arc<Self> {
        let fake = Self::default();
        for (plural, object) in default_objects() {
            fake.put(GROUP, plural, &object);
        }
        Arc::new(fake)
    }
}

/// Follows the log, and forgets what happened at every seventh look.
struct FakeChanges {
    log: Log,
    of: (String, String),
    at: usize,
    looks: usize,
}

impl Changes for FakeChanges {
    fn poll(&mut self) -> Option<Vec<ObjectChange>> {
        let log = self.log.lock().unwrap();
        let from = std::mem::replace(&mut self.at, log.len());
        self.looks += 1;
        (self.looks % 7 != 1).then(|| {
            let changes = log.iter().enumerate().skip(from);
            let own = changes.filter(|(_, ((group, plural, ..), _))| {
                (group, plural) == (&self.of.0, &self.of.1)
            });
            let change = |(at, ((_, _, namespace, name), object)): (usize, &(Key, Parsed))| {
                let (namespace, name, object) = (namespace.clone(), name.clone(), object.clone());
                ObjectChange { namespace, name, object, revision: at as u64 + 1 }
            };
            own.map(change).collect()
        })
    }
}

impl Objects for Fake {
    fn get(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<Bytes> {
        let key = (group.into(), plural.into(), namespace.into(), name.into());
        self.objects.lock().unwrap().get(&key).map(|(value, _)| value.clone())
    }

    fn uid(&self, group: &str, plural: &str, namespace: &str, name: &str) -> Option<String> {
        let object = self.get(group, plural, namespace, name)?;
        let object: Value = serde_json::from_slice(&object).unwrap();
        Some(object["metadata"]["uid"].as_str().unwrap_or_default().to_owned())
    }

    fn list(&self, group: &str, plural: &str) -> Vec<Arc<PolicyObject>> {
        let objects = self.objects.lock().unwrap();
        objects
            .iter()
            .filter(|(k, _)| k.0 == group && k.1 == plural)
            .filter_map(|(_, (_, parsed))| parsed.clone())
            .collect()
    }

    fn revision(&self) -> u64 {
        self.log.lock().unwrap().len() as u64
    }

    fn changes(&self, group: &str, plural: &str) -> Box<dyn Changes> {
        let (log, of) = (self.log.clone(), (group.to_owned(), plural.to_owned()));
        Box::new(FakeChanges { log, of, at: 0, looks: 0 })
    }
}

/// `verb group resource[/sub] [namespace[/name]]`, or `verb /path`.
fn asks(rbac: &Rbac, user: &User, request: &str) -> Decision {
    let words: Vec<&str> = request.split(' ').collect();
    let path = words[1].starts_with('/');
    let (resource, subresource) =
        if path { ("", "") } else { words[2].split_once('/').unwrap_or((words[2], "")) };
    let place = words.get(3).copied().unwrap_or("");
    let (namespace, name) = place.split_once('/').unwrap_or((place, ""));
    rbac.authorize(&Attributes {
        user,
        verb: words[0],
        group: if path || words[1] == "core" { "" } else { words[1] },
        version: "v1",
        resource,
        subresource,
        namespace,
        name,
        path: if path { words[1] } else { "" },
        is_resource: !path,
    })
}

fn binding(kind: &str, namespace: &str, role: (&str, &str), subject: Value) -> Value {
    let name = format!("{}-binding", role.1);
    json!({ "kind": kind, "metadata": { "name": name, "namespace": namespace },
            "roleRef": { "apiGroup": GROUP, "kind": role.0, "name": role.1 },
            "subjects": [subject] })
}

#[test]
fn components_may_do_what_they_do() {
    let rbac = Rbac::new(Fake::with_defaults());
    let manager = User::authenticated("system:kube-controller-manager", &[]);
    let scheduler = User::authenticated("system:kube-scheduler", &[]);
    let node = User::authenticated("system:node:n1", &["system:nodes"]);
    let proxy = User::authenticated("system:kube-proxy", &[]);
    let dns = User::authenticated("system:kube-dns", &[]);
    let table: &[(&User, &str)] = &[
        (&manager, "create core pods default"),
        (&manager, "patch apps deployments/status default/web"),
        (&manager, "update core namespaces/finalize a/a"),
        (&manager, "create core serviceaccounts default"),
        (&manager, "delete example.com widgets default/x"),
        (&manager, "watch apps replicasets"),
        (&scheduler, "create core pods/binding default/p"),
        (&scheduler, "patch core pods/status default/p"),
        (&scheduler, "create events.k8s.io events default"),
        (&node, "create core nodes"),
        (&node, "patch core nodes/status"),
        (&node, "patch core pods/status default/p"),
        (&node, "create core serviceaccounts/token default/default"),
        (&node, "update coordination.k8s.io leases kube-node-lease/n1"),
        (&proxy, "watch discovery.k8s.io endpointslices"),
        (&dns, "list core services"),
    ];
    for (user, request) in table {
        assert!(asks(&rbac, user, request).allowed, "{} {request}", user.name);
    }
    assert!(!asks(&rbac, &scheduler, "create core pods default").allowed);
    assert!(!asks(&rbac, &dns, "get core secrets default/x").allowed);
    assert!(!asks(&rbac, &proxy, "delete core services default/x").allowed);
}

#[test]
fn strangers_see_health_and_nothing_else() {
    let rbac = Rbac::new(Fake::with_defaults());
    let nobody = User::anonymous();
    for path in ["/healthz", "/livez", "/readyz", "/version"] {
        assert!(asks(&rbac, &nobody, &format!("get {path}")).allowed, "{path}");
    }
    for request in ["get /api", "get /metrics", "list core pods default", "post /healthz"] {
        assert!(!asks(&rbac, &nobody, request).allowed, "{request}");
    }
    let known = User::authenticated("jane", &[]);
    assert!(asks(&rbac, &known, "get /apis/apps/v1").allowed);
    assert!(asks(&rbac, &known, "create authorization.k8s.io selfsubjectaccessreviews").allowed);
    assert!(!asks(&rbac, &known, "list core pods default").allowed);
}

#[test]
fn bindings_take_effect_at_once_and_only_where_they_are() {
    let fake = Fake::with_defaults();
    let rbac = Rbac::new(fake.clone());
    let builder = User::authenticated(
        "system:serviceaccount:ci:builder",
        &["system:serviceaccounts", "system:serviceaccounts:ci"],
    );
    assert!(!asks(&rbac, &builder, "create apps deployments dev").allowed);
    let subject = json!({ "kind": "ServiceAccount", "namespace": "ci", "name": "builder" });
    let grant = binding("RoleBinding", "dev", ("ClusterRole", "edit"), subject);
    fake.put(GROUP, "rolebindings", &grant);
    let decision = asks(&rbac, &builder, "create apps deployments dev");
    assert!(decision.allowed);
    assert_eq!(
        decision.reason,
        "RBAC: allowed by RoleBinding \"edit-binding/dev\" of ClusterRole \"edit\" to \
         ServiceAccount \"builder/ci\""
    );
    // edit aggregates view.
    assert!(asks(&rbac, &builder, "watch core configmaps dev").allowed);
    assert!(!asks(&rbac, &builder, "create apps deployments prod").allowed);
    assert!(!asks(&rbac, &builder, "create rbac.authorization.k8s.io roles dev").allowed);
    fake.remove(GROUP, "rolebindings", "dev", "edit-binding");
    assert!(!asks(&rbac, &builder, "create apps deployments dev").allowed);
}

#[test]
fn rules_match_as_upstreams() {
    let rule = |rule: Value| -> Rule { serde_json::from_value(rule).unwrap() };
    let fake = Fake::default();
    let fake = Arc::new(fake);
    let rbac = Rbac::new(fake.clone());
    let user = User::authenticated("u", &[]);
    let rules = [
        rule(
            json!({"verbs": ["get"], "apiGroups": [""], "resources": ["configmaps"], "resourceNames": ["a"]}),
        ),
        rule(json!({"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]})),
        rule(
            json!({"verbs": ["*"], "apiGroups": ["x"], "resources": ["*"], "resourceNames": null}),
        ),
        rule(json!({"verbs": ["get"], "nonResourceURLs": ["/logs/*"]})),
    ];
    let role = json!({ "metadata": { "name": "r", "namespace": "n" }, "rules": rules });
    fake.put(GROUP, "clusterroles", &role);
    let mut role = role;
    role["metadata"] = json!({ "name": "r" });
    fake.put(GROUP, "clusterroles", &role);
    let subject = json!({ "kind": "User", "name": "u" });
    fake.put(
        GROUP,
        "clusterrolebindings",
        &binding("ClusterRoleBinding", "", ("ClusterRole", "r"), subject),
    );
    let table = [
        ("get core configmaps n/a", true),
        ("get core configmaps n/b", false),
        ("list core configmaps n", false),
        ("update apps deployments/scale n/d", true),
        ("update apps deployments n/d", false),
        ("delete x anything/sub n/d", true),
        ("get /logs/", true),
        ("get /logs/a", true),
        ("get /logs", false),
    ];
    for (request, allowed) in table {
        assert_eq!(asks(&rbac, &user, request).allowed, allowed, "{request}");
    }
}

#[test]
fn a_missing_role_is_named() {
    let fake = Fake::with_defaults();
    let rbac = Rbac::new(fake.clone());
    let subject = json!({ "kind": "User", "name": "u" });
    fake.put(GROUP, "rolebindings", &binding("RoleBinding", "n", ("Role", "gone"), subject));
    let decision = asks(&rbac, &User::authenticated("u", &[]), "get core pods n/p");
    assert_eq!(decision.reason, "RBAC: role.rbac.authorization.k8s.io \"gone\" not found");
}

#[test]
fn nobody_hands_out_more_than_they_hold() {
    let fake = Fake::with_defaults();
    let rbac = Rbac::new(fake.clone());
    let admin = User::authenticated("lead", &[]);
    let subject = json!({ "kind": "User", "name": "lead" });
    fake.put(
        GROUP,
        "rolebindings",
        &binding("RoleBinding", "n", ("ClusterRole", "admin"), subject),
    );
    let role = |verbs: Value| {
        json!({ "metadata": { "name": "r", "namespace": "n" },
                "rules": [{ "verbs": verbs, "apiGroups": ["apps"], "resources": ["deployments"] }] })
    };
    rbac.check_write(&admin, "roles", "n", &role(json!(["get", "create"])), None).unwrap();
    let refused = rbac.check_write(&admin, "roles", "n", &role(json!(["*"])), None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"lead\" \
         (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently \
         held:\n{APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"*\"]}"
    );
    // What is missing is named by resource, and nothing besides.
    let two = json!({ "metadata": { "name": "r", "namespace": "n" }, "rules": [
        { "verbs": ["get", "list"], "apiGroups": [""], "resources": ["nodes", "pods"] },
        { "verbs": ["delete"], "apiGroups": [""], "resources": ["nodes"] },
    ] });
    let refused = rbac.check_write(&admin, "roles", "n", &two, None).unwrap_err().to_string();
    assert_eq!(
        refused.split_once('\n').unwrap().1,
        "{APIGroups:[\"\"], Resources:[\"nodes\"], Verbs:[\"get\" \"list\" \"delete\"]}"
    );
    // An update that leaves the rules alone is fine.
    let old = role(json!(["*"]));
    rbac.check_write(&admin, "roles", "n", &old, Some(&old)).unwrap();

    let jane = json!({ "kind": "User", "name": "jane" });
    let ok = binding("RoleBinding", "n", ("ClusterRole", "view"), jane.clone());
    rbac.check_write(&admin, "rolebindings", "n", &ok, None).unwrap();
    let too_much = binding("RoleBinding", "n", ("ClusterRole", "cluster-admin"), jane.clone());
    rbac.check_write(&admin, "rolebindings", "n", &too_much, None).unwrap_err();
    let unknown = binding("RoleBinding", "n", ("Role", "gone"), jane);
    rbac.check_write(&admin, "rolebindings", "n", &unknown, None).unwrap_err();
    let master = User::authenticated("root", &[MASTERS]);
    rbac.check_write(&master, "rolebindings", "n", &too_much, None).unwrap();
}

#[test]
fn only_what_is_missing_is_written_again() {
    let fake = Fake::with_defaults();
    assert!(missing_objects(&*fake).is_empty());
    fake.remove(GROUP, "clusterroles", "", "view");
    let missing = missing_objects(&*fake);
    assert_eq!(missing.len(), 1);
    assert_eq!(
        missing[0].1["metadata"]["labels"]["rbac.authorization.k8s.io/aggregate-to-edit"],
        "true"
    );
    assert!(missing[0].1["rules"].as_array().unwrap().len() > 5);
}

/// A role of so many rules with so many resources each, none of which any request names.
fn idle_role(name: &str, rules: usize, resources: usize) -> Value {
    let resource = |at: usize| (0..resources).map(|of| format!("r{at}-{of}")).collect::<Vec<_>>();
    let rule = |at| json!({"verbs": ["get"], "apiGroups": [""], "resources": resource(at)});
    let rules: Vec<Value> = (0..rules).map(rule).collect();
    json!({"kind": "Role", "metadata": {"name": name, "namespace": "dev"}, "rules": rules})
}

fn bind_times(fake: &Fake, role: &str, times: usize) {
    for at in 0..times {
        let subject = json!({"kind": "User", "name": "jane"});
        let mut binding = binding("RoleBinding", "dev", ("Role", role), subject);
        binding["metadata"]["name"] = format!("{role}-{at}").into();
        fake.put(GROUP, "rolebindings", &binding);
    }
}

#[test]
fn role_bound_often_is_compared_once() {
    let fake = Arc::new(Fake::default());
    fake.put(GROUP, "roles", &idle_role("large", 10_000, 1));
    bind_times(&fake, "large", 5_000);
    let rbac = Rbac::new(fake.clone());
    let jane = User::authenticated("jane", &[]);
    let decision = asks(&rbac, &jane, "get core none dev/x");
    // Compared once for each binding, the rules would exceed the bound, and the reason would say so.
    assert!(!decision.allowed && decision.reason.is_empty(), "{}", decision.reason);
    assert!(asks(&rbac, &jane, "get core r9999-0 dev/x").allowed);
}

#[test]
fn too_many_rules_are_not_compared() {
    let fake = Arc::new(Fake::default());
    for role in ["a", "b"] {
        fake.put(GROUP, "roles", &idle_role(role, 1000, 130));
        bind_times(&fake, role, 1);
    }
    let rbac = Rbac::new(fake);
    let jane = User::authenticated("jane", &[]);
    let decision = asks(&rbac, &jane, "get core none dev/x");
    assert!(!decision.allowed);
    assert!(decision.reason.contains("more bindings and rules"), "{}", decision.reason);
    assert!(!asks(&rbac, &User::authenticated("joe", &[]), "get core x dev/x").allowed);
}

#[test]
fn too_many_bindings_are_not_followed() {
    let fake = Fake::with_defaults();
    fake.put(GROUP, "roles", &idle_role("idle", 1, 1));
    bind_times(&fake, "idle", 10_001);
    let view = json!({"kind": "User", "name": "jane"});
    let mut view = binding("ClusterRoleBinding", "", ("ClusterRole", "view"), view);
    fake.put(GROUP, "clusterrolebindings", &view);
    let rbac = Rbac::new(fake.clone());
    let jane = User::authenticated("jane", &[]);
    let decision = asks(&rbac, &jane, "get core none dev/x");
    assert!(!decision.allowed);
    assert!(decision.reason.contains("more bindings and rules"), "{}", decision.reason);
    // Bindings of the cluster come first, whatever is in the namespace.
    assert!(asks(&rbac, &jane, "get core pods dev/x").allowed);
    assert!(!asks(&rbac, &jane, "get core none other/x").reason.contains("more bindings"));
    // One that sorts behind the others is not reached.
    view["metadata"] = json!({"name": "z", "namespace": "dev"});
    fake.put(GROUP, "rolebindings", &view);
    fake.remove(GROUP, "clusterrolebindings", "", "view-binding");
    assert!(!asks(&rbac, &jane, "get core pods dev/x").allowed);
}

#[test]
fn too_many_groups_are_not_looked_up() {
    let rbac = Rbac::new(Fake::with_defaults());
    let groups: Vec<String> = (0..11_000).map(|group| group.to_string()).collect();
    let user = User { name: "jane".into(), groups, ..User::default() };
    assert!(asks(&rbac, &user, "get core pods dev/x").reason.contains("more bindings and rules"));
}

#[test]
fn escalation_check_with_too_many_bindings_refuses() {
    let fake = Fake::with_defaults();
    let subject = json!({"kind": "User", "name": "jane"});
    let mut admin = binding("RoleBinding", "dev", ("ClusterRole", "admin"), subject);
    fake.put(GROUP, "rolebindings", &admin);
    fake.put(GROUP, "roles", &idle_role("idle", 1, 1));
    bind_times(&fake, "idle", 10_000);
    let rbac = Rbac::new(fake.clone());
    let jane = User::authenticated("jane", &[]);
    let role = |resource: &str| {
        json!({"metadata": {"name": "r", "namespace": "dev"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]})
    };
    // Held by a binding that comes within the bound.
    rbac.check_write(&jane, "roles", "dev", &role("pods"), None).unwrap();
    let refused = |resource: &str| {
        rbac.check_write(&jane, "roles", "dev", &role(resource), None).unwrap_err().to_string()
    };
    assert!(refused("nodes").contains("more bindings and rules"), "{}", refused("nodes"));
    // Held, but behind the others.
    fake.remove(GROUP, "rolebindings", "dev", "admin-binding");
    admin["metadata"]["name"] = "z".into();
    fake.put(GROUP, "rolebindings", &admin);
    assert!(refused("pods").contains("more bindings and rules"), "{}", refused("pods"));
    let held = rbac.rules_for(&jane, "dev");
    assert!(held.incomplete.is_some());
    assert!(rbac.rules_for(&jane, "other").incomplete.is_none());
}

/// Decisions of a policy that follows changes are those of one that reads everything.
#[test]
fn following_changes_leads_to_the_same_policy() {
    let fake = Fake::with_defaults();
    let rbac = Rbac::new(fake.clone());
    let mut seed = 7_u64;
    let mut below = |max: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % max
    };
    let users = ["jane", "joe"].map(|name| User::authenticated(name, &["team"]));
    for _ in 0..600 {
        let (namespace, role) = (["a", "b"][below(2) as usize], format!("r{}", below(3)));
        let cluster = below(2) == 0;
        let place = if cluster { "" } else { namespace };
        let (role_type, binding_type) = match cluster {
            true => ("clusterroles", "clusterrolebindings"),
            false => ("roles", "rolebindings"),
        };
        let subjects = [
            json!({"kind": "User", "name": "jane"}),
            json!({"kind": "User", "name": "joe"}),
            json!({"kind": "Group", "name": "team"}),
        ];
        match below(5) {
            0 => {
                let verbs: Vec<&str> =
                    ["get", "list", "watch"].into_iter().filter(|_| below(2) == 0).collect();
                fake.put(
                    GROUP,
                    role_type,
                    &json!({"metadata": {"name": role, "namespace": place,
                        "labels": {"part": role}},
                        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": ["pods"]}]}),
                );
            }
            1 => fake.put(
                GROUP,
                "clusterroles",
                &json!({"metadata": {"name": "r2"}, "aggregationRule": {
                    "clusterRoleSelectors": [{"matchLabels": {"part": role}}]}}),
            ),
            2 | 3 => {
                let kind = if cluster || below(2) == 0 { "ClusterRole" } else { "Role" };
                let mut object =
                    binding(kind, place, (kind, &role), subjects[below(3) as usize].clone());
                object["metadata"]["name"] = format!("b{}", below(4)).into();
                let second = subjects[below(3) as usize].clone();
                object["subjects"].as_array_mut().unwrap().push(second);
                fake.put(GROUP, binding_type, &object);
            }
            _ => {
                let (plural, name) = match below(2) {
                    0 => (role_type, role),
                    _ => (binding_type, format!("b{}", below(4))),
                };
                if fake.get(GROUP, plural, place, &name).is_some() {
                    fake.remove(GROUP, plural, place, &name);
                }
            }
        }
        if below(3) == 0 {
            continue;
        }
        let fresh = Rbac::new(fake.clone());
        for user in &users {
            for request in ["get core pods a/x", "list core pods b", "watch core pods"] {
                let (followed, read) = (asks(&rbac, user, request), asks(&fresh, user, request));
                assert_eq!(followed.allowed, read.allowed, "{request}");
                assert_eq!(followed.reason, read.reason, "{request}");
            }
            assert_eq!(rbac.rules_for(user, "a").rules, fresh.rules_for(user, "a").rules);
        }
    }
}

/// The policy holds what was read when an object was written, whether changes are known or all are
/// listed.
#[test]
fn policy_shares_what_writers_read() {
    let fake = Fake::with_defaults();
    let rbac = Rbac::new(fake.clone());
    let kept = |name: &str| rbac.policy().role("Role", "a", name).unwrap()[0].clone();
    let written = |name: &str| {
        let objects = fake.list(GROUP, "roles");
        let mut roles = objects.iter().filter_map(|object| object.role());
        roles.find(|role| &*role.name == name).unwrap().rules.clone()
    };
    let role = |name: &str| {
        json!({"metadata": {"name": name, "namespace": "a"},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": [name]}]})
    };
    fake.put(GROUP, "roles", &role("large"));
    for number in 0..20 {
        let name = format!("r{number}");
        fake.put(GROUP, "roles", &role(&name));
        assert!(Arc::ptr_eq(&kept(&name), &written(&name)));
        assert!(Arc::ptr_eq(&kept("large"), &written("large")), "after change {number}");
    }
    let before = kept("large");
    fake.put(GROUP, "roles", &role("large"));
    assert!(!Arc::ptr_eq(&before, &kept("large")));
}

#[test]
fn relist_finds_what_changed() {
    let fake = Fake::with_defaults();
    let role = |name: &str| json!({"metadata": {"name": name, "namespace": "a"}, "rules": []});
    ["kept", "changed", "gone"].iter().for_each(|name| fake.put(GROUP, "roles", &role(name)));
    let rbac = Rbac::new(fake.clone());
    assert!(rbac.policy().differences(Type::Roles, fake.list(GROUP, "roles")).is_empty());
    // The same bytes, but written again.
    fake.put(GROUP, "roles", &role("changed"));
    fake.put(GROUP, "roles", &role("new"));
    fake.remove(GROUP, "roles", "a", "gone");
    let changes = rbac.read().differences(Type::Roles, fake.list(GROUP, "roles"));
    let brief: Vec<(&str, &str, bool)> = changes
        .iter()
        .map(|change| (&*change.namespace, &*change.name, change.object.is_some()))
        .collect();
    assert_eq!(brief, [("a", "changed", true), ("a", "new", true), ("a", "gone", false)]);
}

#[test]
fn unreadable_role_grants_nothing() {
    let fake = Fake::with_defaults();
    let subject = json!({"kind": "User", "name": "jane"});
    fake.put(GROUP, "rolebindings", &binding("RoleBinding", "dev", ("Role", "idle"), subject));
    fake.put(GROUP, "roles", &idle_role("idle", 1, 1));
    let rbac = Rbac::new(fake.clone());
    let jane = User::authenticated("jane", &[]);
    assert!(asks(&rbac, &jane, "get core r0-0 dev/x").allowed);
    let mut broken = idle_role("idle", 1, 1);
    broken["rules"][0]["verbs"] = json!([7]);
    fake.put(GROUP, "roles", &broken);
    assert!(!asks(&rbac, &jane, "get core r0-0 dev/x").allowed);
}
