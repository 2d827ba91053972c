//! Which program a container runs: the pod's command and arguments over the image's.

/// The arguments of the process, program first.
///
/// A command in the pod replaces both entry point and command of the image; arguments alone keep
/// the entry point.
pub fn arguments(
    command: &[String],
    args: &[String],
    entrypoint: &[String],
    cmd: &[String],
) -> Vec<String> {
    if !command.is_empty() {
        return [command, args].concat();
    }
    if !args.is_empty() {
        return [entrypoint, args].concat();
    }
    [entrypoint, cmd].concat()
}

#[cfg(test)]
mod tests {
    use super::arguments;

    #[test]
    fn the_four_cases_of_the_documentation() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (entrypoint, cmd) = (list(&["/ep-1"]), list(&["foo", "bar"]));
        let cases: [(&[&str], &[&str], &[&str]); 4] = [
            (&[], &[], &["/ep-1", "foo", "bar"]),
            (&["/ep-2"], &[], &["/ep-2"]),
            (&[], &["zoo", "boo"], &["/ep-1", "zoo", "boo"]),
            (&["/ep-2"], &["zoo", "boo"], &["/ep-2", "zoo", "boo"]),
        ];
        for (command, args, expected) in cases {
            assert_eq!(arguments(&list(command), &list(args), &entrypoint, &cmd), list(expected));
        }
    }
}
