//! The permissions in a set of rules that another set does not contain. The work is bounded: a
//! rule of a few kilobytes can combine to millions of permissions.

use std::collections::{BTreeMap, HashSet};

use super::rule::Rule;

/// Permissions of one request that are compared one by one; a role of upstream's has some 500.
const ATOMS_MAX: usize = 100_000;
/// Items of rules that one request compares: below a second of work.
const COMPARISONS_MAX: usize = 5_000_000;
/// Missing permissions that a refusal lists.
const MISSING_LINES_MAX: usize = 200;
/// Bytes of the missing permissions that a refusal lists.
const MISSING_BYTES_MAX: usize = 32 << 10;

/// The reason why rules are not compared to the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TooMuch {
    #[error("the rules combine to more than {ATOMS_MAX} permissions")]
    Atoms,
    #[error("comparing the rules takes more than {COMPARISONS_MAX} steps")]
    Comparisons,
}

/// One verb on one resource (and possibly one name of it), or on one path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Atom<'a> {
    verb: &'a str,
    target: Target<'a>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Target<'a> {
    Resource { group: &'a str, resource: &'a str, name: Option<&'a str> },
    Path(&'a str),
}

/// The lists of a rule, each collected into a `C`.
struct Lists<C> {
    verbs: C,
    groups: C,
    resources: C,
    names: C,
    paths: C,
}

impl<C> Lists<C> {
    fn of<'a>(rule: &'a Rule, collect: impl Fn(&'a [String]) -> C) -> Self {
        Self {
            verbs: collect(&rule.verbs),
            groups: collect(&rule.api_groups),
            resources: collect(&rule.resources),
            names: collect(&rule.resource_names),
            paths: collect(&rule.non_resource_urls),
        }
    }
}

/// The lists of a wanted rule: each item once, in the order of the rule.
type Wanted<'a> = Lists<Vec<&'a str>>;

fn unique(list: &[String]) -> Vec<&str> {
    let mut seen = HashSet::new();
    list.iter().map(String::as_str).filter(|item| seen.insert(*item)).collect()
}

impl<'a> Wanted<'a> {
    fn items(&self) -> usize {
        [&self.verbs, &self.groups, &self.resources, &self.names, &self.paths]
            .into_iter()
            .map(Vec::len)
            .sum()
    }

    fn count_atoms(&self) -> usize {
        let names = self.names.len().max(1);
        let resources = self.groups.len().saturating_mul(self.resources.len());
        let targets = resources.saturating_mul(names).saturating_add(self.paths.len());
        self.verbs.len().saturating_mul(targets)
    }

    /// Yields the atoms one by one.
    fn atoms(&self) -> impl Iterator<Item = Atom<'a>> + '_ {
        self.verbs.iter().flat_map(move |&verb| {
            let paths = self.paths.iter().map(|&path| Target::Path(path));
            let resources = self.groups.iter().flat_map(move |&group| {
                self.resources.iter().flat_map(move |&resource| {
                    let all = self.names.is_empty().then_some(None);
                    let names = self.names.iter().map(|&name| Some(name));
                    all.into_iter().chain(names).map(move |name| Target::Resource {
                        group,
                        resource,
                        name,
                    })
                })
            });
            paths.chain(resources).map(move |target| Atom { verb, target })
        })
    }
}

/// A held rule, indexed.
struct Held<'a> {
    lists: Lists<HashSet<&'a str>>,
    /// The beginnings of paths before their `*`, sorted; none begins with another.
    prefixes: Vec<&'a str>,
}

fn set(list: &[String]) -> HashSet<&str> {
    list.iter().map(String::as_str).collect()
}

fn in_or_all(set: &HashSet<&str>, wanted: &str) -> bool {
    set.contains("*") || set.contains(wanted)
}

impl<'a> Held<'a> {
    fn new(rule: &'a Rule) -> Self {
        let mut prefixes: Vec<&str> =
            rule.non_resource_urls.iter().filter_map(|path| path.strip_suffix('*')).collect();
        prefixes.sort_unstable();
        prefixes.dedup_by(|later, kept| later.starts_with(*kept));
        Self { lists: Lists::of(rule, set), prefixes }
    }

    fn has_resource(&self, wanted: &str) -> bool {
        let resources = &self.lists.resources;
        in_or_all(resources, wanted)
            || wanted
                .split_once('/')
                .is_some_and(|(_, child)| resources.contains(format!("*/{child}").as_str()))
    }

    fn has_path(&self, wanted: &str) -> bool {
        // Only the last prefix that sorts before the path can be the beginning of it.
        let after = self.prefixes.partition_point(|prefix| *prefix <= wanted);
        let before = after.checked_sub(1).and_then(|last| self.prefixes.get(last));
        before.is_some_and(|prefix| wanted.starts_with(prefix)) || self.lists.paths.contains(wanted)
    }

    fn covers(&self, atom: &Atom<'_>) -> bool {
        let Lists { verbs, groups, names, .. } = &self.lists;
        in_or_all(verbs, atom.verb)
            && match atom.target {
                Target::Resource { group, resource, name } => {
                    in_or_all(groups, group)
                        && self.has_resource(resource)
                        && (names.is_empty() || name.is_some_and(|name| names.contains(name)))
                }
                Target::Path(path) => names.is_empty() && self.has_path(path),
            }
    }

    /// Returns whether every atom of the lists is covered.
    fn covers_all(&self, wanted: &Wanted<'_>) -> bool {
        let Lists { verbs, groups, names, .. } = &self.lists;
        let resources = wanted.groups.is_empty() || wanted.resources.is_empty();
        wanted.verbs.iter().all(|verb| in_or_all(verbs, verb))
            && (wanted.paths.is_empty() || names.is_empty())
            && wanted.paths.iter().all(|path| self.has_path(path))
            && (resources
                || (wanted.groups.iter().all(|group| in_or_all(groups, group))
                    && wanted.resources.iter().all(|resource| self.has_resource(resource))
                    && (names.is_empty()
                        || (!wanted.names.is_empty()
                            && wanted.names.iter().all(|name| names.contains(name))))))
    }
}

/// Work that is still allowed.
struct Steps(usize);

impl Steps {
    fn take(&mut self, steps: usize) -> Result<(), TooMuch> {
        self.0 = self.0.checked_sub(steps).ok_or(TooMuch::Comparisons)?;
        Ok(())
    }
}

/// Returns what `wanted` contains and `own` does not, one line for each resource, as upstream
/// prints it; a long list is cut.
pub(super) fn missing(own: &[Rule], wanted: &[Rule]) -> Result<Vec<String>, TooMuch> {
    let same: HashSet<&Rule> = own.iter().collect();
    let held: Vec<Held<'_>> = own.iter().map(Held::new).collect();
    let mut steps = Steps(COMPARISONS_MAX);
    let mut atoms_left = ATOMS_MAX;
    let mut compared: HashSet<&Rule> = HashSet::new();
    let mut seen: HashSet<Atom<'_>> = HashSet::new();
    let mut missing: BTreeMap<(Target<'_>, &str), Vec<&str>> = BTreeMap::new();
    for rule in wanted {
        if same.contains(rule) || !compared.insert(rule) {
            continue;
        }
        let lists = Lists::of(rule, unique);
        let Some(first) = lists.atoms().next() else { continue };
        let mut covered = false;
        for held in &held {
            steps.take(1)?;
            if held.covers(&first) {
                steps.take(lists.items())?;
                covered = held.covers_all(&lists);
            }
            if covered {
                break;
            }
        }
        if covered {
            continue;
        }
        atoms_left = atoms_left.checked_sub(lists.count_atoms()).ok_or(TooMuch::Atoms)?;
        for atom in lists.atoms().filter(|atom| seen.insert(*atom)) {
            let mut covered = false;
            for held in &held {
                steps.take(1)?;
                if held.covers(&atom) {
                    covered = true;
                    break;
                }
            }
            if !covered {
                // The verbs of one resource share a line; paths have one for each verb.
                let own_line = matches!(atom.target, Target::Path(_));
                let line = (atom.target, if own_line { atom.verb } else { "" });
                missing.entry(line).or_default().push(atom.verb);
            }
        }
    }
    Ok(lines(&missing))
}

fn lines(missing: &BTreeMap<(Target<'_>, &str), Vec<&str>>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut bytes_left = MISSING_BYTES_MAX;
    for ((target, _), verbs) in missing {
        let (target_bytes, rule) = match *target {
            Target::Resource { group, resource, name } => {
                let name = name.unwrap_or_default();
                (group.len() + resource.len() + name.len(), None)
            }
            Target::Path(path) => (path.len(), Some(path)),
        };
        let bytes = target_bytes + verbs.iter().map(|verb| verb.len() + 3).sum::<usize>();
        if bytes > bytes_left || lines.len() == MISSING_LINES_MAX {
            lines.push(format!("... and {} more", missing.len() - lines.len()));
            break;
        }
        bytes_left -= bytes;
        let mut shown = Rule {
            verbs: verbs.iter().map(|&verb| verb.to_owned()).collect(),
            non_resource_urls: rule.iter().map(|&path| path.to_owned()).collect(),
            ..Rule::default()
        };
        if let Target::Resource { group, resource, name } = *target {
            shown.api_groups = vec![group.to_owned()];
            shown.resources = vec![resource.to_owned()];
            shown.resource_names = name.iter().map(|&name| name.to_owned()).collect();
        }
        lines.push(shown.to_string());
    }
    lines
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn words(prefix: &str, count: usize) -> Vec<String> {
        (0..count).map(|index| format!("{prefix}{index}")).collect()
    }

    fn cube(side: usize) -> Rule {
        Rule {
            verbs: words("v", side),
            api_groups: words("g", side),
            resources: words("r", side),
            ..Rule::default()
        }
    }

    #[test]
    fn rule_of_millions_of_permissions_is_bounded() {
        let wanted = [cube(200)];
        let view = Rule {
            verbs: vec!["get".into()],
            api_groups: vec![String::new()],
            resources: vec!["pods".into()],
            ..Rule::default()
        };
        assert_eq!(missing(&[view], &wanted).unwrap_err(), TooMuch::Atoms);
        assert!(missing(&Rule::everything(), &wanted).unwrap().is_empty());
        assert!(missing(&wanted, &wanted).unwrap().is_empty());
        // Held by one larger rule.
        assert!(missing(&[cube(201)], &wanted).unwrap().is_empty());
    }

    #[test]
    fn many_missing_permissions_are_cut_in_the_refusal() {
        let lines = missing(&[], &[cube(40)]).unwrap();
        assert!(lines.len() <= MISSING_LINES_MAX + 1);
        let last = lines.last().unwrap();
        assert!(last.starts_with("... and ") && last.ends_with(" more"), "{last}");
        assert!(lines.iter().map(String::len).sum::<usize>() < 2 * MISSING_BYTES_MAX);
    }

    #[test]
    fn twenty_thousand_equal_rules_compare_in_few_steps() {
        let rules: Vec<Rule> = (0..20_000)
            .map(|index| Rule {
                verbs: vec!["get".into()],
                api_groups: vec!["example.com".into()],
                resources: vec![format!("r{index}")],
                ..Rule::default()
            })
            .collect();
        assert!(missing(&rules, &rules).unwrap().is_empty());
        let renamed: Vec<Rule> =
            rules.iter().map(|rule| Rule { verbs: vec!["list".into()], ..rule.clone() }).collect();
        assert_eq!(missing(&rules, &renamed).unwrap_err(), TooMuch::Comparisons);
    }

    #[test]
    fn permissions_held_in_several_rules_are_held() {
        let rule = |verbs: &[&str], resources: &[&str]| Rule {
            verbs: verbs.iter().map(|&v| v.to_owned()).collect(),
            api_groups: vec![String::new()],
            resources: resources.iter().map(|&r| r.to_owned()).collect(),
            ..Rule::default()
        };
        let own = [rule(&["get"], &["pods", "*/scale"]), rule(&["list"], &["pods"])];
        assert!(missing(&own, &[rule(&["get", "list"], &["pods"])]).unwrap().is_empty());
        assert!(missing(&own, &[rule(&["get"], &["x/scale"])]).unwrap().is_empty());
        assert_eq!(missing(&own, &[rule(&["list"], &["x/scale"])]).unwrap().len(), 1);
    }

    #[test]
    fn paths_are_covered_by_their_beginnings() {
        let rule = |paths: &[&str]| Rule {
            verbs: vec!["get".into()],
            non_resource_urls: paths.iter().map(|&p| p.to_owned()).collect(),
            ..Rule::default()
        };
        let own = [rule(&["/logs/*", "/logs/a/*", "/a", "/logz*"])];
        for (path, held) in [
            ("/logs/b/c", true),
            ("/logs/*", true),
            ("/a", true),
            ("/logz", true),
            ("/logs", false),
            ("/ab", false),
        ] {
            assert_eq!(missing(&own, &[rule(&[path])]).unwrap().is_empty(), held, "{path}");
        }
        assert!(missing(&[rule(&["*"])], &[rule(&["/x"])]).unwrap().is_empty());
    }
}
