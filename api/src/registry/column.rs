//! What `kubectl get` prints of a kind.

use serde_json::Value;

/// One printed column (`kubectl get`), as upstream's `printers/internalversion` defines it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Header, for example `Ready`; kubectl prints it in capitals.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`.
    pub kind: &'static str,
    /// `name` for the name column, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    /// For `kubectl explain`-like clients.
    pub description: &'static str,
}

impl Column {
    /// The object's name.
    pub const NAME: Self = Self {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
        description: "Name must be unique within a namespace.",
    };
    /// Time since creation.
    pub const AGE: Self = Self {
        name: "Age",
        kind: "string",
        format: "",
        priority: 0,
        description: "Time since the object was created.",
    };
    /// Time of creation, which kubectl turns into an age.
    pub const CREATED_AT: Self = Self {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
        description: "CreationTimestamp is the server time when the object was created.",
    };

    /// A column of text.
    pub const fn text(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 0, description: "" }
    }

    /// A column of text shown with `-o wide` only.
    pub const fn wide(name: &'static str) -> Self {
        Self { name, kind: "string", format: "", priority: 1, description: "" }
    }

    /// A column of numbers.
    pub const fn integer(name: &'static str) -> Self {
        Self { name, kind: "integer", format: "", priority: 0, description: "" }
    }

    /// A column of another type.
    pub const fn typed(name: &'static str, kind: &'static str) -> Self {
        Self { name, kind, format: "", priority: 0, description: "" }
    }
}

/// One printed cell.
pub type Cell = Value;
