//! Tables: what `kubectl get` prints (`meta.k8s.io` Table).

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::call::Call;
use crate::error::ApiError;
use crate::render;

/// What of each object a row carries along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    None,
    Metadata,
    Object,
}

/// A table in the making.
pub(crate) struct Table<'c> {
    call: &'c Call<'c>,
    version: &'static str,
    include: Include,
    rows: Vec<Value>,
    with_columns: bool,
}

impl<'c> Table<'c> {
    /// An empty table of the request's resource type.
    pub(crate) fn new(call: &'c Call<'c>, version: &'static str) -> Result<Self, ApiError> {
        let include = match call.query.get("includeObject") {
            None | Some("Metadata") => Include::Metadata,
            Some("None") => Include::None,
            Some("Object") => Include::Object,
            Some(other) => {
                return Err(ApiError::bad_request(format!(
                    "includeObject: Unsupported value: {other:?}: supported values: \"Metadata\", \
                     \"None\", \"Object\""
                )));
            }
        };
        Ok(Self { call, version, include, rows: Vec::new(), with_columns: true })
    }

    /// Leaves the column definitions out: the client has them already.
    pub(crate) fn without_columns(mut self) -> Self {
        self.with_columns = false;
        self
    }

    /// Adds the row of an object in its storage version.
    pub(crate) fn push(&mut self, mut object: Value, now: Timestamp) {
        let cells = self.call.resource.behaviour.cells(&object, now);
        let mut row = json!({ "cells": cells });
        match self.include {
            Include::None => {}
            Include::Metadata => row["object"] = render::partial(&object, self.version),
            Include::Object => {
                render::convert(self.call, &mut object);
                object["apiVersion"] = self.call.served.api_version().into();
                object["kind"] = self.call.served.kind.into();
                row["object"] = object;
            }
        }
        self.rows.push(row);
    }

    /// The whole table with this list metadata.
    pub(crate) fn finish(self, metadata: &Value) -> Value {
        let columns = self.call.resource.behaviour.columns().iter().filter(|_| self.with_columns);
        let columns: Vec<Value> = columns
            .map(|column| {
                json!({
                    "name": column.name,
                    "type": column.kind,
                    "format": column.format,
                    "description": column.description,
                    "priority": column.priority,
                })
            })
            .collect();
        json!({
            "kind": "Table",
            "apiVersion": format!("meta.k8s.io/{}", self.version),
            "metadata": metadata,
            "columnDefinitions": columns,
            "rows": self.rows,
        })
    }
}
