//! What Redis adds to a request: the number of fences asked for, and the ownership of a grant.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;

use super::connection::SlotContext;
use crate::inspect::GrantKind;
use crate::store::request::Request;
use crate::token::Token;

/// A request, and what Redis may know about it.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) request: Request,
    /// Number of fences asked for. Set before the first operation with this request's token is
    /// sent; while it is unset, Redis has nothing that could be withdrawn.
    fences: OnceLock<u64>,
    /// The names of the connection on which the request waits, if that is not the link.
    pub(super) listener: Option<Arc<SlotContext>>,
}

impl Attempt {
    pub(super) fn new(request: Request) -> Self {
        Self {
            request,
            fences: OnceLock::new(),
            listener: None,
        }
    }

    /// Returns an attempt that waits on a connection of its own.
    pub(super) fn on(request: Request, listener: Arc<SlotContext>) -> Self {
        Self {
            listener: Some(listener),
            ..Self::new(request)
        }
    }

    /// Sets the number of fences to ask for. The first call decides, because a repeated
    /// operation needs the same arguments.
    pub(super) fn ask_for_fences(&self, fences: u64) {
        self.fences.get_or_init(|| fences);
    }

    pub(super) fn fences(&self) -> u64 {
        self.fences.get().copied().unwrap_or(1)
    }

    /// Returns whether Redis may know the request.
    pub(super) fn was_sent(&self) -> bool {
        self.fences.get().is_some()
    }

    /// Returns the grant that a reply or a notification with `last_fence` stands for.
    pub(super) fn grant(&self, last_fence: u64, deadline: Instant) -> Grant {
        let ownership = Ownership {
            token: self.request.token,
            last_fence,
            fences: self.fences(),
        };
        Grant {
            ownership,
            fence: ownership.first_fence(),
            deadline,
            kind: GrantKind::Free,
        }
    }
}

/// What identifies a holder to Redis.
///
/// After a local hand-over it is that of the first holder in this process: Redis is not
/// informed of local hand-overs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ownership {
    pub(super) token: Token,
    pub(super) last_fence: u64,
    /// Number of fences minted with the grant.
    pub(super) fences: u64,
}

impl Ownership {
    fn first_fence(self) -> u64 {
        self.last_fence + 1 - self.fences
    }
}

/// A lock granted to a request, by Redis or by a holder of this process.
#[derive(Debug)]
pub(super) struct Grant {
    pub(super) ownership: Ownership,
    pub(super) fence: u64,
    pub(super) deadline: Instant,
    pub(super) kind: GrantKind,
}

impl Grant {
    pub(super) fn of_kind(self, kind: GrantKind) -> Self {
        Self { kind, ..self }
    }
}
