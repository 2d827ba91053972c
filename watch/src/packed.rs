//! Objects that are kept and seldom read: as text, which takes a fraction of the memory.

use std::marker::PhantomData;

use serde::Serialize;
use serde::de::DeserializeOwned;

/// An object of a follower that keeps all of its kind. Decoded, a Service takes some 3 KB, most of it
/// for fields that it does not have; packed, some 300 bytes.
#[derive(Clone)]
pub struct Packed<K> {
    text: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: Serialize> Packed<K> {
    /// Packs an object; `None` when it cannot be written as JSON, which objects of the API can.
    pub fn new(object: &K) -> Option<Self> {
        let text = serde_json::to_string(object).ok()?.into_boxed_str();
        Some(Self { text, kind: PhantomData })
    }
}

impl<K: DeserializeOwned> Packed<K> {
    /// Decodes the object: from text, as the client does. The code that reads a type from bytes would
    /// be there besides (docs/decisions/0010).
    pub fn unpack(&self) -> Option<K> {
        serde_json::from_str(&self.text).ok()
    }
}

impl<K> std::fmt::Debug for Packed<K> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Packed({} bytes)", self.text.len())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    #[test]
    fn packed_object_is_the_same() {
        let service: Service = serde_json::from_value(json!({
            "metadata": {"name": "web", "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"clusterIP": "10.47.240.77", "ports": [{"port": 80, "targetPort": "http"}]},
        }))
        .unwrap();
        let packed = Packed::new(&service).unwrap();
        assert_eq!(packed.unpack().unwrap(), service);
        assert!(packed.text.len() < 300);
    }
}
