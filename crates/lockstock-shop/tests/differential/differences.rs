//! Intended differences from Django REST framework, with their reasons.
//!
//! Each exception is checked three ways: its cases must exist, the responses must differ in exactly
//! these aspects, and Lockstock's response must be the one given here. The reasons are the rows of
//! `docs/differences.md`, in the same order.

#[path = "differences/bodies.rs"]
mod bodies;
#[path = "differences/requests.rs"]
mod requests;

use crate::compare::Aspect;

/// A reason and the responses that differ because of it.
pub(crate) struct Reason {
    /// The last cell of its row in `docs/differences.md`.
    pub(crate) why: &'static str,
    pub(crate) exceptions: &'static [Exception],
}

/// Cases that differ in the same way.
pub(crate) struct Exception {
    pub(crate) cases: &'static [&'static str],
    /// Exactly the aspects that differ.
    pub(crate) differs_in: &'static [Aspect],
    /// Status of Lockstock's response.
    pub(crate) status: u16,
    /// Body of Lockstock's response as JSON, empty if it has none. A member "…" matches any others.
    pub(crate) body: &'static str,
}

/// Returns every reason in the order of the document.
pub(crate) fn reasons() -> impl Iterator<Item = &'static Reason> {
    requests::REASONS.iter().chain(bodies::REASONS)
}
