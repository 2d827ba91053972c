//! Prints docs/supported.md: every resource that is served, and every field that is accepted and
//! not acted on. `cargo xtask generate-supported` writes it.

use std::collections::BTreeMap;
use std::fmt::Write;

use coracle_api::registry::{ALL_VERBS, Served, resources};
use coracle_api::unsupported::{FIELD_RULES, KIND_RULES, When};
use coracle_api::{Persistence, Resource};

fn main() {
    print!("{}", page());
}

const HEAD: &str = "\
<!-- Written by `cargo xtask generate-supported` from the registry of kinds; do not edit. -->

# What is supported

Every resource that the API serves, with its verbs and subresources, and every kind and field that is
accepted and **not acted on**. A write of one of those is answered with a `Warning:` header that names it, which kubectl
prints; the templates of Deployments, Jobs and the like are looked through, too.

What stands in neither list is acted on as Kubernetes 1.33 does, or refused with upstream's error. Preferences among
nodes and zones (`preferredDuringSchedulingIgnoredDuringExecution`, `trafficDistribution`, topology hints) are
satisfied by the one node there is.
";

const REFUSED: &str = "\
## Refused

| what | answer |
| --- | --- |
| `pods/resize` | 422 `Pod running on node without support for resize` |
| a pod that names a RuntimeClass | 403, there are no RuntimeClasses |
| `appArmorProfile.type: Localhost` | the pod fails with reason AppArmor |
| `hostUsers: false` | the pod is not started, its status says why |
| sysctls outside the safe list | the pod fails with reason SysctlForbidden |
| IPv6 and dual-stack Services that require it | 422 |
| every kind that is not listed above | 404 (custom resources, webhook configurations, admission policies, \
CertificateSigningRequests, CSI kinds, APIServices, FlowSchemas) |
";

/// The whole page.
pub fn page() -> String {
    let mut page = String::from(HEAD);
    let mut groups: BTreeMap<&str, Vec<&Resource>> = BTreeMap::new();
    for resource in resources() {
        groups.entry(resource.storage().group).or_default().push(resource);
    }
    page.push_str("\n## Resources\n\n");
    page.push_str("| group | kind | versions | verbs | subresources | note |\n");
    page.push_str("| --- | --- | --- | --- | --- | --- |\n");
    for (group, resources) in groups {
        let group = if group.is_empty() { "core" } else { group };
        for resource in resources {
            let _ = writeln!(page, "| {group} | {}", row(resource));
        }
    }
    page.push_str("\n## Kinds that are not acted on\n\n| kind | warning |\n| --- | --- |\n");
    for rule in KIND_RULES {
        let when = if rule.only_create { " (at creation)" } else { "" };
        let _ = writeln!(page, "| {} | {}{when} |", rule.kind, rule.effect);
    }
    page.push_str(
        "\n## Fields that are not acted on\n\n| field | values | warning |\n| --- | --- | --- |\n",
    );
    for rule in FIELD_RULES {
        let message = rule.message.rsplit('.').next().unwrap_or_default();
        let _ = writeln!(
            page,
            "| `{message}.{}` | {} | {} |",
            rule.field,
            values(&rule.when),
            rule.effect
        );
    }
    page.push('\n');
    page.push_str(REFUSED);
    page
}

fn row(resource: &Resource) -> String {
    let storage = resource.storage();
    let version = |served: &Served| match served.group == storage.group {
        true => served.version.to_owned(),
        false => served.api_version(),
    };
    let versions: Vec<String> = resource.served.iter().map(version).collect();
    let verbs = match resource.verbs == ALL_VERBS {
        true => "all".to_owned(),
        false => resource.verbs.join(", "),
    };
    let own = [("scale", resource.has_scale), ("status", resource.has_status)];
    let own = own.into_iter().filter(|(_, has)| *has).map(|(name, _)| name);
    let mut subresources: Vec<&str> = resource.subresources.iter().map(|s| s.name).collect();
    subresources.extend(own);
    subresources.sort_unstable();
    let mut notes = Vec::new();
    if KIND_RULES.iter().any(|rule| rule.kind == storage.kind && rule.group == storage.group) {
        notes.push("Warning, see below");
    }
    if !resource.namespaced {
        notes.push("cluster-scoped");
    }
    notes.extend(match resource.persistence {
        Persistence::Durable => None,
        Persistence::Lazy => Some("written to disk a little later"),
        Persistence::Volatile => Some("in memory only"),
        Persistence::None => Some("answered, not stored"),
    });
    format!(
        "{} | {} | {verbs} | {} | {} |",
        storage.kind,
        versions.join(", "),
        subresources.join(", "),
        notes.join("; ")
    )
}

fn values(when: &When) -> String {
    match when {
        When::Set => "any".to_owned(),
        When::Text(start) => format!("`{start}`…"),
        When::Key(_) => "some keys".to_owned(),
        When::Within(_) => "in some objects".to_owned(),
    }
}
