//! The request that causes a write.

use std::sync::Arc;

/// The request that causes a write, and its caller.
#[derive(Debug, Clone, Default)]
pub struct RequestContext {
    /// The id of the request, for the ledger.
    pub request_id: Arc<str>,
    /// The caller; empty if unknown.
    pub caller: Arc<str>,
}
