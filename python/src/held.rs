//! A lock that is held, or several that are held together.

use std::borrow::Cow;
use std::pin::Pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockstock::blocking::{self, Begun};
use lockstock::{HolderId, LockKind};
use lockstock_fork::generation;
use pyo3::prelude::*;

use crate::bell::{Bell, Outcome};
use crate::{error, waiting};

/// A lock that is held until it is released, kept or lost. A child of `fork` does not own it: only
/// an explicit `release` has an effect there.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Held {
    store: blocking::Store,
    owned: Arc<Owned>,
    kind: LockKind,
    /// One for each name.
    claims: Vec<Claim>,
}

/// The locks of one acquisition.
pub(crate) enum Grant {
    One(LockKind, lockstock::Guard),
    All(lockstock::MultiGuard),
}

/// What is read without the guard. A child needs it to release the lock of its parent.
#[derive(Clone)]
struct Claim {
    name: Vec<u8>,
    id: HolderId,
    fence: u64,
}

/// What only the process that acquired the lock may touch.
struct Owned {
    generation: u64,
    /// `None` once it is released or kept. Locked only for moments with the interpreter, so no
    /// other thread has it at a fork.
    grant: Mutex<Option<Arc<Grant>>>,
    /// One extension, release or keep at a time: only the one that has the turn refers to the grant.
    turn: tokio::sync::Mutex<()>,
    /// An `Abandonment`.
    when_dropped: AtomicU8,
}

/// What happens to a lock that was not ended when the last reference to it is dropped.
#[repr(u8)]
enum Abandonment {
    /// It is released: it has not reached the code that asked for it.
    Release = 0,
    /// It stays held to the end of its lease, as redis-py's lock. No code can release it any more,
    /// so waiters are notified that it is kept.
    Keep = 1,
    /// Its renewal continues until the process ends: it has no timeout.
    Renew = 2,
}

/// A change of a lease.
#[derive(Clone, Copy)]
enum Change {
    /// Adds to what remains.
    Extend(Duration),
    /// Sets what remains.
    SetRemaining(Duration),
    /// Starts the lease again.
    Renew,
}

/// What is waited for: whether the lock was still held.
type Pending = Pin<Box<dyn Future<Output = lockstock::Result<bool>> + Send>>;

/// How a lock is given up.
#[derive(Clone, Copy)]
enum End {
    Release,
    Keep,
}

impl Held {
    pub(crate) fn new(store: &blocking::Store, grant: Grant) -> Self {
        let (kind, guards) = match &grant {
            Grant::One(kind, guard) => (*kind, std::slice::from_ref(guard)),
            Grant::All(guards) => (LockKind::Lock, guards.guards()),
        };
        let claims = guards.iter().map(|guard| Claim {
            name: guard.name().to_vec(),
            id: guard.id(),
            fence: guard.fence(),
        });
        Self {
            store: store.clone(),
            kind,
            claims: claims.collect(),
            owned: Arc::new(Owned {
                generation: generation(),
                grant: Mutex::new(Some(Arc::new(grant))),
                turn: tokio::sync::Mutex::default(),
                when_dropped: AtomicU8::new(Abandonment::Release as u8),
            }),
        }
    }

    /// Begins to give the lock up, which is carried out even if the future is dropped.
    fn end(&self, py: Python<'_>, end: End) -> PyResult<Pending> {
        let raised = |failure| error::raised(py, &failure);
        if !self.owned.is_own() {
            return match end {
                End::Release => self.release_inherited().map_err(raised),
                End::Keep => Err(not_owned(py)),
            };
        }
        let runtime = blocking::Store::runtime().map_err(raised)?;
        let _entered = runtime.enter();
        let owned = self.owned.clone();
        if let Some(grant) = owned.take_at_once() {
            let ended = grant.end(end);
            return Ok(Box::pin(async { is_held(ended.await) }));
        }
        Ok(Box::pin(async move {
            let _turn = owned.turn.lock().await;
            match owned.take() {
                Some(grant) => is_held(grant.end(end).await),
                None => Ok(false),
            }
        }))
    }

    /// Releases what this process holds: on a socket of this thread, or if other threads wait for it, on
    /// the runtime.
    fn release_by_caller(&self, py: Python<'_>, grant: Grant) -> PyResult<bool> {
        let raised = |failure| error::raised(py, &failure);
        let released = match grant {
            Grant::One(_, guard) => {
                let guard = blocking::Guard::from_asynchronous(&self.store, guard);
                match py.detach(|| guard.begin_release()) {
                    Ok(Begun::Waiting(released)) => released,
                    done => return is_held(done.map(drop)).map_err(raised),
                }
            }
            all @ Grant::All(_) => {
                let runtime = blocking::Store::runtime().map_err(raised)?;
                let _entered = runtime.enter();
                all.end(End::Release)
            }
        };
        waiting::wait(py, async { is_held(released.await) })
    }

    /// Begins to release what the parent of this process holds.
    fn release_inherited(&self) -> lockstock::Result<Pending> {
        let (store, kind, claims) = (self.store.asynchronous()?, self.kind, self.claims.clone());
        Ok(Box::pin(async move {
            let mut was_held = true;
            for claim in claims {
                was_held &= store
                    .force_release(kind, claim.name, Some(claim.id))
                    .await?;
            }
            Ok(was_held)
        }))
    }

    /// Begins to change the lease.
    fn change(&self, py: Python<'_>, change: Change) -> PyResult<Pending> {
        let owned = self.owned.clone();
        if !owned.is_own() {
            return Err(not_owned(py));
        }
        Ok(Box::pin(async move {
            let _turn = owned.turn.lock().await;
            let Some(grant) = owned.with(|grant| grant.clone()) else {
                return Ok(false);
            };
            is_held(grant.change(change).await)
        }))
    }

    /// Returns the rest of the lease, zero in a child.
    fn rest(&self) -> Duration {
        if !self.owned.is_own() {
            return Duration::ZERO;
        }
        let rest = |grant: &mut Option<Arc<Grant>>| grant.as_deref().map(Grant::remaining);
        self.owned.with(rest).unwrap_or_default()
    }
}

#[pymethods]
impl Held {
    /// The identity of the holder, 32 hexadecimal digits: of several locks, that of the first.
    #[getter]
    fn token(&self) -> String {
        self.claims[0].id.to_string()
    }

    /// The number of the acquisition: of several locks, the highest.
    #[getter]
    fn fence(&self) -> u64 {
        let fences = self.claims.iter().map(|claim| claim.fence);
        fences.max().unwrap_or_default()
    }

    /// The name, token and fence of each lock.
    #[getter]
    fn claims(&self) -> Vec<(Cow<'_, [u8]>, String, u64)> {
        let claims = self.claims.iter();
        let claim =
            |claim: &'_ Claim| (claim.name.clone().into(), claim.id.to_string(), claim.fence);
        claims.map(claim).collect()
    }

    /// When the lease ends, as `time.monotonic()` counts.
    #[getter]
    fn deadline(&self, py: Python<'_>) -> PyResult<f64> {
        // Not the clock of this library: on macOS the interpreter has another one.
        let now = py.import("time")?.call_method0("monotonic")?;
        Ok(now.extract::<f64>()? + self.remaining())
    }

    /// Whether another client may hold the lock now.
    #[getter]
    fn lost(&self) -> bool {
        self.rest().is_zero()
    }

    /// Whether the parent of this process holds the lock.
    #[getter]
    fn inherited(&self) -> bool {
        !self.owned.is_own()
    }

    /// Returns the seconds until the lease ends.
    fn remaining(&self) -> f64 {
        self.rest().as_secs_f64()
    }

    /// Lets the lock stay held if this object is collected: to the end of its lease, or without a
    /// timeout until the process ends.
    fn stay_held(&self, is_endless: bool) {
        let abandonment = if is_endless {
            Abandonment::Renew
        } else {
            Abandonment::Keep
        };
        let abandonment = abandonment as u8;
        self.owned
            .when_dropped
            .store(abandonment, Ordering::Relaxed);
    }

    /// Releases the lock. Returns whether it was still held.
    fn release(&self, py: Python<'_>) -> PyResult<bool> {
        if waiting::hub(py)?.is_none()
            && self.owned.is_own()
            && let Some(grant) = self.owned.take_at_once()
        {
            return self.release_by_caller(py, grant);
        }
        waiting::wait(py, self.end(py, End::Release)?)
    }

    /// Leaves the lock held to the end of its lease. Returns whether it was still held.
    fn keep(&self, py: Python<'_>) -> PyResult<bool> {
        waiting::wait(py, self.end(py, End::Keep)?)
    }

    /// Adds to the lease. Returns whether the lock was still held.
    fn extend(&self, py: Python<'_>, by_ms: u64) -> PyResult<bool> {
        let by = Duration::from_millis(by_ms);
        waiting::wait(py, self.change(py, Change::Extend(by))?)
    }

    /// Sets what remains of the lease. Returns whether the lock was still held.
    fn set_remaining(&self, py: Python<'_>, remaining_ms: u64) -> PyResult<bool> {
        let remaining = Duration::from_millis(remaining_ms);
        waiting::wait(py, self.change(py, Change::SetRemaining(remaining))?)
    }

    /// Starts the lease again. Returns whether the lock was still held.
    fn renew(&self, py: Python<'_>) -> PyResult<bool> {
        waiting::wait(py, self.change(py, Change::Renew)?)
    }

    /// Begins to release the lock. The bell delivers whether it was still held.
    fn begin_release(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let released = self.end(py, End::Release)?;
        bell.spawn(py, number, async { Outcome::Held(released.await) })
    }

    /// Begins to keep the lock. The bell delivers whether it was still held.
    fn begin_keep(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let kept = self.end(py, End::Keep)?;
        bell.spawn(py, number, async { Outcome::Held(kept.await) })
    }

    /// Begins to add to the lease. The bell delivers whether the lock was still held.
    fn begin_extend(&self, py: Python<'_>, bell: &Bell, number: u64, by_ms: u64) -> PyResult<()> {
        let extended = self.change(py, Change::Extend(Duration::from_millis(by_ms)))?;
        bell.spawn(py, number, async { Outcome::Held(extended.await) })
    }

    /// Begins to set what remains of the lease. The bell delivers whether the lock was still held.
    fn begin_set_remaining(
        &self,
        py: Python<'_>,
        bell: &Bell,
        number: u64,
        remaining_ms: u64,
    ) -> PyResult<()> {
        let remaining = Duration::from_millis(remaining_ms);
        let changed = self.change(py, Change::SetRemaining(remaining))?;
        bell.spawn(py, number, async { Outcome::Held(changed.await) })
    }

    /// Begins to start the lease again. The bell delivers whether the lock was still held.
    fn begin_renew(&self, py: Python<'_>, bell: &Bell, number: u64) -> PyResult<()> {
        let renewed = self.change(py, Change::Renew)?;
        bell.spawn(py, number, async { Outcome::Held(renewed.await) })
    }
}

impl Owned {
    fn is_own(&self) -> bool {
        self.generation == generation()
    }

    /// Takes the grant, unless another call has the turn.
    fn take_at_once(&self) -> Option<Grant> {
        let _turn = self.turn.try_lock().ok()?;
        self.take()
    }

    /// Takes the grant. The caller has the turn.
    fn take(&self) -> Option<Grant> {
        Arc::into_inner(self.with(Option::take)?)
    }

    fn with<T>(&self, read: impl FnOnce(&mut Option<Arc<Grant>>) -> T) -> T {
        read(&mut self.grant.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let is_own = self.is_own();
        let grant = self.grant.get_mut().unwrap_or_else(PoisonError::into_inner);
        let Some(grant) = grant.take() else { return };
        let when_dropped = *self.when_dropped.get_mut();
        // In a child, the parent holds the lock, and a mutex in its guard may be locked.
        if !is_own || when_dropped == Abandonment::Renew as u8 {
            std::mem::forget(grant);
        } else if when_dropped == Abandonment::Keep as u8 {
            match (Arc::try_unwrap(grant), blocking::Store::runtime()) {
                (Ok(grant), Ok(runtime)) => {
                    let _entered = runtime.enter();
                    // Carried out in the background.
                    drop(grant.end(End::Keep));
                }
                // Without a runtime, no renewal is running either: the lease ends by itself.
                (grant, _) => std::mem::forget(grant),
            }
        }
    }
}

impl Grant {
    fn remaining(&self) -> Duration {
        match self {
            Self::One(_, guard) => guard.remaining(),
            Self::All(guards) => guards.remaining(),
        }
    }

    async fn change(&self, change: Change) -> lockstock::Result<()> {
        match (self, change) {
            (Self::One(_, guard), Change::Extend(by)) => guard.extend(by).await,
            (Self::One(_, guard), Change::SetRemaining(rest)) => guard.set_remaining(rest).await,
            (Self::One(_, guard), Change::Renew) => guard.renew().await,
            (Self::All(guards), Change::Extend(by)) => guards.extend(by).await,
            (Self::All(guards), Change::SetRemaining(rest)) => guards.set_remaining(rest).await,
            (Self::All(guards), Change::Renew) => guards.renew().await,
        }
    }

    fn end(self, end: End) -> Pin<Box<dyn Future<Output = lockstock::Result<()>> + Send>> {
        match (self, end) {
            (Self::One(_, guard), End::Release) => Box::pin(guard.release()),
            (Self::One(_, guard), End::Keep) => Box::pin(guard.keep()),
            (Self::All(guards), End::Release) => Box::pin(guards.release()),
            (Self::All(guards), End::Keep) => Box::pin(guards.keep()),
        }
    }
}

fn is_held(result: lockstock::Result<()>) -> lockstock::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(failure) if failure.is_lost() => Ok(false),
        Err(failure) => Err(failure),
    }
}

fn not_owned(py: Python<'_>) -> PyErr {
    error::new(
        py,
        "LockError",
        "the lock is held by the parent of this process",
    )
}
