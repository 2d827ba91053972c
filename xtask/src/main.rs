//! Tasks of the workspace: `cargo xtask generate-schema [--check]`, `cargo xtask
//! generate-supported`, `cargo xtask check`.

mod architecture;
mod emit;
mod join;
mod parse_openapi;
mod parse_prost;
mod pointers;
mod roots;
mod sources;
mod supported;

#[cfg(test)]
#[path = "../../integration/src/skip.rs"]
mod skip;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask generate-schema [--check] | generate-supported | check

  generate-schema          writes api/src/schema/generated.rs and descriptions.z
  generate-schema --check  fails if what is checked in differs from what would be written
  generate-supported       writes docs/supported.md from the registry of kinds
  check                    fails where the tree is not as ARCHITECTURE.md says";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["generate-schema"] => generate().and_then(|schema| schema.write()),
        ["generate-schema", "--check"] => generate().and_then(|schema| schema.check()),
        ["generate-supported"] => supported::generate(),
        ["check"] => architecture::violations().and_then(|found| match found.as_slice() {
            [] => Ok("the tree is as ARCHITECTURE.md says".to_owned()),
            lines => Err(lines.join("\n")),
        }),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn generate() -> Result<emit::Generated, String> {
    let sources = sources::Sources::find()?;
    let protobuf = parse_prost::parse(&sources.protobuf)?;
    let openapi = parse_openapi::parse(&sources.openapi)?;
    let schema = join::join(protobuf, &openapi)?;
    emit::emit(&schema)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    #[test]
    fn checked_in_schema_is_current() {
        if let Err(missing) = crate::sources::Sources::find() {
            crate::skip::skip(&missing.replace('\n', " "), "crate-sources");
            return;
        }
        crate::generate().unwrap().check().unwrap();
    }
}
