//! Entry points for fuzzing: a JSON patch does what RFC 6902 says, and its object is at no time larger or
//! deeper than what is counted.

use super::*;

/// Applies the `patch` of a document to its `object`.
pub fn json_patch(bytes: &[u8]) {
    let Ok(parsed) = api::schema::parse_json(bytes) else { return };
    let Ok(patch) = serde_json::from_value::<Patch>(parsed.value["patch"].clone()) else { return };
    let mut object = parsed.value["object"].clone();
    let mut expected = object.clone();
    let start = measure(&object);
    let mut bounds = Bounds::of(&start);
    for operation in &patch.0 {
        if bounds.admit(&object, operation).is_err() {
            break;
        }
        if patch_unsafe(&mut object, std::slice::from_ref(operation)).is_err() {
            break;
        }
        let size = measure(&object);
        assert!(size.bytes <= bounds.bytes, "{} of {} bytes: {object}", size.bytes, bounds.bytes);
        assert!(size.depth <= OBJECT_DEPTH_MAX.max(start.depth), "{object}");
    }
    let mut applied = parsed.value["object"].clone();
    match apply(&mut applied, &patch) {
        Ok(()) => {
            assert!(patch_unsafe(&mut expected, &patch.0).is_ok());
            assert_eq!(applied, expected);
        }
        Err(JsonPatchError::Failed) => {
            assert!(patch_unsafe(&mut expected, &patch.0).is_err());
        }
        Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn corpus_of_json_patches_is_applied() {
        fuzz::each(concat!(env!("CARGO_MANIFEST_DIR"), "/corpus/json_patch"), json_patch);
    }
}
