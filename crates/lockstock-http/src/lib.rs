//! [tower](https://docs.rs/tower) layers that use the locks of [lockstock], for axum and other
//! services of [`http`] requests.
//!
//! ```
//! use std::time::Duration;
//! use axum::{Router, routing::{patch, post}};
//! use lockstock::Store;
//! use lockstock_http::{HeldLock, IdempotencyLayer, Key, LockLayer};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lockstock::Result<()> {
//! let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
//!
//! // One update of a product per 3 s. Others are rejected with 429 and Retry-After.
//! let update = LockLayer::cooldown(&store, Key::matched_path(), Duration::from_secs(3));
//! // A repeated payment is made once, and every request gets the same response.
//! let once = IdempotencyLayer::in_store(&store).require();
//!
//! let app: Router = Router::new()
//!     .route("/products/{id}/", patch(async |held: HeldLock| {
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
//!   its [`HeldLock`]; with [`OutcomeUnknown`] it marks a response whose effect is unknown, with
//!   [`NothingWritten`] a response without one. A [`LockObserver`] follows its requests.
//! - [`ConcurrencyLimitLayer`]: at most N requests at a time for each key, over all processes.
//! - [`Key`]: extracts the key of a request: from the route of axum, by path, by header or by a
//!   closure, optionally for some methods only.
//! - [`IdempotencyLayer`]: replays the response to a repeated request. Each [`RecordedResponse`] is
//!   in a store ([`LockstockRecordStore`]) or is written in the transaction of the effect
//!   ([`RecordStore`], [`RequestKey`]).
//! - [`PreconditionsLayer`]: `ETag`, `If-Match`, `If-None-Match`, dates, 428; [`Preconditions`] for
//!   handlers.
//! - [`Rejection`]: why a layer rejected a request, with a response as `application/problem+json` in
//!   the [`Language`] of the client. `on_rejection` of a layer replaces the response;
//!   [`retry_after_secs`] rounds as the layers do.
//!
//! # Services
//!
//! A layer wraps any [`tower_service::Service`] of [`http`] requests whose response body is an
//! [`http_body::Body`] of [`bytes::Bytes`]. Its own responses have the type [`ResponseBody`], so the
//! body of the service needs no conversion from bytes. Only the request body of an
//! [`IdempotencyLayer`], which is read and restored, must be `From<Bytes>`.
//!
//! With the default feature `axum`, there are `Key::matched_path` and extractors of [`HeldLock`],
//! [`Preconditions`] and [`RequestKey`].
//!
//! There is no rate limiter, only limits of what runs at a time and of successes per lease.
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
//! response takes no lock (with [`process_first`](IdempotencyLayer::process_first): waits for none), a
//! request without the lock takes no permit, and tags are compared under the lock.
//!
//! A tuple adds several layers at once, the first one outermost. (`.layer(lock).layer(once)` on a
//! method router of axum does not compile without the type of the error in between.)
//!
//! ```
//! # use std::time::Duration;
//! # use axum::{Router, routing::post};
//! # use lockstock::Store;
//! # use lockstock_http::{IdempotencyLayer, Key, LockLayer};
//! # fn app(store: &Store) -> Router {
//! let once = IdempotencyLayer::in_store(store).require();
//! let lock = LockLayer::cooldown(store, Key::matched_path(), Duration::from_secs(3));
//! Router::new().route("/orders/{id}/", post(async || "ordered").layer((once, lock)))
//! # }
//! ```

mod admission;
mod authorization;
mod concurrency_limit;
mod detached;
#[cfg(feature = "axum")]
mod extract;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, doc(hidden))]
pub mod fuzzing;
mod hash;
mod idempotency;
mod key;
mod language;
mod late_look_up;
mod lock;
mod middleware;
mod observer;
mod opaque;
mod preconditions;
mod rejection;
mod response_body;
mod success;

pub use authorization::normalized_authorization;
pub use concurrency_limit::ConcurrencyLimitLayer;
#[cfg(feature = "axum")]
pub use extract::MissingLayer;
pub use idempotency::{
    IdempotencyLayer, LockstockRecordStore, Malformed, RecordStore, RecordedResponse, RequestKey,
    idempotency_key,
};
pub use key::Key;
pub use language::Language;
pub use lock::{HeldLock, LockLayer, NothingWritten, OutcomeUnknown};
pub use middleware::Middleware;
pub use observer::{LockEvent, LockObservation, LockObserver};
pub use preconditions::{EntityTag, Preconditions, PreconditionsLayer, TagCondition, Validators};
pub use rejection::{Rejection, retry_after_secs};
pub use response_body::ResponseBody;

/// Error that this crate passes on.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;
