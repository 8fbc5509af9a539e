//! The JSON of the stream and of the list of locks.
//!
//! Times are milliseconds since the epoch on the clock of the server that sends them; durations have
//! `_ms` at the end of their names. A member that has nothing to report is missing.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// What happened to the locks and products of one server since its last frame.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Frame {
    pub(crate) at: i64,
    /// The server whose locks these are: the first digits of its client id.
    #[schema(example = "a1b2c3d4")]
    pub(crate) server: String,
    /// Locks that have changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) locks: Vec<LockStatus>,
    /// Products that have changed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) products: Vec<ProductStatus>,
    /// Holds that have ended.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) episodes: Vec<Episode>,
}

impl Frame {
    pub(super) fn is_empty(&self) -> bool {
        self.locks.is_empty() && self.products.is_empty() && self.episodes.is_empty()
    }
}

/// The locks that are held, kept or waited for, the products, and the holds of the last minutes.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Snapshot {
    #[serde(flatten)]
    pub(crate) list: LockList,
    /// The first products, by their ids.
    pub(crate) products: Vec<ProductStatus>,
    /// The holds that ended in the last five minutes, the newest first.
    pub(crate) episodes: Vec<Episode>,
}

/// The locks that are held, kept or waited for.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct LockList {
    #[schema(example = 1_790_000_000_200_i64)]
    pub(crate) at: i64,
    /// The server that responds: the first digits of its client id.
    #[schema(example = "a1b2c3d4")]
    pub(crate) server: String,
    /// All servers whose locks are known, this one first.
    pub(crate) servers: Vec<String>,
    /// Whether all locks of the store are in the list. `false` if there are too many keys in the store
    /// to look at all of them, or if the store does not reply: then the locks of the known servers are.
    pub(crate) complete: bool,
    pub(crate) locks: Vec<LockStatus>,
}

/// One lock, at the end of a frame.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct LockStatus {
    #[schema(example = "product-update-lock-1")]
    pub(crate) name: String,
    /// The product whose update lock it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = 1)]
    pub(crate) product: Option<i64>,
    pub(crate) state: LockState,
    /// The holder. `null` if the lock is free.
    pub(crate) holder: Option<Holder>,
    /// Number of requests that wait for it.
    pub(crate) waiting: u32,
    /// Number of grants since the last frame.
    #[serde(skip_serializing_if = "GrantCounts::is_zero")]
    pub(crate) granted: GrantCounts,
    /// Number of requests that were refused since the last frame.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) refused: u32,
    /// The longest wait that ended since the last frame.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) longest_wait_ms: Option<f64>,
    /// The events since the last frame, unless there are more than 50 a second.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) events: Vec<Event>,
    /// In a list, the waiters in the queue of the store: the first of each server.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) waiters: Vec<Waiter>,
}

/// The state of a lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LockState {
    /// A handler works under it.
    Held,
    /// The work is done, and the lock stays taken to the end of its lease.
    Kept,
    #[default]
    Free,
}

/// The holder of a lock. Who holds it is known of servers that publish to this one.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Holder {
    /// The token of the holder: `?holder=` of a forced release.
    #[schema(example = "00112233445566778899aabbccddeeff")]
    pub(crate) id: String,
    /// The server that holds it. Missing for a program that took the lock with `SET NX`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) server: Option<String>,
    #[serde(flatten)]
    pub(crate) requester: Requester,
    /// When it acquired the lock.
    pub(crate) since: Option<i64>,
    /// When its lease ends. `null` if it has none.
    pub(crate) until: Option<i64>,
    pub(crate) fence: Option<u64>,
}

/// Whose request it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Requester {
    /// The `X-Request-Id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) request: Option<String>,
    /// The name of the API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "till-3")]
    pub(crate) caller: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, example = "127.0.0.1")]
    pub(crate) address: Option<String>,
}

/// How often a lock was granted, by how it came to its holder.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct GrantCounts {
    /// It was free.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) free: u32,
    /// Handed over within the server.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) local: u32,
    /// Handed over by another server.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) remote: u32,
    /// After the end of a lease.
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) expired: u32,
}

impl GrantCounts {
    fn is_zero(&self) -> bool {
        *self == Self::default()
    }
}

/// One event of a request that wants a lock.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Event {
    pub(crate) at: i64,
    pub(crate) kind: EventKind,
    #[serde(flatten)]
    pub(crate) requester: Requester,
    /// How the lock was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) by: Option<GrantedBy>,
    /// How long the request has waited until this event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) waited_ms: Option<f64>,
    /// How long the lock was held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) held_ms: Option<f64>,
    /// When the lease ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) until: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) fence: Option<u64>,
    /// The token of the holder.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) holder: Option<String>,
    /// Whether a refused request met a kept lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) kept: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) retry_after_ms: Option<f64>,
}

/// What an event is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EventKind {
    /// The request asks for the lock.
    #[default]
    Waiting,
    Granted,
    /// The request was rejected, because another one has the lock.
    Refused,
    /// The client disconnected while its request waited.
    Cancelled,
    /// The store did not reply.
    Failed,
    Released,
    Kept,
    /// The lock was lost before it was released or kept.
    Lost,
    /// An operator took the lock away.
    Forced,
}

/// How a lock came to its holder: see [`GrantCounts`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum GrantedBy {
    Free,
    Local,
    Remote,
    Expired,
}

/// A waiter in the queue of the store.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Waiter {
    pub(crate) server: String,
    pub(crate) waited_ms: f64,
    /// `null` if it waits without end.
    pub(crate) timeout_in_ms: Option<f64>,
}

/// One hold of a lock, from its grant to its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct Episode {
    pub(crate) lock: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub(crate) product: Option<i64>,
    pub(crate) from: i64,
    /// When the lock could be granted again: the end of the lease if it was kept.
    pub(crate) to: i64,
    #[serde(flatten)]
    pub(crate) requester: Requester,
    /// Number of requests of the server that wanted the lock meanwhile.
    pub(crate) waited: u32,
    /// How many of them were refused.
    pub(crate) refused: u32,
    /// The longest of their waits.
    pub(crate) longest_wait_ms: f64,
    pub(crate) ended: EpisodeEnd,
}

/// How a hold ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EpisodeEnd {
    #[default]
    Released,
    /// At the end of its lease, after it was kept.
    Kept,
    /// At the end of its lease, without being released.
    Expired,
    Lost,
    /// By a forced release.
    Forced,
}

/// The stock of a product. Of a deleted product only the id is present.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub(crate) struct ProductStatus {
    pub(crate) id: i64,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) deleted: bool,
    #[serde(flatten)]
    pub(crate) state: Option<ProductState>,
}

/// What a product is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct ProductState {
    pub(crate) name: String,
    /// In minor units: cents, won.
    pub(crate) price: i64,
    pub(crate) stock: i64,
    /// Units set aside by reservations.
    pub(crate) reserved: i64,
    /// Units that can be bought.
    pub(crate) available: i64,
    pub(crate) version: i64,
}

fn is_zero(count: &u32) -> bool {
    *count == 0
}
