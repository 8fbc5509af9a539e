//! Whose turn it is to change a product: the article's contract. One request at a time changes
//! a product, and after a success nobody does for the rest of the lease.
//!
//! The write is fenced (see `storage.rs`): if the lock was lost on the way, nothing is written.
//! Once the lock is held the work is finished even if the client has gone. The lock is taken
//! after the body is read and validated, and no database connection is held while it is waited
//! for.

use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::IntoResponse;
use lockstock::Store;
use lockstock_http::{Key, LockLayer};

use crate::error::Refusal;
use crate::failpoint;
use crate::http::routes::product_id;

/// How updates take turns.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UpdateRules {
    /// How long one update may take, and how long others are kept out after it.
    pub(crate) lease: Duration,
    /// How long an update waits for the one before it.
    pub(crate) wait: Duration,
    /// What happens to the lock after a success.
    pub(crate) hold: Hold,
}

/// What happens to the lock of a product after a successful update.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Hold {
    /// The lock stays taken to the end of the lease: one update per lease
    Keep,
    /// The lock is released at once: one update at a time
    Release,
}

/// The turns of all products.
pub(crate) fn turns(store: &Store, rules: UpdateRules) -> LockLayer<Body> {
    let key = Key::from_fn(lock_name);
    let guard = match rules.hold {
        // What is gone (204) needs no cool-down: who comes next shall hear 404, not 429.
        Hold::Keep => LockLayer::cooldown(store, key, rules.lease).success_status([StatusCode::OK]),
        Hold::Release => LockLayer::exclusive(store, key, rules.lease),
    };
    guard
        .wait(rules.wait)
        // The database compares the fence and the deadline in the transaction that writes.
        .finish_when_lost()
        .on_rejection(|refused| Refusal::from(refused).into_response())
}

fn lock_name(parts: &Parts) -> Option<String> {
    let id = product_id(parts.uri.path()).ok()?;
    let mut name = format!("product-update-lock-{id}");
    // As good as a store that grants every lock to everybody.
    if failpoint::is_on("locks.granted.to.everybody") {
        name += &format!("-{:x}", rand::random::<u64>());
    }
    Some(name)
}
