//! The locks of [lockstock] as HTTP behaviour: [tower](https://docs.rs/tower) layers for axum,
//! or any other service of [`http`] requests.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Extension, Router, routing::{patch, post}};
//! use lockstock::Store;
//! use lockstock_http::{LockLayer, HeldLock, IdempotencyLayer, Key};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lockstock::Result<()> {
//! let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
//!
//! // One update of a product in 3 s; the others hear 429 with Retry-After.
//! let update = LockLayer::cooldown(&store, Key::path("/products/{id}/"), Duration::from_secs(3));
//! // A payment that is sent twice is made once, and answered twice.
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
//! # A map of the crate
//!
//! - [`LockLayer`]: one request at a time for each key, or one success in so long. The handler finds
//!   its [`HeldLock`]; [`OutcomeUnknown`] says that nobody knows whether it has written.
//! - [`ConcurrencyLimitLayer`]: at most so many at a time for each key, over all processes.
//! - [`Key`]: which requests have the same key: by path, by header, by a closure; of some methods
//!   only.
//! - [`IdempotencyLayer`]: a request that is sent again is answered again. Its [`RecordedResponse`]s are in a
//!   store ([`LockstockRecordStore`]) or in the transaction of the effect ([`RecordStore`],
//!   [`RequestKey`]).
//! - [`PreconditionsLayer`]: `ETag`, `If-Match`, `If-None-Match`, 428; [`IfMatch`] for handlers.
//! - [`Rejection`]: why a request was not carried out, told as `application/problem+json` or as
//!   the `refuse` of a layer says.
//!
//! What all layers have in common: the error of the inner service is left alone, whatever is
//! refused is an answer with a status; `Retry-After` whenever there is something to wait for; a
//! store that is unavailable means 503, unless `fail_open` says otherwise; with
//! `drain().await` a server waits for the handlers whose clients are gone.
//!
//! # Which layer goes outside
//!
//! With axum the layer that is added last is outermost. From the outside in:
//! authentication, [`PreconditionsLayer`] that require, [`IdempotencyLayer`], [`LockLayer`], [`ConcurrencyLimitLayer`],
//! [`PreconditionsLayer`] that compare. A request that is answered again then takes no lock, one that
//! has no lock takes no place among the many, and a tag is compared under the lock.

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

/// Any error, for what this crate hands on and does not look into.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
