//! A lock held in Redis by this process: how it is released, kept and renewed.

use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::attempt::{Grant, Ownership};
use super::batch::PendingReply;
use super::cohort::QueueHead;
use super::direct::locks::Attempted;
use super::operation::{AcquireArgs, Operation, waited_us};
use super::replies::{parse, parse_release};
use super::{DirectRedis, Redis};
use crate::error::Result;
use crate::inspect::GrantKind;
use crate::key::Keys;
use crate::lease::as_millis;
use crate::store::request::{Outcome, ReleaseOutcome, Request};
use crate::token::Token;

/// A lock held in Redis.
#[derive(Debug)]
pub(crate) struct Holding {
    client: Client,
    ownership: Ownership,
    /// Head of the local queue. `None` for permits and readers, which have no local queue, and
    /// for a request that did not wait or that was granted on the thread of its caller.
    head: Option<QueueHead>,
    pub(in crate::store) keys: Arc<Keys>,
    pub(in crate::store) lease: Duration,
    pub(in crate::store) fence: u64,
    pub(in crate::store) granted_deadline: Instant,
    pub(in crate::store) kind: GrantKind,
}

/// What acquired the lock.
#[derive(Debug, Clone)]
enum Client {
    Link(Arc<Redis>),
    /// A store for synchronous callers. Without a local queue, the link may not be open.
    Direct(Arc<DirectRedis>),
}

impl Client {
    fn link(&self) -> Result<&Arc<Redis>> {
        match self {
            Self::Link(link) => Ok(link),
            Self::Direct(direct) => direct.link(),
        }
    }

    fn submit(&self, keys: &Arc<Keys>, operation: Operation) -> PendingReply {
        match self.link() {
            Ok(link) => link.submit(keys, operation),
            Err(error) => PendingReply::failed(error),
        }
    }
}

impl Holding {
    /// Acquires a lock on the thread of the caller. Continues with the request that the link has to carry
    /// out.
    pub(in crate::store) fn acquire_by_caller(
        direct: &Arc<DirectRedis>,
        request: Request,
    ) -> Result<ControlFlow<Outcome<Self>, Request>> {
        let asked = request.clone();
        Ok(match direct.acquire(request)? {
            ControlFlow::Break(outcome) => ControlFlow::Break(
                outcome.map(|grant| Self::by(Client::Direct(direct.clone()), &asked, grant, None)),
            ),
            ControlFlow::Continue(request) => ControlFlow::Continue(request),
        })
    }

    pub(super) fn new(
        redis: &Arc<Redis>,
        request: &Request,
        grant: Grant,
        head: Option<QueueHead>,
    ) -> Self {
        Self::by(Client::Link(redis.clone()), request, grant, head)
    }

    fn by(client: Client, request: &Request, grant: Grant, head: Option<QueueHead>) -> Self {
        Self {
            client,
            ownership: grant.ownership,
            head,
            keys: request.keys.clone(),
            lease: request.lease,
            fence: grant.fence,
            granted_deadline: grant.deadline,
            kind: grant.kind,
        }
    }

    /// Notes that a synchronous caller holds the lock, which it can release on its thread.
    pub(in crate::store) fn of_caller(self, direct: &Arc<DirectRedis>) -> Self {
        Self {
            client: Client::Direct(direct.clone()),
            ..self
        }
    }

    /// Returns the token of the grant, which after a local hand-over is that of an earlier holder.
    pub(in crate::store) fn token(&self) -> Token {
        self.ownership.token
    }

    /// Hands the lock over to the next local waiter, or sends the release to Redis.
    ///
    /// Returns `None` after a local hand-over, which is complete. Otherwise the release is sent
    /// even if the reply is not awaited. If it fails it may be called again.
    pub(in crate::store) fn release(&self) -> Option<PendingRelease> {
        let handed_over = self.head.as_ref().is_some_and(QueueHead::hand_over);
        (!handed_over).then(|| PendingRelease(self.send_release()))
    }

    /// Hands the lock over to the next local waiter, or releases it on the thread of its caller. Left to
    /// the link is a release with which a local waiter joins Redis' queue.
    pub(in crate::store) fn release_by_caller(&self) -> Result<Attempted<ReleaseOutcome>> {
        let Client::Direct(direct) = &self.client else {
            return Ok(Attempted::Left);
        };
        if let Some(head) = &self.head {
            if head.hand_over() {
                return Ok(Attempted::Done(ReleaseOutcome::Released));
            }
            if !head.close_if_empty() {
                return Ok(Attempted::Left);
            }
        }
        direct.release(&self.keys, self.plain_release())
    }

    /// Releases in Redis. The next local waiter joins Redis' queue in the same operation, so
    /// that the lock does not go to a waiter that arrived later.
    fn send_release(&self) -> PendingReply {
        let redis = match self.client.link() {
            Ok(link) => link,
            Err(error) => return PendingReply::failed(error),
        };
        let Some(next) = self.head.as_ref().and_then(QueueHead::next) else {
            return redis.submit(&self.keys, self.plain_release());
        };
        let (ownership, last_used) = (self.ownership, self.last_used_fence());
        let attempt = next.attempt().clone();
        attempt.ask_for_fences(next.fences_needed());
        let args = AcquireArgs::waiting(&attempt);
        let pass = Operation::Pass {
            ownership,
            last_used,
            args,
            waited_us: waited_us(&attempt.request),
        };
        let reply = redis.submit(&self.keys, pass);
        if !next.promote() {
            // The waiter is gone and may not know that it has joined Redis' queue.
            redis.withdraw(&attempt);
        }
        reply
    }

    fn plain_release(&self) -> Operation {
        Operation::Release {
            ownership: self.ownership,
            last_used: self.last_used_fence(),
        }
    }

    /// Sends the request to keep the lock. It is executed even if the reply is not awaited.
    pub(in crate::store) fn keep(&self) -> PendingKeep {
        let keep = Operation::Keep {
            ownership: self.ownership,
            last_used: self.last_used_fence(),
        };
        PendingKeep(self.client.submit(&self.keys, keep))
    }

    /// Notifies the local waiters that the lock is kept, or that it was lost.
    pub(in crate::store) fn kept(&self, is_kept: bool, deadline: Instant) {
        if let Some(head) = &self.head {
            if is_kept {
                head.notify_kept(deadline);
            }
            head.promote_next();
        }
    }

    /// Returns `false` if the lock was lost before.
    pub(in crate::store) async fn renew(&self, remaining: Duration) -> Result<bool> {
        let renew = Operation::Renew {
            token: self.ownership.token,
            remaining_ms: as_millis(remaining),
        };
        parse(&self.client.submit(&self.keys, renew).await?)
    }

    /// Gives the holder another token in Redis. Returns `false` if the lock was lost before.
    pub(in crate::store) async fn rename(&self, token: Token) -> Result<bool> {
        let rename = Operation::Rename {
            token: self.ownership.token,
            new: token,
        };
        parse(&self.client.submit(&self.keys, rename).await?)
    }

    /// Sets the token by which the lock is held. It is not handed over within this process, where
    /// the next holder would have the same token.
    pub(in crate::store) fn set_token(&mut self, token: Token) {
        self.ownership.token = token;
        if let Some(head) = &self.head {
            head.set_token(token);
        }
    }

    /// Returns a function that releases the lock if it is held by `token`.
    pub(in crate::store) fn release_by(
        &self,
        token: Token,
    ) -> impl Fn() -> Pin<Box<dyn Future<Output = Result<()>> + Send>> + Send + 'static + use<>
    {
        let (client, keys) = (self.client.clone(), self.keys.clone());
        let release = Operation::Release {
            ownership: Ownership {
                token,
                ..self.ownership
            },
            last_used: self.last_used_fence(),
        };
        move || {
            let released = client.submit(&keys, release);
            Box::pin(async { released.await.map(drop) })
        }
    }

    /// Moves the deadline that the local queue watches.
    pub(in crate::store) fn set_deadline(&self, deadline: Instant) {
        if let Some(head) = &self.head {
            head.set_deadline(deadline);
        }
    }

    /// Returns the last fence that was used if several were minted with the grant.
    fn last_used_fence(&self) -> Option<u64> {
        (self.ownership.fences > 1).then_some(self.fence)
    }
}

/// A release that was sent. Redis executes it even if the reply is not awaited.
pub(crate) struct PendingRelease(PendingReply);

impl Future for PendingRelease {
    type Output = Result<ReleaseOutcome>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.0).poll(context))?;
        Poll::Ready(parse_release(&reply))
    }
}

/// A request to keep the lock that was sent. Resolves to `false` if it was lost before.
pub(crate) struct PendingKeep(PendingReply);

impl Future for PendingKeep {
    type Output = Result<bool>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.0).poll(context))?;
        Poll::Ready(parse(&reply))
    }
}
