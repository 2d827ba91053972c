//! Which program a container runs: the pod's command and arguments over the image's.

use super::expand::expand;
use super::variables::{Arguments, ExcessError, MAX_STRING_BYTES, Variables};

/// One argument, by its origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Argument<'a> {
    /// From the pod: its references to variables are replaced.
    Pod(&'a str),
    /// From the image: passed as it is.
    Image(&'a str),
}

/// The arguments of the process, program first.
///
/// A command in the pod replaces both entry point and command of the image; arguments alone keep
/// the entry point.
pub fn arguments<'a>(
    command: &'a [String],
    args: &'a [String],
    entrypoint: &'a [String],
    cmd: &'a [String],
) -> Vec<Argument<'a>> {
    let pod = |list: &'a [String]| list.iter().map(|argument| Argument::Pod(argument));
    let image = |list: &'a [String]| list.iter().map(|argument| Argument::Image(argument));
    if !command.is_empty() {
        return pod(command).chain(pod(args)).collect();
    }
    if !args.is_empty() {
        return image(entrypoint).chain(pod(args)).collect();
    }
    image(entrypoint).chain(image(cmd)).collect()
}

/// Replaces `$(NAME)` in what the pod gives by its variables; `environment` is all that the program
/// gets, which leaves less room for its arguments.
pub fn expanded(
    arguments: &[Argument<'_>],
    variables: &Variables,
    environment: &Variables,
) -> Result<Vec<String>, ExcessError> {
    let mut all = Arguments::beside(environment);
    for (index, argument) in arguments.iter().enumerate() {
        all.push(match argument {
            Argument::Pod(text) => expand(text, MAX_STRING_BYTES, |name| variables.get(name))
                .map_err(|_| ExcessError::Argument(index))?,
            Argument::Image(text) => (*text).to_owned(),
        })?;
    }
    Ok(all.into_list())
}

#[cfg(test)]
mod tests {
    use super::Argument::{Image, Pod};
    use super::*;

    #[test]
    fn four_cases_of_the_documentation() {
        let list = |items: &[&str]| items.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (entrypoint, cmd) = (list(&["/ep-1"]), list(&["foo", "bar"]));
        let cases: [(&[&str], &[&str], &[Argument<'_>]); 4] = [
            (&[], &[], &[Image("/ep-1"), Image("foo"), Image("bar")]),
            (&["/ep-2"], &[], &[Pod("/ep-2")]),
            (&[], &["zoo", "boo"], &[Image("/ep-1"), Pod("zoo"), Pod("boo")]),
            (&["/ep-2"], &["zoo", "boo"], &[Pod("/ep-2"), Pod("zoo"), Pod("boo")]),
        ];
        for (command, args, expected) in cases {
            let (command, args) = (list(command), list(args));
            assert_eq!(arguments(&command, &args, &entrypoint, &cmd), expected);
        }
    }

    #[test]
    fn only_arguments_of_the_pod_are_expanded() {
        let mut variables = Variables::default();
        assert_eq!(variables.set("A".into(), "1".into()), Ok(()));
        let words = expanded(&[Image("$(A)"), Pod("$(A)")], &variables, &variables);
        assert_eq!(words, Ok(vec!["$(A)".to_owned(), "1".to_owned()]));
    }

    #[test]
    fn expanded_arguments_are_bounded_in_sum() {
        let mut variables = Variables::default();
        assert_eq!(variables.set("A".into(), "x".repeat(100_000)), Ok(()));
        let twice = expanded(&[Pod("sh"), Pod("$(A)$(A)")], &variables, &variables);
        assert_eq!(twice, Err(ExcessError::Argument(1)));
        let many = vec![Pod("$(A)"); 100_000];
        assert_eq!(expanded(&many, &variables, &variables), Err(ExcessError::Total));
    }
}
