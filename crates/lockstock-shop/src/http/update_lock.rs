//! The lock around updates of one product. One request at a time updates a product, and after a
//! write none does for the rest of the lease. An update that wrote nothing releases the lock.
//!
//! The lock is acquired after the request is read and validated, and no database connection is
//! held while a request waits for it. While the lock is held, the update runs to its end even if
//! the client disconnects. The write is fenced (see `storage.rs`): if the lock is lost before
//! the commit, nothing is written.

use std::time::Duration;

use axum::http::StatusCode;
use axum::http::request::Parts;
use lockstock::Store;
use lockstock_http::{Key, LockLayer};

use crate::error::ApiError;
use crate::failpoint;
use crate::http::paths::ProductId;

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

/// Builds the layer that acquires the lock of the product that a request updates.
pub(crate) fn update_lock(store: &Store, settings: UpdateLockSettings) -> LockLayer {
    let key = Key::from_fn(lock_name);
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
        .on_rejection(|rejection, _| ApiError::of_layer(rejection))
}

fn lock_name(parts: &Parts) -> Option<String> {
    let ProductId(id) = ProductId::parse(parts.uri.path()).ok()?;
    let mut name = format!("product-update-lock-{id}");
    // Equivalent to a store that grants every lock to all requests.
    if failpoint::is_on("update.always_granted") {
        name += &format!("-{:x}", rand::random::<u64>());
    }
    Some(name)
}
