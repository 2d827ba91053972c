//! The chains that the kernel has, and how many frontends use each: one that is used no longer is
//! removed, since a tenant can have a new one made by each change of a Service.

use std::collections::{HashMap, HashSet};

use super::frontends::{Change, Code, View};

/// Chains without a user that stay for the next one. Most Services need one of a dozen chains.
const SPARE_CHAINS: usize = 64;

/// The chains of one family.
#[derive(Debug, Default)]
pub struct Chains {
    users: HashMap<Code, usize>,
    /// The chains among them that have none.
    unused: HashSet<Code>,
}

/// The changes of one transaction.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Turnover {
    users: HashMap<Code, isize>,
    /// Chains to make before.
    pub new: Vec<Code>,
    /// Chains to remove afterwards.
    pub gone: Vec<Code>,
}

impl Chains {
    /// Returns what these changes need.
    pub fn turnover<'a>(&self, changes: impl Iterator<Item = &'a Change>) -> Turnover {
        let mut turnover = Turnover::default();
        let count = |users: &mut HashMap<Code, isize>, view: &View, more: isize| {
            *users.entry(view.code).or_default() += more;
        };
        for change in changes {
            change.before.views().for_each(|view| count(&mut turnover.users, view, -1));
            change.after.views().for_each(|view| count(&mut turnover.users, view, 1));
        }
        let unused = |code: &Code, more: isize| self.users(*code).saturating_add_signed(more) == 0;
        let is_new = |code: &&Code| !self.users.contains_key(code);
        turnover.new = turnover.users.keys().filter(is_new).copied().collect();
        let still = self.unused.iter().filter(|code| !turnover.users.contains_key(code));
        let now = turnover.users.iter().filter(|(code, more)| unused(code, **more));
        turnover.gone = still.chain(now.map(|(code, _)| code)).copied().collect();
        if turnover.gone.len() <= SPARE_CHAINS {
            turnover.gone.clear();
        }
        turnover.new.sort_unstable();
        turnover.gone.sort_unstable();
        turnover
    }

    /// Notes that the kernel has taken a transaction.
    pub fn apply(&mut self, turnover: &Turnover) {
        for (code, more) in &turnover.users {
            let users = self.users(*code).saturating_add_signed(*more);
            self.users.insert(*code, users);
            match users {
                0 => self.unused.insert(*code),
                _ => self.unused.remove(code),
            };
        }
        for code in &turnover.gone {
            self.users.remove(code);
            self.unused.remove(code);
        }
    }

    fn users(&self, code: Code) -> usize {
        self.users.get(&code).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::super::frontends::Installed;
    use super::super::plan::Frontend;
    use super::*;
    use crate::protocol::Protocol;

    fn installed(code: Option<u32>) -> Installed {
        let view = |code| View { code: Code(code), slots: Vec::new(), endpoints: Vec::new() };
        Installed { inside: code.map(view), ..Installed::default() }
    }

    fn change(port: u16, before: Option<u32>, after: Option<u32>) -> Change {
        let frontend = Frontend::NodePort { ipv6: false, protocol: Protocol::Tcp, port };
        Change { frontend, before: installed(before), after: installed(after) }
    }

    #[test]
    fn unused_chains_go() {
        let mut chains = Chains::default();
        let mut step = |change: Change| {
            let turnover = chains.turnover(std::iter::once(&change));
            chains.apply(&turnover);
            (turnover.new.len(), turnover.gone.len(), chains.users.len())
        };
        assert_eq!(step(change(1, None, Some(1))), (1, 0, 1));
        // A second one uses the same, and one leaves it.
        assert_eq!(step(change(2, None, Some(1))), (0, 0, 1));
        assert_eq!(step(change(1, Some(1), Some(2))), (1, 0, 2));
        for code in 2..10_000 {
            let (new, _, have) = step(change(1, Some(code), Some(code + 1)));
            assert!(new == 1 && have <= SPARE_CHAINS + 3, "{have}");
        }
        // What was removed is made again, what is spare is not.
        assert_eq!(step(change(3, None, Some(5))).0, 1);
        assert_eq!(step(change(4, None, Some(9_999))).0, 0);
        // What is used stays.
        assert!(chains.users.contains_key(&Code(1)));
    }
}
