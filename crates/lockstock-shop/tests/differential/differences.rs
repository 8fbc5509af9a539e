//! Where we mean to answer otherwise than Django REST framework, and why.
//!
//! Each exception is checked three ways: its cases must exist, must differ in exactly these
//! aspects, and our answer must be the one written here. The reasons are the rows of
//! `docs/differences.md`, in the same order.

#[path = "differences/bodies.rs"]
mod bodies;
#[path = "differences/requests.rs"]
mod requests;

use crate::compare::Aspect;

/// Why some answers differ, and which.
pub(crate) struct Reason {
    /// The last cell of its row in `docs/differences.md`.
    pub(crate) why: &'static str,
    pub(crate) exceptions: &'static [Exception],
}

/// Cases that differ in the same way.
pub(crate) struct Exception {
    pub(crate) cases: &'static [&'static str],
    /// All that differs, and nothing else.
    pub(crate) differs_in: &'static [Aspect],
    /// Ours.
    pub(crate) status: u16,
    /// Ours, as JSON; a member "…" stands for any others. Empty if it has none.
    pub(crate) body: &'static str,
}

/// Every reason, in the order of the document.
pub(crate) fn reasons() -> impl Iterator<Item = &'static Reason> {
    requests::REASONS.iter().chain(bodies::REASONS)
}
