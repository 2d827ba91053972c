//! No runtime spec and no image reference makes the readers panic.

use super::*;

#[test]
fn specs() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/spec"), |bytes| {
        let Ok(spec) = crate::document::read(bytes) else { return };
        let linux = spec.linux().clone().unwrap_or_default();
        let _ = mount::compile(spec.mounts().as_deref().unwrap_or_default());
        let _ = process(spec.process().as_ref(), linux.seccomp().as_ref());
        devices(&linux);
        for path in relative(linux.masked_paths()) {
            assert!(!path.starts_with('/'), "{path}");
        }
        of_spec(&spec);
    });
}

#[test]
fn references() {
    fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/reference"), |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Ok(reference) = text.parse::<crate::image::Reference>() {
            assert!(!reference.registry().is_empty(), "{text}");
            assert!(!reference.name().is_empty(), "{text}");
            let _ = (reference.tagged(), reference.digested(), reference.is_latest());
        }
    });
}
