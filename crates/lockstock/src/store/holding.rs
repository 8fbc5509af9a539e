//! A lock that this process holds: the part of the store contract that a guard uses.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::background::Background;
use super::memory;
use super::redis::Attempted;
use super::redis::holding as redis;
use super::request::ReleaseOutcome;
use crate::error::Result;
use crate::inspect::{GrantKind, HolderId, Identity};
use crate::key::Keys;
use crate::token::Token;

/// A held lock, as its backend knows it.
///
/// Dropping it does not release the lock: see [`release`](Self::release).
#[derive(Debug)]
pub(crate) enum Holding {
    Memory(memory::Holding),
    Redis(redis::Holding),
}

impl Holding {
    pub(crate) fn keys(&self) -> &Arc<Keys> {
        match self {
            Self::Memory(holding) => &holding.keys,
            Self::Redis(holding) => &holding.keys,
        }
    }

    pub(crate) fn fence(&self) -> u64 {
        match self {
            Self::Memory(holding) => holding.fence,
            Self::Redis(holding) => holding.fence,
        }
    }

    /// Returns under which identity the store has the lock.
    pub(crate) fn holder_id(&self) -> HolderId {
        HolderId(Identity::Client(match self {
            Self::Memory(holding) => holding.token,
            Self::Redis(holding) => holding.token(),
        }))
    }

    pub(crate) fn lease(&self) -> Duration {
        match self {
            Self::Memory(holding) => holding.lease,
            Self::Redis(holding) => holding.lease,
        }
    }

    /// Returns the deadline of the grant, which renewals do not move.
    pub(crate) fn granted_deadline(&self) -> Instant {
        match self {
            Self::Memory(holding) => holding.granted_deadline,
            Self::Redis(holding) => holding.granted_deadline,
        }
    }

    /// Returns how the lock came to this holder.
    pub(crate) fn grant_kind(&self) -> GrantKind {
        match self {
            Self::Memory(holding) => holding.kind,
            Self::Redis(holding) => holding.kind,
        }
    }

    /// Releases the lock, or hands it over to the next waiter.
    ///
    /// The release is on its way when this returns, even if the future is dropped. May be
    /// called again if the future fails.
    pub(crate) fn release(&self) -> ReleaseFuture {
        match self {
            Self::Memory(holding) => ReleaseFuture::Ready(holding.release()),
            Self::Redis(holding) => match holding.release() {
                Some(pending) => ReleaseFuture::Pending(pending),
                None => ReleaseFuture::Ready(ReleaseOutcome::Released),
            },
        }
    }

    /// Releases the lock on the thread of its caller, if that is synchronous.
    pub(crate) fn release_by_caller(&self) -> Result<Attempted<ReleaseOutcome>> {
        match self {
            Self::Memory(_) => Ok(Attempted::Left),
            Self::Redis(holding) => holding.release_by_caller(),
        }
    }

    /// Leaves the lock taken to the end of its lease. Resolves to `false` if it was lost before.
    ///
    /// The request is on its way when this returns, even if the future is dropped. Pass the result to
    /// [`kept`](Self::kept).
    pub(crate) fn keep(&self) -> KeepFuture {
        match self {
            Self::Memory(holding) => KeepFuture::Ready(holding.keep()),
            Self::Redis(holding) => KeepFuture::Pending(holding.keep()),
        }
    }

    /// Notifies the local waiters of the result of [`keep`](Self::keep).
    ///
    /// `deadline` is the current one, for the waiters that it concerns.
    pub(crate) fn kept(&self, result: &Result<bool>, deadline: Instant) {
        match self {
            // The lock table has notified them.
            Self::Memory(_) => {}
            Self::Redis(holding) => holding.kept(matches!(result, Ok(true)), deadline),
        }
    }

    /// Sets the rest of the lease. Returns `false` if the lock was lost before.
    pub(crate) async fn renew(&self, remaining: Duration) -> Result<bool> {
        match self {
            Self::Memory(holding) => Ok(holding.renew(remaining)),
            Self::Redis(holding) => holding.renew(remaining).await,
        }
    }

    /// Gives the holder another token in the store. Returns `false` if the lock was lost before.
    /// Repeatable. [`set_token`](Self::set_token) has to follow.
    pub(crate) async fn rename(&self, token: Token) -> Result<bool> {
        match self {
            Self::Memory(holding) => Ok(holding.rename(token)),
            Self::Redis(holding) => holding.rename(token).await,
        }
    }

    /// Sets the token by which the lock is held.
    pub(crate) fn set_token(&mut self, token: Token) {
        match self {
            Self::Memory(holding) => holding.token = token,
            Self::Redis(holding) => holding.set_token(token),
        }
    }

    /// Releases the lock in the background in case that it is held by `token`: a
    /// [`rename`](Self::rename) had no reply.
    pub(crate) fn release_renamed(&self, token: Token, background: &Background, deadline: Instant) {
        match self {
            // Every call has a reply.
            Self::Memory(_) => {}
            Self::Redis(holding) => {
                let release = holding.release_by(token);
                background.retry(deadline, release(), release);
            }
        }
    }

    /// Notes when this process considers the lock lost: later after a renewal, now after a
    /// loss.
    pub(crate) fn set_deadline(&self, deadline: Instant) {
        match self {
            // The lock table counts by itself.
            Self::Memory(_) => {}
            Self::Redis(holding) => holding.set_deadline(deadline),
        }
    }
}

/// A release under way, or done.
pub(crate) enum ReleaseFuture {
    Ready(ReleaseOutcome),
    Pending(redis::PendingRelease),
}

impl Future for ReleaseFuture {
    type Output = Result<ReleaseOutcome>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(outcome) => Poll::Ready(Ok(*outcome)),
            Self::Pending(pending) => Pin::new(pending).poll(context),
        }
    }
}

/// A request to keep the lock, under way or done.
pub(crate) enum KeepFuture {
    Ready(bool),
    Pending(redis::PendingKeep),
}

impl Future for KeepFuture {
    type Output = Result<bool>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Ready(kept) => Poll::Ready(Ok(*kept)),
            Self::Pending(pending) => Pin::new(pending).poll(context),
        }
    }
}
