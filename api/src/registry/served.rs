//! Under which names a resource type is served.

/// One group and version under which a resource type is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// The API group, empty for core.
    pub group: &'static str,
    /// The API version, for example `v1beta1`.
    pub version: &'static str,
    /// The kind in this version.
    pub kind: &'static str,
    /// The plural, lower-case name in URLs.
    pub plural: &'static str,
    /// The singular name.
    pub singular: &'static str,
    /// Abbreviations that kubectl expands.
    pub short_names: &'static [&'static str],
    /// Group names such as `all`.
    pub categories: &'static [&'static str],
}

impl Served {
    /// Without short names and categories.
    pub const fn new(
        group: &'static str,
        version: &'static str,
        kind: &'static str,
        plural: &'static str,
        singular: &'static str,
    ) -> Self {
        Self { group, version, kind, plural, singular, short_names: &[], categories: &[] }
    }

    /// Adds abbreviations.
    pub const fn short(mut self, names: &'static [&'static str]) -> Self {
        self.short_names = names;
        self
    }

    /// Makes it a member of the category `all`.
    pub const fn all(mut self) -> Self {
        self.categories = &["all"];
        self
    }

    /// The same names in another group and version.
    pub const fn also(mut self, group: &'static str, version: &'static str) -> Self {
        self.group = group;
        self.version = version;
        self
    }

    /// Without abbreviations and categories: they stand for the same type in its newer group, and
    /// clients warn of names that mean two.
    pub const fn bare(mut self) -> Self {
        self.short_names = &[];
        self.categories = &[];
        self
    }

    /// `group/version`, or `version` alone in the core group.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.to_owned()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }
}
