//! What a request wants to do, and whether it may.

use super::User;
use crate::request::RequestInfo;

/// What an authorizer looks at (upstream `authorizer.Attributes`).
#[derive(Clone, Copy, Debug)]
pub struct Attributes<'a> {
    /// Who asks.
    pub user: &'a User,
    /// `get`, `list`, `create`, … for resources; the lower-case HTTP method for other paths.
    pub verb: &'a str,
    /// The API group, empty for core.
    pub group: &'a str,
    /// The API version.
    pub version: &'a str,
    /// The plural resource name.
    pub resource: &'a str,
    /// `status`, `log`, …; empty for the object itself.
    pub subresource: &'a str,
    /// The namespace, empty at cluster scope (and for all namespaces).
    pub namespace: &'a str,
    /// The object's name, empty for collections.
    pub name: &'a str,
    /// The URL path; decisive when `is_resource` is false.
    pub path: &'a str,
    /// Whether this is about a resource rather than a bare path.
    pub is_resource: bool,
}

impl<'a> Attributes<'a> {
    /// Returns the attributes of a request.
    pub(crate) fn of(user: &'a User, info: &'a RequestInfo) -> Self {
        Self {
            user,
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: &info.name,
            path: &info.path,
            is_resource: info.is_resource,
        }
    }

    /// `pods/log`, or `pods` without a subresource.
    pub fn full_resource(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.to_owned()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }

    /// The whole message of the 403 that refuses this request, worded as upstream.
    pub fn forbidden_message(&self, reason: &str) -> String {
        let user = &self.user.name;
        let verb = self.verb;
        let mut message = if self.is_resource {
            let mut message = self.resource.to_owned();
            if !self.group.is_empty() {
                message = format!("{message}.{}", self.group);
            }
            if !self.name.is_empty() {
                message = format!("{message} {:?}", self.name);
            }
            let place = if self.namespace.is_empty() {
                "at the cluster scope".to_owned()
            } else {
                format!("in the namespace {:?}", self.namespace)
            };
            format!(
                "{message} is forbidden: User {user:?} cannot {verb} resource {:?} in API group \
                 {:?} {place}",
                self.full_resource(),
                self.group
            )
        } else {
            format!("forbidden: User {user:?} cannot {verb} path {:?}", self.path)
        };
        if !reason.is_empty() {
            message = format!("{message}: {reason}");
        }
        message
    }
}

/// The outcome of an authorization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may go on.
    pub allowed: bool,
    /// Why (upstream leaves it empty on a plain refusal).
    pub reason: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_texts_are_upstreams() {
        let user = User::authenticated("x", &[]);
        let list = Attributes {
            user: &user,
            verb: "list",
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "default",
            name: "",
            path: "/api/v1/namespaces/default/pods",
            is_resource: true,
        };
        assert_eq!(
            list.forbidden_message(""),
            "pods is forbidden: User \"x\" cannot list resource \"pods\" in API group \"\" in the \
             namespace \"default\""
        );
        let scale = Attributes {
            verb: "update",
            group: "apps",
            resource: "deployments",
            subresource: "scale",
            name: "web",
            namespace: "",
            ..list
        };
        assert_eq!(
            scale.forbidden_message(""),
            "deployments.apps \"web\" is forbidden: User \"x\" cannot update resource \
             \"deployments/scale\" in API group \"apps\" at the cluster scope"
        );
        let path = Attributes { verb: "get", path: "/metrics", is_resource: false, ..list };
        assert_eq!(
            path.forbidden_message(""),
            "forbidden: User \"x\" cannot get path \"/metrics\""
        );
    }
}
