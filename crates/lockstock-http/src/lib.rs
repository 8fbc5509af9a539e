//! [tower](https://docs.rs/tower) layers that use the locks of [lockstock], for axum and other
//! services of [`http`] requests.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Extension, Router, routing::{patch, post}};
//! use lockstock::Store;
//! use lockstock_http::{HeldLock, IdempotencyLayer, Key, LockLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lockstock::Result<()> {
//! let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
//!
//! // One update of a product per 3 s. Others are rejected with 429 and Retry-After.
//! let update = LockLayer::cooldown(&store, Key::path("/products/{id}/"), Duration::from_secs(3));
//! // A repeated payment is made once, and every request gets the same response.
//! let once = IdempotencyLayer::in_store(&store).require();
//!
//! let app: Router = Router::new()
//!     .route("/products/{id}/", patch(async |Extension(held): Extension<HeldLock>| {
//!         // UPDATE … SET fence = $f WHERE id = $id AND fence < $f, with f = held.fence
//!         format!("updated under fence {}", held.fence)
//!     }).layer(update))
//!     .route("/payments/", post(async || "paid").layer(once));
//! # let _ = app;
//! # Ok(())
//! # }
//! ```
//!
//! # Map of the crate
//!
//! - [`LockLayer`]: one request at a time, or one success per lease, for each key. The handler finds
//!   its [`HeldLock`]; with [`OutcomeUnknown`] it marks a response whose effect is unknown.
//! - [`ConcurrencyLimitLayer`]: at most N requests at a time for each key, over all processes.
//! - [`Key`]: extracts the key of a request: by path, by header or by a closure, optionally for some
//!   methods only.
//! - [`IdempotencyLayer`]: replays the response to a repeated request. Each [`RecordedResponse`] is
//!   in a store ([`LockstockRecordStore`]) or is written in the transaction of the effect
//!   ([`RecordStore`], [`RequestKey`]).
//! - [`PreconditionsLayer`]: `ETag`, `If-Match`, `If-None-Match`, 428; [`IfMatch`] for handlers.
//! - [`Rejection`]: why a layer rejected a request, with a response as `application/problem+json`.
//!   `on_rejection` of a layer replaces the response; [`retry_after_secs`] rounds as the layers do.
//!
//! All layers pass errors of the inner service on unchanged. They reject a request with a response
//! that has a status and, if a retry can succeed, `Retry-After`. If the store is unavailable, the
//! response is 503, unless the layer is set to `fail_open`. `drain().await` waits for handlers whose
//! clients have disconnected.
//!
//! # Order of the layers
//!
//! In axum, the layer that is added last is outermost. From the outside in: authentication,
//! [`PreconditionsLayer`] with `require`, [`IdempotencyLayer`], [`LockLayer`],
//! [`ConcurrencyLimitLayer`], [`PreconditionsLayer`] with `current`. In this order a replayed
//! response takes no lock, a request without the lock takes no permit, and tags are compared under
//! the lock.

mod admission;
mod concurrency_limit;
mod detached;
mod hash;
mod idempotency;
mod key;
mod lock;
mod middleware;
mod opaque;
mod preconditions;
mod rejection;

pub use concurrency_limit::ConcurrencyLimitLayer;
pub use idempotency::{
    IdempotencyLayer, LockstockRecordStore, Malformed, RecordStore, RecordedResponse, RequestKey,
};
pub use key::Key;
pub use lock::{HeldLock, LockLayer, OutcomeUnknown};
pub use middleware::Middleware;
pub use preconditions::{IfMatch, PreconditionsLayer};
pub use rejection::{Rejection, retry_after_secs};

/// Error that this crate passes on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
