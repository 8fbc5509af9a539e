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
    /// Whether the caller is the name of an API key, and not the digest of credentials that the
    /// server has not checked. Only names are part of the ledger: each client can read it.
    pub has_key: bool,
    /// Set if the request has an idempotency key.
    pub known_commits: KnownCommits,
}

impl RequestContext {
    /// Returns the name of the API key, for the ledger.
    pub(super) fn key_name(&self) -> Option<String> {
        self.has_key.then(|| self.caller.to_string())
    }
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
