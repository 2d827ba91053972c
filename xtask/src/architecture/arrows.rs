//! Which crate may link which, and which library belongs to whom.

use serde_json::Value;

use super::{members, text};

const ALL: &[&str] = &[
    "coracle-api",
    "coracle-store",
    "coracle-apiserver",
    "coracle-controllers",
    "coracle-agent",
    "coracle-runtime",
    "coracle-netproxy",
    "coracle-dns",
    "coracle-watch",
];

/// Each crate with those of the workspace that it may link. Components meet in the API, so that
/// none of them links another; only wiring links them all.
const ARROWS: &[(&str, &[&str])] = &[
    ("coracle-api", &[]),
    ("coracle-store", &[]),
    ("coracle-runtime", &[]),
    ("coracle-apiserver", &["coracle-api", "coracle-store"]),
    ("coracle-watch", &[]),
    ("coracle-controllers", &["coracle-api", "coracle-watch"]),
    ("coracle-agent", &["coracle-api", "coracle-runtime", "coracle-netproxy", "coracle-watch"]),
    ("coracle-netproxy", &["coracle-api", "coracle-watch"]),
    ("coracle-dns", &["coracle-api", "coracle-watch"]),
    ("coracle", ALL),
    ("coracle-fuzz", &[]),
    ("coracle-integration", &[]),
    ("coracle-xtask", &[]),
];

/// Libraries that stand for a job, with the crates that do it: bytes on disk belong to the store,
/// Kubernetes is unknown to store and runtime, HTTP is not served by controllers, and so on. The
/// end-to-end tests have the client that they try the product with.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("redb", &["coracle-store"]),
    ("reqwest", &["coracle-runtime"]),
    ("tar", &["coracle-runtime", "coracle"]),
    ("caps", &["coracle-runtime"]),
    ("clap", &["coracle"]),
    ("indicatif", &["coracle"]),
    ("tracing-subscriber", &["coracle"]),
    ("rcgen", &["coracle-apiserver"]),
    ("json-patch", &["coracle-apiserver"]),
    (
        "kube",
        &[
            "coracle-watch",
            "coracle-controllers",
            "coracle-agent",
            "coracle-netproxy",
            "coracle-dns",
            "coracle",
            "coracle-integration",
        ],
    ),
    (
        "k8s-openapi",
        &[
            "coracle-api",
            "coracle-apiserver",
            "coracle-controllers",
            "coracle-agent",
            "coracle-netproxy",
            "coracle-dns",
            "coracle",
            "coracle-integration",
        ],
    ),
];

/// Every arrow that should not be.
pub fn violations(metadata: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let ours: Vec<&str> = members(metadata).map(|package| text(package, "name")).collect();
    for (name, _) in ARROWS.iter().filter(|(name, _)| !ours.contains(name)) {
        found.push(format!("{name} is in the table of arrows and not in the workspace"));
    }
    for package in members(metadata) {
        let name = text(package, "name");
        let Some((_, allowed)) = ARROWS.iter().find(|(known, _)| *known == name) else {
            found.push(format!("{name} is in the workspace and not in the table of arrows"));
            continue;
        };
        for linked in linked(package) {
            if ours.contains(&linked) && !allowed.contains(&linked) {
                found.push(format!("{name} must not link {linked}"));
            }
            let owners = LIBRARIES.iter().find(|(library, _)| *library == linked);
            if let Some((_, owners)) = owners
                && !owners.contains(&name)
            {
                found.push(format!("{name} must not link {linked}: that is for {owners:?}"));
            }
        }
    }
    found
}

/// What a package links into the product: neither the dependencies of its tests nor what a
/// feature that is never built would add.
fn linked(package: &Value) -> impl Iterator<Item = &str> {
    let dependencies = package["dependencies"].as_array().into_iter().flatten();
    dependencies
        .filter(|dependency| text(dependency, "kind") != "dev" && dependency["optional"] != true)
        .map(|dependency| text(dependency, "name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A package with its dependencies and their kinds.
    type Package<'a> = (&'a str, &'a [(&'a str, Option<&'a str>)]);

    /// A workspace of these packages.
    fn workspace(packages: &[Package<'_>]) -> Value {
        let id = |name: &str| format!("path+file:///{name}");
        let of = |dependencies: &[(&str, Option<&str>)]| -> Vec<Value> {
            let one = |(name, kind): &(&str, Option<&str>)| json!({"name": name, "kind": kind});
            dependencies.iter().map(one).collect()
        };
        let packages: Vec<Value> = packages
            .iter()
            .map(|(name, list)| json!({"id": id(name), "name": name, "dependencies": of(list)}))
            .collect();
        let members: Vec<Value> = packages.iter().map(|package| package["id"].clone()).collect();
        json!({ "packages": packages, "workspace_members": members })
    }

    /// The violations among these packages, not those for want of the others.
    fn found(packages: &[Package<'_>]) -> Vec<String> {
        let mut found = violations(&workspace(packages));
        found.retain(|line| !line.contains("not in the workspace"));
        found
    }

    #[test]
    fn allowed_arrows_pass() {
        let packages: &[Package<'_>] = &[
            ("coracle-api", &[("serde_json", None)]),
            ("coracle-store", &[("redb", None)]),
            ("coracle-apiserver", &[("coracle-api", None), ("coracle-store", None)]),
            ("coracle", &[("coracle-store", None), ("clap", None)]),
        ];
        assert_eq!(found(packages), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_found() {
        let packages: &[Package<'_>] = &[
            ("coracle-api", &[("coracle-store", None)]),
            ("coracle-store", &[]),
            ("coracle-controllers", &[("coracle-store", Some("build"))]),
        ];
        assert_eq!(
            found(packages),
            [
                "coracle-api must not link coracle-store",
                "coracle-controllers must not link coracle-store"
            ]
        );
    }

    #[test]
    fn tests_may_reach_further() {
        let packages: &[Package<'_>] =
            &[("coracle-apiserver", &[("coracle-agent", Some("dev"))]), ("coracle-agent", &[])];
        assert_eq!(found(packages), Vec::<String>::new());
    }

    #[test]
    fn libraries_have_owners() {
        let packages: &[Package<'_>] = &[("coracle-runtime", &[("kube", None)])];
        assert_eq!(found(packages).len(), 1);
    }

    #[test]
    fn the_table_is_complete() {
        let lines = violations(&workspace(&[("coracle-new", &[])]));
        assert!(lines.iter().any(|line| line.starts_with("coracle-new is in the workspace")));
        assert!(lines.iter().any(|line| line.starts_with("coracle-dns is in the table")));
    }
}
