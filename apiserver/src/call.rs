//! One request about a resource, as every verb sees it.

use std::sync::Arc;

use api::{Persistence, Resource, Served, Subresource};
use http::HeaderMap;
use serde_json::Value;
use store::{Durability, Record};

use crate::deadline::Deadline;
use crate::error::ApiError;
use crate::heavy::HEAVY_BYTES;
use crate::meta::{self, Meta};
use crate::request::{Query, RequestInfo};
use crate::security::User;
use crate::server::ApiServer;
use crate::warning::Warnings;
use crate::{intake, render};

/// A request that has passed the door.
pub(crate) struct Call<'a> {
    pub(crate) server: &'a Arc<ApiServer>,
    pub(crate) user: &'a User,
    pub(crate) info: &'a RequestInfo,
    pub(crate) query: &'a Query,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) resource: &'static Resource,
    pub(crate) served: &'static Served,
    /// Until when something may be written.
    pub(crate) deadline: Deadline,
    /// True for the request of another part of this process.
    pub(crate) inside: bool,
    warnings: Warnings,
}

impl<'a> Call<'a> {
    pub(crate) fn new(
        server: &'a Arc<ApiServer>,
        user: &'a User,
        info: &'a RequestInfo,
        query: &'a Query,
        headers: &'a HeaderMap,
        (resource, served): (&'static Resource, &'static Served),
    ) -> Self {
        let (deadline, warnings) = (Deadline::default(), Warnings::default());
        let inside = true;
        Self { server, user, info, query, headers, resource, served, deadline, inside, warnings }
    }

    /// The same call, which writes nothing after `deadline`.
    pub(crate) fn until(mut self, deadline: &Deadline, inside: bool) -> Self {
        self.deadline = deadline.clone();
        self.inside = inside;
        self
    }

    /// Whether the stored bytes are already in the version that the client asked for.
    pub(crate) fn is_storage_version(&self) -> bool {
        std::ptr::eq(self.served, self.stored_as())
    }

    /// The version in which the type is stored.
    pub(crate) fn stored_as(&self) -> &'static Served {
        &self.resource.served[0]
    }

    /// The namespace of the objects; empty for cluster-scoped types and across namespaces.
    pub(crate) fn namespace(&self) -> &str {
        if self.resource.namespaced { &self.info.namespace } else { "" }
    }

    /// The store's key of the named object.
    pub(crate) fn key(&self, name: &str) -> String {
        meta::key(self.resource, self.namespace(), name)
    }

    /// What a write to this part of the object must survive.
    pub(crate) fn durability(&self, subresource: Subresource<'_>) -> Durability {
        match self.resource.persistence {
            Persistence::Durable if subresource == Subresource::Status => Durability::Lazy,
            Persistence::Durable => Durability::Durable,
            Persistence::Lazy => Durability::Lazy,
            Persistence::Volatile | Persistence::None => Durability::Volatile,
        }
    }

    /// Returns whether the user has spent more than its share of the API's threads.
    pub(crate) fn is_over(&self) -> bool {
        !self.inside && self.server.intake.spending.is_over(&intake::holder(self.user))
    }

    /// Does a part of the work: away from the threads that serve the API where that is `heavy`, unless
    /// the whole request is.
    pub(crate) async fn work<T: Send + 'static>(
        &self,
        heavy: bool,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        if !heavy || intake::in_turn() {
            return Ok(work());
        }
        self.server.intake.heavy(&intake::holder(self.user), async move { work() }).await
    }

    /// Parses stored objects, which takes long for large ones.
    pub(crate) async fn parse(
        &self,
        records: Vec<Arc<Record<Meta>>>,
    ) -> Result<Vec<Value>, ApiError> {
        let bytes: usize = records.iter().map(|record| record.value.len()).sum();
        let parse = move || records.iter().map(|record| render::parse(record)).collect();
        self.work(bytes > HEAVY_BYTES, parse).await?
    }

    /// Adds a `Warning` header to the response.
    pub(crate) fn warn(&self, text: String) {
        self.warnings.add(text);
    }

    /// Adds a `Warning` header for each of `texts`.
    pub(crate) fn warn_all(&self, texts: impl IntoIterator<Item = String>) {
        texts.into_iter().for_each(|text| self.warn(text));
    }

    /// Returns what has been collected.
    pub(crate) fn into_warnings(self) -> Warnings {
        self.warnings
    }

    pub(crate) fn not_found(&self, name: &str) -> ApiError {
        ApiError::not_found(self.served, name)
    }

    /// The same request about another resource type.
    pub(crate) fn about(&self, resource: &'static Resource) -> Call<'a> {
        Call {
            server: self.server,
            user: self.user,
            info: self.info,
            query: self.query,
            headers: self.headers,
            resource,
            served: &resource.served[0],
            deadline: self.deadline.clone(),
            inside: self.inside,
            warnings: Warnings::default(),
        }
    }
}
