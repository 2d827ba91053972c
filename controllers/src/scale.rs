//! The `scale` subresource of any workload.

use api::registry::Resource;
use http::Request;
use kube::Client;
use serde_json::{Value, json};

use crate::error::Error;

/// Something that may be scaled, as references name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    group: String,
    kind: String,
    namespace: String,
    name: String,
}

/// A target whose kind is served and can be scaled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scalable {
    path: String,
    kind: String,
    key: String,
}

/// Size and selector of a workload.
#[derive(Clone, Debug, PartialEq)]
pub struct Scale {
    /// How many pods are wanted.
    pub replicas: i32,
    /// How many there are.
    pub current: i32,
    /// The selector of its pods, as text.
    pub selector: String,
    object: Value,
}

impl Target {
    /// The object of that kind and name.
    pub fn new(api_version: &str, kind: &str, namespace: &str, name: &str) -> Self {
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        Self {
            group: group.to_owned(),
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Finds the kind; `None` if it is not served or has no scale.
    pub fn resolve(&self, resources: &[Resource]) -> Option<Scalable> {
        let (resource, served) = self.find(resources)?;
        if !resource.has_scale {
            return None;
        }
        let root = if served.group.is_empty() { "/api/" } else { "/apis/" };
        let path = format!(
            "{root}{}/namespaces/{}/{}/{}/scale",
            served.api_version(),
            self.namespace,
            served.plural,
            self.name
        );
        let key = format!("{}/{}", self.namespace, self.name);
        Some(Scalable { path, kind: served.kind.to_owned(), key })
    }

    /// Whether the kind is served at all.
    pub fn is_known(&self, resources: &[Resource]) -> bool {
        self.find(resources).is_some()
    }

    fn find<'r>(
        &self,
        resources: &'r [Resource],
    ) -> Option<(&'r Resource, &'static api::registry::Served)> {
        resources.iter().find_map(|resource| {
            let mut names = resource.served.iter();
            let served =
                names.find(|served| served.group == self.group && served.kind == self.kind)?;
            Some((resource, served))
        })
    }
}

fn failed(operation: &'static str, target: &Scalable) -> impl FnOnce(kube::Error) -> Error {
    let (kind, key) = (target.kind.clone(), target.key.clone());
    move |source| Error::Request { operation, kind, key, source: Box::new(source) }
}

fn parse(object: Value) -> Scale {
    let number =
        |value: &Value| value.as_i64().and_then(|number| i32::try_from(number).ok()).unwrap_or(0);
    Scale {
        replicas: number(&object["spec"]["replicas"]),
        current: number(&object["status"]["replicas"]),
        selector: object["status"]["selector"].as_str().unwrap_or_default().to_owned(),
        object,
    }
}

fn build(method: &str, path: &str, body: Vec<u8>) -> Result<Request<Vec<u8>>, kube::Error> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("Content-Type", "application/json")
        .body(body)
        .map_err(kube::Error::HttpError)
}

/// Reads the scale.
pub async fn read(client: &Client, target: &Scalable) -> Result<Scale, Error> {
    let outcome = match build("GET", &target.path, Vec::new()) {
        Ok(request) => client.request::<Value>(request).await,
        Err(error) => Err(error),
    };
    outcome.map(parse).map_err(failed("get scale of", target))
}

/// Writes another size over the version that was read.
pub async fn write(
    client: &Client,
    target: &Scalable,
    scale: &Scale,
    replicas: i32,
) -> Result<(), Error> {
    let mut object = scale.object.clone();
    object["spec"] = json!({ "replicas": replicas });
    let outcome = match build("PUT", &target.path, object.to_string().into_bytes()) {
        Ok(request) => client.request::<Value>(request).await,
        Err(error) => Err(error),
    };
    outcome.map(drop).map_err(failed("update scale of", target))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn references_of_any_version_find_the_workload() {
        let resources = api::registry::resources();
        let path = |api_version: &str, kind: &str| {
            Target::new(api_version, kind, "default", "web").resolve(resources).map(|t| t.path)
        };
        let expected = "/apis/apps/v1/namespaces/default/deployments/web/scale";
        assert_eq!(path("apps/v1", "Deployment").as_deref(), Some(expected));
        let controller = "/api/v1/namespaces/default/replicationcontrollers/web/scale";
        assert_eq!(path("v1", "ReplicationController").as_deref(), Some(controller));
        assert!(path("extensions/v1beta1", "Deployment").is_some());
        assert_eq!(path("batch/v1", "Job"), None);
        assert_eq!(path("example.com/v1", "Thing"), None);
    }
}
