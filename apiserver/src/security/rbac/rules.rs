//! The rules of a role, in three allocations: a tenant's role may have very many, and the thread that
//! drops the last reference to them need not free each. They apply as in upstream's
//! `pkg/apis/rbac/v1/evaluation_helpers.go`.

use std::fmt;

use super::super::Attributes;
use super::rule::Rule;

/// The lists of a rule, in the order in which they are kept.
#[derive(Clone, Copy)]
enum List {
    Verbs,
    Groups,
    Resources,
    Names,
    Paths,
}

/// The rules of one role, to be compared with requests.
pub(super) struct Rules {
    /// All items of all lists, one after the other.
    text: Box<str>,
    /// The end of each item in `text`.
    items: Box<[u32]>,
    /// The end in `items` of each list of each rule.
    lists: Box<[[u32; 5]]>,
}

impl Rules {
    pub(super) fn new(rules: &[Rule]) -> Self {
        // Objects have at most a few MiB.
        let offset = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let (mut text, mut items) = (String::new(), Vec::new());
        let mut add = |list: &[String]| {
            for item in list {
                text.push_str(item);
                items.push(offset(text.len()));
            }
            offset(items.len())
        };
        let ends = |rule: &Rule| {
            let Rule { verbs, api_groups, resources, resource_names, non_resource_urls } = rule;
            [verbs, api_groups, resources, resource_names, non_resource_urls].map(|list| add(list))
        };
        let lists = rules.iter().map(ends).collect();
        Self { text: text.into(), items: items.into(), lists }
    }

    /// The rules in their order.
    pub(super) fn iter(&self) -> impl Iterator<Item = RuleRef<'_>> {
        let begins = std::iter::once(0).chain(self.lists.iter().map(|ends| ends[4]));
        let each = begins.zip(&self.lists);
        each.map(|(begin, ends)| RuleRef { rules: self, begin, ends })
    }

    /// Returns the sum of [`RuleRef::steps`].
    pub(super) fn steps(&self) -> usize {
        self.lists.len() + self.items.len()
    }

    fn item(&self, at: u32) -> &str {
        let at = at as usize;
        let begin = at.checked_sub(1).map_or(0, |before| self.items[before]);
        self.text.get(begin as usize..self.items[at] as usize).unwrap_or_default()
    }
}

/// Prints their number: the text would be long.
impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("count", &self.lists.len()).finish_non_exhaustive()
    }
}

/// One of the rules of a role.
#[derive(Clone, Copy)]
pub(super) struct RuleRef<'a> {
    rules: &'a Rules,
    /// The place of its first item.
    begin: u32,
    ends: &'a [u32; 5],
}

impl<'a> RuleRef<'a> {
    fn list(self, list: List) -> impl ExactSizeIterator<Item = &'a str> {
        let at = list as usize;
        let begin = at.checked_sub(1).map_or(self.begin, |before| self.ends[before]);
        let Self { rules, ends, .. } = self;
        (begin..ends[at]).map(move |item| rules.item(item))
    }

    fn has(self, list: List, wanted: &str) -> bool {
        self.list(list).any(|item| item == wanted)
    }

    fn has_or_all(self, list: List, wanted: &str) -> bool {
        self.list(list).any(|item| item == "*" || item == wanted)
    }

    /// Returns whether the rule allows the request.
    pub(super) fn allows(self, attributes: &Attributes<'_>) -> bool {
        if !self.has_or_all(List::Verbs, attributes.verb) {
            return false;
        }
        if !attributes.is_resource {
            return self.matches_path(attributes.path);
        }
        self.has_or_all(List::Groups, attributes.group)
            && self.matches_resource(attributes.resource, attributes.subresource)
            && (self.list(List::Names).len() == 0 || self.has(List::Names, attributes.name))
    }

    /// Returns the most items that [`Self::allows`] compares, and one for the rule itself.
    pub(super) fn steps(self) -> usize {
        (self.ends[4] - self.begin) as usize + 1
    }

    fn matches_resource(self, resource: &str, subresource: &str) -> bool {
        self.list(List::Resources).any(|own| {
            if own == "*" {
                return true;
            }
            match own.split_once('/') {
                None => subresource.is_empty() && own == resource,
                Some((parent, child)) => {
                    !subresource.is_empty()
                        && child == subresource
                        && (parent == "*" || parent == resource)
                }
            }
        })
    }

    fn matches_path(self, path: &str) -> bool {
        self.list(List::Paths).any(|own| match own.strip_suffix('*') {
            Some(prefix) => path.starts_with(prefix),
            None => own == path,
        })
    }

    /// The rule as the type of the API.
    pub(super) fn to_rule(self) -> Rule {
        let list = |list| self.list(list).map(str::to_owned).collect();
        Rule {
            verbs: list(List::Verbs),
            api_groups: list(List::Groups),
            resources: list(List::Resources),
            resource_names: list(List::Names),
            non_resource_urls: list(List::Paths),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_kept_whole() {
        let list = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let rules = [
            Rule { verbs: list("get ä"), api_groups: vec![String::new()], ..Rule::default() },
            Rule::default(),
            Rule { resources: list("pods */scale"), resource_names: list("x"), ..Rule::default() },
            Rule { verbs: list("*"), non_resource_urls: list("/a /b/*"), ..Rule::default() },
        ];
        let kept = Rules::new(&rules);
        let read: Vec<Rule> = kept.iter().map(RuleRef::to_rule).collect();
        assert_eq!(read, rules);
        assert_eq!(kept.steps(), kept.iter().map(RuleRef::steps).sum::<usize>());
        assert_eq!(Rules::new(&[]).iter().count(), 0);
    }
}
