//! Distributed locks with fences, leases and fair queues, on Redis or in memory.
//!
//! When a web API receives the same request several times at once, only one of them may do
//! the work. The others get an early answer that includes when to retry. The winner may be
//! paused for longer than its lease, so the database must be able to reject its late writes:
//! each grant has a fence for that.
//!
//! ```
//! use std::time::Duration;
//! use lockstock::{Acquired, Store};
//!
//! # async fn save(fence: u64) -> Result<(), &'static str> { Ok(()) }
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lockstock::Result<()> {
//! let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
//! let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
//!
//! let outcome = lock.with(Duration::from_secs(1), async |guard| {
//!     save(guard.fence()).await // UPDATE … SET fence = $f WHERE id = 42 AND fence < $f
//! });
//! match outcome.await? { // Err: the store is unavailable, or the lock was lost
//!     Acquired::Held(saved) => println!("{saved:?}"),
//!     Acquired::Busy(busy) => println!("429, Retry-After: {:?}", busy.retry_after()), // no error
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Lock::acquire_within`] returns the guard instead, to hold it for longer than a call, or to
//! [`keep`](Guard::keep) the lock as a cool-down.
//!
//! # How to depend on it
//!
//! `cargo add lockstock --git https://github.com/lockstock/lockstock`, with Rust 1.94 or later and
//! tokio. The feature `tls` is on by default: rustls, with the system's certificates, for
//! `rediss://`. Without it the crate builds faster, and `rediss://` fails as invalid. Redis 6.2 or
//! later or Valkey; for `memory://` none.
//!
//! # A map of the crate
//!
//! - [`Store`]: where locks and values live, opened from a URL; [`Store::builder`] for credentials
//!   and certificates from memory.
//! - [`Store::lock`] → [`LockBuilder::lease`] → [`Lock`]: one holder at a time. Run work
//!   [`with`](Lock::with) it, or acquire it; [`release`](Guard::release) it when the work is done,
//!   or [`keep`](Guard::keep) it to the end of the lease.
//! - [`Store::semaphore`], [`Store::read_lock`], [`Store::write_lock`]: the same for a number
//!   of permits, and for many readers or one writer.
//! - [`Store::lock_all`] → [`MultiLockBuilder::lease`] → [`MultiLock`] → [`MultiGuard`]:
//!   several names, all or none.
//! - [`Guard`]: fence, deadline, extend, renew, lost, run, release, keep.
//! - [`Store::cache`] → [`Cache`]: typed values with a time to live, by a [`Codec`];
//!   [`Cache::get_or_try_set`] computes what is missing, once for all callers, by a
//!   [`ComputePolicy`]; [`Cache::tags`] for entries that are invalidated together.
//! - [`blocking`]: the same for threads without a runtime.
//! - [`Store::locks`]: the holders and waiters of every lock, for operators.
//! - [`Error`]: why a call failed, by predicates.
//!
//! Not in the crate: a rate limiter. A [semaphore](Store::semaphore) bounds how many run at once,
//! and a lock that is [kept](Guard::keep) allows one success per lease; neither counts requests per
//! minute.
//!
//! Metrics are reported through the [`metrics`] facade: `lockstock_lock_held_total`, `…_busy_total`,
//! `…_lost_total`, `…_handovers_total` by `kind`, `lockstock_lock_wait_seconds`,
//! `lockstock_lock_hold_seconds`. Of caches: `lockstock_cache_hits_total`, `…_misses_total`,
//! `…_stale_total`, `…_computations_total` by `outcome` (`computed`, `failed`), `…_unavailable_total`,
//! `lockstock_cache_compute_seconds`.

// rustdoc lists the methods of `Store` in the order of the modules: open it, lock, then the rest.
mod store;

mod lock;

mod multi;

pub mod blocking;

mod cache;
mod command;
mod error;
mod escaped;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod inspect;
mod key;
mod lease;
mod listing;
mod random;
mod redact;
mod runtime;
mod token;
mod topic;

#[cfg(feature = "messagepack")]
pub use cache::MessagePack;
pub use cache::{
    Cache, Codec, CodecError, ComputeError, ComputePolicy, DEFAULT_COMPUTE_WAIT,
    DEFAULT_MAX_STALENESS, Integer, Json, KeyScan, MAX_KEY_BYTES, MAX_TAG_BYTES, MAX_TAGS, MAX_TTL,
    MAX_VALUE_BYTES, MIN_MAX_STALENESS, MIN_TTL, NearCache, Raw, Tags, Ttl,
};
pub use command::{Command, Reply};
pub use error::{Error, Result};
pub use guard::Guard;
pub use inspect::{Access, GrantKind, HolderId, HolderInfo, LockInfo, LockListing, WaiterInfo};
pub use key::{LockKind, MAX_NAME_BYTES};
pub use lease::{MAX_LEASE, MIN_LEASE};
pub use lock::{Acquired, Busy, Lock, LockBuilder, MAX_PERMITS_TAKEN};
pub use multi::{MultiGuard, MultiLock, MultiLockBuilder};
pub use redact::redact_url;
pub use store::{DEFAULT_TIMEOUT, Store, StoreBuilder};
pub use token::ClientId;
pub use topic::Subscription;
