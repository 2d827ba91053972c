//! Entry points for fuzzing: a merge patch (RFC 7396) makes no object larger or deeper than object and
//! patch together, and has no effect when it is applied again.

use super::*;
use crate::measure::measure;

/// Merges the `patch` of a document into its `object`.
pub fn merge_patch(bytes: &[u8]) {
    let Ok(parsed) = schema::parse_json(bytes) else { return };
    let patch = parsed.value["patch"].to_string();
    let parsed_patch = Patch::parse("application/merge-patch+json", patch.as_bytes());
    let Ok(Patch::Merge(patch)) = parsed_patch else { return };
    let mut object = parsed.value["object"].clone();
    let (before, added) = (measure(&object), measure(&patch));
    ::json_patch::merge(&mut object, &patch);
    let after = measure(&object);
    assert!(after.bytes <= before.bytes + added.bytes, "{object}");
    assert!(after.depth <= before.depth.max(added.depth), "{object}");
    let once = object.clone();
    ::json_patch::merge(&mut object, &patch);
    assert_eq!(object, once);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_merge_patches_is_merged() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/merge_patch"), merge_patch);
    }
}
