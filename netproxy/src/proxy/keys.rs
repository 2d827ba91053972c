//! The names by which Services and EndpointSlices are known.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// The Service that an EndpointSlice belongs to.
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceKey {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl ServiceKey {
    /// The key of a Service.
    pub fn of(metadata: &ObjectMeta) -> Self {
        Self {
            namespace: metadata.namespace.clone().unwrap_or_default(),
            name: metadata.name.clone().unwrap_or_default(),
        }
    }

    /// The Service that a slice belongs to, when it belongs to one.
    pub fn of_slice(metadata: &ObjectMeta) -> Option<Self> {
        let name = metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?.clone();
        Some(Self { namespace: metadata.namespace.clone().unwrap_or_default(), name })
    }
}

/// Namespace and name of an EndpointSlice.
pub type SliceId = (String, String);

pub(super) fn slice_id(metadata: &ObjectMeta) -> SliceId {
    (metadata.namespace.clone().unwrap_or_default(), metadata.name.clone().unwrap_or_default())
}
