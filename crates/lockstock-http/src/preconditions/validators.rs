//! Version of a resource, which conditions are compared with.

use std::time::SystemTime;

use tracing::warn;

use super::tags::EntityTag;

/// Version of a resource that exists.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Validators {
    /// Entity tag as in an `ETag` header: `"3"`, quotes included. `None` if the resource has none.
    pub etag: Option<String>,
    /// Time as in a `Last-Modified` header. `None` if the resource has none.
    pub last_modified: Option<SystemTime>,
}

impl Validators {
    /// Returns the entity tag, if the resource has a valid one.
    pub(super) fn tag(&self) -> Option<EntityTag> {
        let text = self.etag.as_ref()?;
        let tag = EntityTag::parse(text.as_bytes());
        if tag.is_none() {
            warn!(etag = text, "not an entity tag: it needs double quotes");
        }
        tag
    }
}

impl From<String> for Validators {
    fn from(etag: String) -> Self {
        Self {
            etag: Some(etag),
            last_modified: None,
        }
    }
}

impl From<&str> for Validators {
    fn from(etag: &str) -> Self {
        Self::from(etag.to_owned())
    }
}
