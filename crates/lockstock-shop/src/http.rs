//! The layers and extractors in front of the handlers.

pub(crate) mod docs_page;
pub(crate) mod idempotency;
pub(crate) mod lock_observer;
pub(crate) mod middleware;
pub(crate) mod paths;
pub(crate) mod preconditions;
pub(crate) mod request_context;
pub(crate) mod routes;
pub(crate) mod static_file;
pub(crate) mod update_lock;
