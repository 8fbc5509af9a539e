//! How locks are acquired, listed and released: what the methods of [`Store`] have in common.

use std::time::Duration;

use lockstock::blocking::{self, Begun};
use lockstock::{Acquired, Lock, LockKind, MultiLock};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use tokio::time::Instant;

use crate::held::{Grant, Held};
use crate::store::Store;
use crate::{error, reply, waiting};

impl Store {
    /// Acquires one lock: on a socket of this thread, or if another thread waits for it, on the runtime.
    pub(crate) fn acquire_by_caller(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        kind: &str,
        permits: u32,
    ) -> PyResult<Option<Held>> {
        let raised = |failure| error::raised(py, &failure);
        let name = reply::bytes(name)?;
        let builder = match kind {
            "semaphore" => self.inner.semaphore(&*name, permits),
            "read" => self.inner.read_lock(&*name),
            "write" => self.inner.write_lock(&*name),
            _ => self.inner.lock(&*name),
        };
        let lock = builder
            .lease(Duration::from_millis(lease_ms))
            .map_err(raised)?;
        let wait = wait_ms.map(Duration::from_millis);
        let (kind, store) = (lock_kind(kind)?, self.inner.clone());
        let held = move |acquired: Acquired<blocking::Guard>| {
            let guard = acquired.held()?.into_asynchronous()?;
            Some(Held::new(&store, Grant::One(kind, guard)))
        };
        match py.detach(|| lock.begin_acquire(wait)).map_err(raised)? {
            Begun::Done(acquired) => Ok(held(acquired)),
            Begun::Waiting(acquired) => waiting::wait(py, async move { acquired.await.map(held) }),
        }
    }

    /// Releases a lock whose holder has a token.
    pub(crate) fn releasing(
        &self,
        py: Python<'_>,
        kind: &str,
        name: &Bound<'_, PyAny>,
        token: &str,
    ) -> PyResult<impl Future<Output = lockstock::Result<bool>> + Send + use<>> {
        let (store, name) = (self.asynchronous(py)?, reply::bytes(name)?.into_owned());
        let (kind, holder) = (lock_kind(kind)?, token.parse());
        let holder = holder.map_err(|failure| error::raised(py, &failure))?;
        Ok(async move { store.force_release(kind, name, Some(holder)).await })
    }

    /// Returns the tokens of the holders of a lock.
    pub(crate) fn holding(
        &self,
        py: Python<'_>,
        kind: &str,
        name: &Bound<'_, PyAny>,
    ) -> PyResult<impl Future<Output = lockstock::Result<Vec<String>>> + Send + use<>> {
        let (store, name) = (self.asynchronous(py)?, reply::bytes(name)?.into_owned());
        let kind = lock_kind(kind)?;
        Ok(async move {
            let info = store.lock_info(kind, name).await?;
            let holders = info.map(|info| info.holders).unwrap_or_default();
            Ok(holders.iter().map(|holder| holder.id.to_string()).collect())
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the settings of a lock")]
    pub(crate) fn acquisition(
        &self,
        py: Python<'_>,
        name: &Bound<'_, PyAny>,
        lease_ms: u64,
        wait_ms: Option<u64>,
        renew_ms: Option<u64>,
        kind: &str,
        permits: u32,
        token: Option<&str>,
    ) -> PyResult<impl Future<Output = lockstock::Result<Option<Held>>> + Send + use<>> {
        let raised = |failure| error::raised(py, &failure);
        let store = self.asynchronous(py)?;
        let (lease, renewal) = (
            Duration::from_millis(lease_ms),
            renew_ms.map(Duration::from_millis),
        );
        let lock = if kind == "all" {
            let names = name.try_iter()?;
            let names = names.map(|name| Ok(reply::bytes(&name?)?.into_owned()));
            let names = names.collect::<PyResult<Vec<_>>>()?;
            let lock = store.lock_all(names).lease(lease).map_err(raised)?;
            Locks::All(match renewal {
                Some(max) => lock.auto_renew(max),
                None => lock,
            })
        } else {
            let name = reply::bytes(name)?;
            let builder = match kind {
                "semaphore" => store.semaphore(&*name, permits),
                "read" => store.read_lock(&*name),
                "write" => store.write_lock(&*name),
                _ => store.lock(&*name),
            };
            let lock = builder.lease(lease).map_err(raised)?;
            let lock = match renewal {
                Some(max) => lock.auto_renew(max),
                None => lock,
            };
            let lock = match token {
                Some(token) => token
                    .parse()
                    .and_then(|id| lock.held_as(id))
                    .map_err(raised)?,
                None => lock,
            };
            Locks::One(lock_kind(kind)?, lock)
        };
        let (asked_at, store) = (Instant::now(), self.inner.clone());
        Ok(async move {
            let wait_ms = wait_ms.map(Duration::from_millis);
            let wait = wait_ms.map(|wait| wait.saturating_sub(asked_at.elapsed()));
            let grant = lock.acquire(wait).await?;
            Ok(grant.map(|grant| Held::new(&store, grant)))
        })
    }
}

/// What is acquired.
enum Locks {
    One(LockKind, Lock),
    All(MultiLock),
}

impl Locks {
    async fn acquire(self, wait: Option<Duration>) -> lockstock::Result<Option<Grant>> {
        match (self, wait) {
            (Self::One(kind, lock), Some(wait)) => {
                let guard = lock.acquire_within(wait).await?.held();
                Ok(guard.map(|guard| Grant::One(kind, guard)))
            }
            (Self::One(kind, lock), None) => Ok(Some(Grant::One(kind, lock.acquire().await?))),
            (Self::All(locks), Some(wait)) => {
                let guards = locks.acquire_within(wait).await?.held();
                Ok(guards.map(Grant::All))
            }
            (Self::All(locks), None) => Ok(Some(Grant::All(locks.acquire().await?))),
        }
    }
}

fn lock_kind(kind: &str) -> PyResult<LockKind> {
    match kind {
        "lock" | "all" => Ok(LockKind::Lock),
        "semaphore" => Ok(LockKind::Semaphore),
        "read" | "write" => Ok(LockKind::ReadWrite),
        _ => Err(PyValueError::new_err(format!("{kind} is no kind of lock"))),
    }
}
