//! What every cluster has from its first moment: namespaces, priority classes, a default
//! storage class, roles.

use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::options::{FieldValidation, WriteOptions};
use crate::request::{Query, RequestInfo};
use crate::security::{User, rbac};
use crate::server::ApiServer;
use crate::verbs::create;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];

impl ApiServer {
    /// Creates what is missing of the objects that every cluster has.
    pub async fn bootstrap(self: &Arc<Self>) -> Result<(), ApiError> {
        for name in NAMESPACES {
            self.ensure("", "namespaces", "", json!({ "metadata": { "name": name } })).await?;
        }
        for (name, value, description) in [
            (
                "system-cluster-critical",
                2_000_000_000,
                "Used for system critical pods that must run in the cluster, but can be moved to \
                 another node if necessary.",
            ),
            (
                "system-node-critical",
                2_000_001_000,
                "Used for system critical pods that must not be moved from their current node.",
            ),
        ] {
            let class = json!({
                "metadata": { "name": name }, "value": value, "description": description,
            });
            self.ensure("scheduling.k8s.io", "priorityclasses", "", class).await?;
        }
        let class = json!({
            "metadata": { "name": "local-path", "annotations": {
                "storageclass.kubernetes.io/is-default-class": "true" } },
            "provisioner": "coracle/local-path",
            "reclaimPolicy": "Delete",
            "volumeBindingMode": "WaitForFirstConsumer",
        });
        self.ensure("storage.k8s.io", "storageclasses", "", class).await?;
        for (plural, object) in rbac::missing_objects(&self.store) {
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            self.ensure("rbac.authorization.k8s.io", plural, &namespace, object).await?;
        }
        Ok(())
    }

    /// Creates an object unless there is one of its name.
    async fn ensure(
        self: &Arc<Self>,
        group: &str,
        plural: &str,
        namespace: &str,
        object: Value,
    ) -> Result<(), ApiError> {
        let resource = self.builtin(group, plural)?;
        let info = RequestInfo {
            is_resource: true,
            verb: "create",
            namespace: namespace.to_owned(),
            ..RequestInfo::default()
        };
        let user = User::authenticated("system:apiserver", &["system:masters"]);
        let (query, headers) = (Query::default(), HeaderMap::new());
        let found = (resource, &resource.served[0]);
        let call = Call::new(self, &user, &info, &query, &headers, found);
        let options = WriteOptions {
            dry_run: false,
            field_validation: FieldValidation::Ignore,
            manager: "coracle".into(),
            manager_given: true,
            force: false,
        };
        match create::create(&call, object, &options).await {
            Err(error) if !error.is_already_exists() => Err(error),
            _ => Ok(()),
        }
    }
}
