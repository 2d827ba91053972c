//! Entry points for fuzzing: no runtime spec and no image reference makes the readers panic.

use super::*;

/// Compiles an OCI runtime spec (`config.json`) to a plan.
pub fn oci_spec(bytes: &[u8]) {
    let Ok(spec) = crate::document::read(bytes) else { return };
    let linux = spec.linux().clone().unwrap_or_default();
    let _ = mount::compile(spec.mounts().as_deref().unwrap_or_default());
    let _ = process(spec.process().as_ref(), linux.seccomp().as_ref());
    devices(&linux);
    for path in relative(linux.masked_paths()) {
        assert!(!path.starts_with('/'), "{path}");
    }
    of_spec(&spec);
}

/// Reads an image reference.
pub fn image_reference(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    if let Ok(reference) = text.parse::<crate::image::Reference>() {
        assert!(!reference.registry().is_empty(), "{text}");
        assert!(!reference.name().is_empty(), "{text}");
        let _ = (reference.tagged(), reference.digested(), reference.is_latest());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_specs_is_compiled() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/spec"), oci_spec);
    }

    #[test]
    fn corpus_of_references_is_read() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/reference"), image_reference);
    }
}
