//! The request that causes a write.

use std::sync::Arc;

use tokio::time::Instant;

/// The request that causes a write, and its caller.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// The id of the request, for the ledger.
    pub request_id: Arc<str>,
    /// The caller; empty if unknown.
    pub caller: Arc<str>,
    /// Set if the request has an idempotency key.
    pub known_commits: KnownCommits,
}

/// The commits that the server knew of when a request arrived: each of them is earlier than the
/// request. Without a snapshot, none is known.
#[derive(Debug, Clone, Default)]
pub struct KnownCommits {
    /// In the format of the database.
    pub(super) snapshot: Option<Arc<str>>,
    /// When the request arrived.
    pub(super) as_of: Option<Instant>,
}
