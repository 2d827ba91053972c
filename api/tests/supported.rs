//! docs/supported.md is what the registry says.
#![allow(clippy::unwrap_used)]

#[path = "../examples/supported.rs"]
#[allow(dead_code)]
mod supported;

#[test]
fn page_of_supported_resources_is_current() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/supported.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    assert!(page == supported::page(), "run `cargo xtask generate-supported`");
}
