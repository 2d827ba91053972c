//! Entry points for fuzzing: no chain and no rule of another firewall makes the readers panic.

use super::*;
use crate::netlink::messages;

/// Reads a dump of chains and rules.
pub fn firewall_rules(bytes: &[u8]) {
    let mut ruleset = Ruleset::default();
    let mut count = 0;
    for message in messages(bytes) {
        ruleset.bases.extend(parse_base_chain(message.payload));
        ruleset.note_rule(message.payload);
        parse_comment(message.payload);
        parse_ending(message.payload);
        count += 1;
    }
    assert!(ruleset.dropping().count() <= ruleset.bases.len());
    let own = ruleset.all_own().flat_map(|(id, rules)| {
        assert_eq!(ruleset.own(id), rules);
        rules
    });
    assert!(own.inspect(|rule| assert!(rule.comment.starts_with(COMMENT))).count() <= count);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_rulesets_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/nftables"), firewall_rules);
    }
}
