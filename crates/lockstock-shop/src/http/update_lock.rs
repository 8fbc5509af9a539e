//! The lock around updates of one product. One request at a time updates a product, and after a
//! write none does for the rest of the lease. An update that wrote nothing releases the lock.
//!
//! The lock is acquired after the request is read and validated, and no database connection is
//! held while a request waits for it. While the lock is held, the update runs to its end even if
//! the client disconnects. The write is fenced (see `storage.rs`): if the lock is lost before
//! the commit, nothing is written.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use axum::http::request::Parts;
use lockstock::Store;
use lockstock_http::{Key, LockLayer, LockObserver};

use crate::error::ApiError;
use crate::failpoint;
use crate::health::Health;
use crate::http::paths::ProductId;

/// Maximum length of a template. Names of locks may be longer.
const MAX_TEMPLATE_BYTES: usize = 512;

/// Settings of the update lock.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpdateLockSettings {
    /// How long one update may take, and how long a product stays locked after an update.
    pub(crate) lease: Duration,
    /// How long an update waits for the lock.
    pub(crate) wait: Duration,
    /// What happens to the lock after a successful update.
    pub(crate) after_update: AfterUpdate,
}

/// What happens to the lock of a product after a successful update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum AfterUpdate {
    /// The lock stays taken to the end of the lease: one update per lease
    Keep,
    /// The lock is released at once: one update at a time
    Release,
}

/// Names the lock of each product: a text with one `{id}`.
///
/// The name is the Redis key of the lock, so that other programs can contend for it. Names that
/// are not (those with braces, or with the prefix of internal keys) are rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LockNameTemplate {
    prefix: String,
    suffix: String,
}

impl LockNameTemplate {
    /// Returns what stands before and after the id.
    pub(crate) fn parts(&self) -> (&str, &str) {
        (&self.prefix, &self.suffix)
    }

    fn name(&self, id: i64) -> String {
        format!("{}{id}{}", self.prefix, self.suffix)
    }
}

impl FromStr for LockNameTemplate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, suffix) = text
            .split_once("{id}")
            .ok_or("expected a name with {id}, like product-update-lock-{id}")?;
        if prefix.contains(['{', '}']) || suffix.contains(['{', '}']) {
            return Err("expected {id} once and no other braces".to_owned());
        }
        if prefix.starts_with("lockstock:") {
            return Err("names that begin with lockstock: are reserved".to_owned());
        }
        if text.len() > MAX_TEMPLATE_BYTES {
            return Err(format!("expected at most {MAX_TEMPLATE_BYTES} bytes"));
        }
        Ok(Self {
            prefix: prefix.to_owned(),
            suffix: suffix.to_owned(),
        })
    }
}

/// Builds the layer that acquires the lock of the product that a request updates.
pub(crate) fn update_lock(
    store: &Store,
    store_health: &Arc<Health>,
    names: LockNameTemplate,
    settings: UpdateLockSettings,
    observer: Arc<dyn LockObserver>,
) -> LockLayer {
    let key = Key::from_fn(move |parts| lock_name(&names, parts));
    let layer = match settings.after_update {
        // Only 200 keeps the lock. After a DELETE (204) the next request must get 404, not 429.
        AfterUpdate::Keep => {
            LockLayer::cooldown(store, key, settings.lease).success_status([StatusCode::OK])
        }
        AfterUpdate::Release => LockLayer::exclusive(store, key, settings.lease),
    };
    layer
        .wait(settings.wait)
        // The transaction that writes compares the fence and the deadline.
        .finish_when_lost()
        .observed_by(observer)
        .on_rejection(ApiError::of_layer_on(store_health.clone()))
}

fn lock_name(names: &LockNameTemplate, parts: &Parts) -> Option<String> {
    let ProductId(id) = ProductId::parse(parts.uri.path()).ok()?;
    let mut name = names.name(id);
    // Equivalent to a store that grants every lock to all requests.
    if failpoint::is_on("update.always_granted") {
        name += &format!("-{:x}", rand::random::<u64>());
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_has_the_id_once() {
        for (template, name) in [
            ("product-update-lock-{id}", "product-update-lock-7"),
            (":1:product-update-lock-{id}", ":1:product-update-lock-7"),
            ("{id}", "7"),
            ("재고 {id}호", "재고 7호"),
        ] {
            assert_eq!(template.parse::<LockNameTemplate>().unwrap().name(7), name);
        }
        for (template, part) in [
            ("", "with {id}"),
            ("product-update-lock", "with {id}"),
            ("product-{pk}", "with {id}"),
            ("{id}-{id}", "once"),
            ("{shop}-{id}", "no other braces"),
            ("lockstock:{id}", "reserved"),
        ] {
            let error = template.parse::<LockNameTemplate>().unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
        let longest = format!("{}{{id}}", "a".repeat(MAX_TEMPLATE_BYTES));
        assert!(longest.parse::<LockNameTemplate>().is_err());
    }
}
