//! Distributed locks that are fenced and honest about being lost, on Redis or in memory.
//!
//! A web API gets the same request several times at once. One of them may do the work; the
//! others are told, quickly, when to come back. And the one that did it may have been
//! paused for longer than its lease, so the database must be able to tell that it is late.
//!
//! ```
//! use std::time::Duration;
//! use lockstock::{Acquired, Store};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> lockstock::Result<()> {
//! let store = Store::connect("memory://").await?; // or "redis://127.0.0.1:6379/1"
//! let lock = store.lock("product-update-lock-42").lease(Duration::from_secs(3))?;
//!
//! match lock.acquire_within(Duration::from_secs(1)).await? {   // Err: the store is unavailable
//!     Acquired::Held(guard) => {
//!         // UPDATE … SET fence = $f WHERE id = 42 AND fence < $f, with f = guard.fence()
//!         guard.keep().await?;       // nobody for the rest of the lease; or release()
//!     }
//!     Acquired::Busy(busy) => {      // an answer, not an error
//!         println!("429, Retry-After: {:?}", busy.retry_after());
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # A map of the crate
//!
//! - [`Store`]: where locks live, opened from a URL.
//! - [`Store::lock`] → [`LockBuilder::lease`] → [`Lock`]: acquired any number of times. One
//!   holder at a time; [`release`](Guard::release) when done, or [`keep`](Guard::keep) for once
//!   in so long.
//! - [`Store::semaphore`], [`Store::read_lock`], [`Store::write_lock`]: the same for so many at
//!   a time, for many who read or one who writes.
//! - [`Store::lock_all`] → [`MultiLockBuilder::lease`] → [`MultiLock`] → [`MultiGuard`]: several names,
//!   all or none.
//! - [`Guard`]: fence, deadline, extend, renew, lost, run, release, keep.
//! - [`Store::cache`] → [`Cache`]: values with a time to live.
//! - [`Store::locks`]: who holds what and who waits for it, for those who run it.
//! - [`Error`]: what went wrong, by predicates.
//!
//! Metrics go through the [`metrics`] facade: `lockstock_lock_held_total`, `…_busy_total`,
//! `…_lost_total`, `…_handovers_total` by `kind`, `lockstock_lock_wait_seconds`,
//! `lockstock_lock_hold_seconds`.

mod cache;
mod error;
mod guard;
mod inspect;
mod key;
mod lock;
mod multi;
mod redact;
mod store;
mod token;

pub use cache::{Cache, MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES, MIN_TTL};
pub use error::{Error, Result};
pub use guard::Guard;
pub use inspect::{Access, HolderId, HolderInfo, LockInfo, WaiterInfo};
pub use key::{LockKind, MAX_NAME_BYTES};
pub use lock::{Acquired, Busy, Lock, LockBuilder, MAX_LEASE, MIN_LEASE};
pub use multi::{MultiGuard, MultiLock, MultiLockBuilder};
pub use redact::redact_url;
pub use store::{DEFAULT_TIMEOUT, Store};
pub use token::ClientId;
