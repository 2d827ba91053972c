//! Environment variables in the order of their definition, within what a program can be given.

use std::collections::HashMap;

/// Longest string that the kernel passes to a program, with its NUL (`MAX_ARG_STRLEN`).
pub const MAX_STRING_BYTES: usize = 128 << 10;
/// Most bytes of strings and pointers of one program, a quarter of the usual 8 MiB stack (execve(2)).
pub const MAX_PROGRAM_BYTES: usize = 2 << 20;
/// Most variables of one container.
pub const MAX_VARIABLES: usize = 1 << 16;
/// Most bytes of all definitions of variables, those that a later one replaces included.
const MAX_DEFINED_BYTES: usize = 4 * MAX_PROGRAM_BYTES;
/// Bytes of a pointer to a string, which count like the string itself.
const POINTER_BYTES: usize = 8;
/// Characters of a name that a message quotes.
const MAX_QUOTED_CHARS: usize = 64;

/// An environment or a command line that no program can be given; the text is the message of
/// `CreateContainerConfigError`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExcessError {
    /// One variable is too long.
    #[error("environment variable \"{0}\" is longer than {MAX_STRING_BYTES} bytes")]
    Variable(String),
    /// One argument is too long.
    #[error("argument {0} of the command is longer than {MAX_STRING_BYTES} bytes")]
    Argument(usize),
    /// Too many variables.
    #[error("more than {MAX_VARIABLES} environment variables")]
    Count,
    /// Too much in total.
    #[error("environment and arguments are longer than {MAX_PROGRAM_BYTES} bytes")]
    Total,
    /// Too much in total because of the variables of Services.
    #[error(
        "environment and arguments are longer than {MAX_PROGRAM_BYTES} bytes; the variables of \
         {0} Services are among them, enableServiceLinks: false leaves them out"
    )]
    Services(usize),
}

/// The bytes of a string that count against [`MAX_PROGRAM_BYTES`].
fn cost(bytes: usize) -> usize {
    bytes + 1 + POINTER_BYTES
}

/// Variables, each name once.
#[derive(Clone, Debug, Default)]
pub struct Variables {
    list: Vec<(String, String)>,
    index: HashMap<String, usize>,
    /// The cost of the present variables.
    bytes: usize,
    /// The cost of all definitions so far.
    defined: usize,
}

impl Variables {
    /// Returns the value of a variable.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.index.get(name).map(|at| self.list[*at].1.as_str())
    }

    /// Sets a variable; one that has a value keeps its place.
    pub fn set(&mut self, name: String, value: String) -> Result<(), ExcessError> {
        let bytes = name.len() + "=".len() + value.len();
        if bytes >= MAX_STRING_BYTES {
            return Err(too_long(&name));
        }
        let known = self.index.get(&name).copied();
        let before = known.map_or(0, |at| cost(name.len() + 1 + self.list[at].1.len()));
        self.bytes = self.bytes - before + cost(bytes);
        self.defined += cost(bytes);
        if self.bytes > MAX_PROGRAM_BYTES || self.defined > MAX_DEFINED_BYTES {
            return Err(ExcessError::Total);
        }
        match known {
            Some(at) => self.list[at].1 = value,
            None if self.list.len() == MAX_VARIABLES => return Err(ExcessError::Count),
            None => {
                self.index.insert(name.clone(), self.list.len());
                self.list.push((name, value));
            }
        }
        Ok(())
    }

    /// Names and values in the order of their first definition.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.list.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// The error for a variable whose value is too long.
pub fn too_long(name: &str) -> ExcessError {
    ExcessError::Variable(name.chars().take(MAX_QUOTED_CHARS).collect())
}

/// Adds up the arguments of a program as they are made, after its environment.
#[derive(Debug)]
pub struct Arguments {
    list: Vec<String>,
    bytes: usize,
}

impl Arguments {
    /// Begins an empty list for a program with these variables.
    pub fn beside(variables: &Variables) -> Self {
        Self { list: Vec::new(), bytes: variables.bytes }
    }

    /// Appends an argument.
    pub fn push(&mut self, argument: String) -> Result<(), ExcessError> {
        if argument.len() >= MAX_STRING_BYTES {
            return Err(ExcessError::Argument(self.list.len()));
        }
        self.bytes += cost(argument.len());
        if self.bytes > MAX_PROGRAM_BYTES {
            return Err(ExcessError::Total);
        }
        self.list.push(argument);
        Ok(())
    }

    /// Returns the arguments.
    pub fn into_list(self) -> Vec<String> {
        self.list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(result: Result<(), ExcessError>) -> String {
        result.err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn names_are_set_once_in_order() {
        let mut variables = Variables::default();
        for (name, value) in [("B", "1"), ("A", "2"), ("B", "3")] {
            assert_eq!(variables.set(name.into(), value.into()), Ok(()));
        }
        assert_eq!(variables.iter().collect::<Vec<_>>(), [("B", "3"), ("A", "2")]);
        assert_eq!((variables.get("A"), variables.get("C")), (Some("2"), None));
    }

    #[test]
    fn longest_string_is_that_of_the_kernel() {
        let mut variables = Variables::default();
        let fits = "x".repeat(MAX_STRING_BYTES - "A=\0".len());
        assert_eq!(variables.set("A".into(), fits.clone()), Ok(()));
        let excess = text(variables.set("A".into(), fits + "x"));
        assert_eq!(excess, "environment variable \"A\" is longer than 131072 bytes");
        let mut arguments = Arguments::beside(&variables);
        assert_eq!(arguments.push("x".repeat(MAX_STRING_BYTES - 1)), Ok(()));
        let excess = text(arguments.push("x".repeat(MAX_STRING_BYTES)));
        assert_eq!(excess, "argument 1 of the command is longer than 131072 bytes");
    }

    #[test]
    fn sum_and_count_are_bounded() {
        let mut variables = Variables::default();
        let results = (0..100).map(|n| variables.set(format!("A{n}"), "x".repeat(100_000)));
        let excess = results.filter_map(Result::err).next();
        assert_eq!(excess, Some(ExcessError::Total));

        let mut same = Variables::default();
        let results = (0..100).map(|_| same.set("A".into(), "x".repeat(100_000)));
        assert_eq!(results.filter(Result::is_ok).count(), 83, "each definition is work");

        let mut many = Variables::default();
        let results = (0..=MAX_VARIABLES).map(|n| many.set(format!("{n}"), String::new()));
        assert_eq!(results.filter_map(Result::err).next(), Some(ExcessError::Count));

        let mut arguments = Arguments::beside(&Variables::default());
        let results = (0..100).map(|_| arguments.push("x".repeat(100_000)));
        assert_eq!(results.filter_map(Result::err).next(), Some(ExcessError::Total));
    }
}
