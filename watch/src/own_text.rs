//! Objects inside of lists and watch events.

use std::borrow::Cow;
use std::fmt::Debug;

use kube::Resource;
use kube::core::ObjectMeta;
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// An object that is decoded from the text that it has within a list or a watch event.
///
/// Decoded as part of what is around it, the code that reads a Pod would be there once for each way
/// in which it may be wrapped, which is megabytes for the types of Kubernetes
/// (`docs/decisions/0010`). It has to be read as it comes: in a watch event, whose type tells what the
/// object is, behind the type, where every server of Kubernetes writes it.
#[derive(Clone, Debug)]
pub struct OwnText<K>(pub K);

impl<'de, K: DeserializeOwned> Deserialize<'de> for OwnText<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?;
        serde_json::from_str(text.get()).map(Self).map_err(D::Error::custom)
    }
}

impl<K: Resource> Resource for OwnText<K> {
    type DynamicType = K::DynamicType;
    type Scope = K::Scope;

    fn kind(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::kind(dynamic)
    }

    fn group(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::group(dynamic)
    }

    fn version(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::version(dynamic)
    }

    fn plural(dynamic: &Self::DynamicType) -> Cow<'_, str> {
        K::plural(dynamic)
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::api::WatchEvent;
    use kube::core::ObjectList;

    type Text = OwnText<ConfigMap>;

    #[test]
    fn objects_are_read_out_of_lists() {
        let list: ObjectList<Text> = serde_json::from_str(
            r#"{"kind": "ConfigMapList", "apiVersion": "v1", "metadata": {"resourceVersion": "7"},
                "items": [{"metadata": {"name": "a"}, "data": {"k": "\"v\\"}}, {"metadata": {}}]}"#,
        )
        .unwrap();
        assert_eq!(list.metadata.resource_version.as_deref(), Some("7"));
        assert_eq!(list.items[0].0.data.as_ref().unwrap()["k"], "\"v\\");
        assert_eq!(list.items[1].meta().name, None);
    }

    #[test]
    fn objects_are_read_out_of_watch_events() {
        let read = |text: &str| serde_json::from_str::<WatchEvent<Text>>(text);
        let added = read(r#"{"type":"ADDED","object":{"metadata":{"name":"a"}}}"#).unwrap();
        assert!(
            matches!(added, WatchEvent::Added(OwnText(map)) if map.metadata.name.as_deref() == Some("a"))
        );
        let bookmark = r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","apiVersion":"v1",
            "metadata":{"resourceVersion":"9"}}}"#;
        assert!(matches!(read(bookmark).unwrap(), WatchEvent::Bookmark(_)));
        let error = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","metadata":{},
            "status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
        assert!(matches!(read(error).unwrap(), WatchEvent::Error(status) if status.code == 410));
        let wrong = read(r#"{"type":"ADDED","object":{"metadata":{"name":1}}}"#).unwrap_err();
        assert!(wrong.to_string().contains("expected a string"), "{wrong}");
    }
}
