//! Work that continues after its caller is gone: releases and withdrawals that have not
//! reached the store yet.
//!
//! Bounded: each has a deadline, after which the lease has ended and nothing is left to give
//! back. While the store does not answer, only one of them sends its request a third time.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use crate::error::Result;

/// First and longest pause between two retries.
const MIN_RETRY_DELAY: Duration = Duration::from_millis(5);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(1);

/// Background tasks of a store. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Background(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The tasks that [`Background::drain`] waits for.
    tasks: TaskTracker,
    /// One permit: after an outage thousands of releases may be pending.
    retries: Semaphore,
    /// A handle rather than `tokio::spawn`: a guard may be dropped outside the runtime. `None`: that
    /// of the process, which need not be started yet.
    runtime: Option<Handle>,
}

impl Background {
    /// Creates a set of tasks on the current runtime.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn new() -> Self {
        Self::on(Some(Handle::current()))
    }

    /// Creates a set of tasks on the runtime of the process.
    pub(super) fn of_process() -> Self {
        Self::on(None)
    }

    fn on(runtime: Option<Handle>) -> Self {
        let tasks = TaskTracker::new();
        // `TaskTracker::wait` returns only once the tracker is closed. A closed tracker still
        // accepts tasks.
        tasks.close();
        Self(Arc::new(Inner {
            tasks,
            retries: Semaphore::new(1),
            runtime,
        }))
    }

    /// Waits until no task that was started by [`run`](Self::run) is left.
    pub(super) async fn drain(&self) {
        self.0.tasks.wait().await;
    }

    /// Runs `task` to completion, independently of the caller.
    pub(crate) fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        let task = self.0.tasks.track_future(task);
        match (&self.0.runtime, self.runtime()) {
            (Some(runtime), _) => drop(runtime.spawn(task)),
            // The process waits for it before it exits.
            (None, Some(runtime)) => {
                let tasks = crate::runtime::background();
                runtime.spawn(tasks.track_future(task));
            }
            (None, None) => {}
        }
    }

    /// Returns `task` for its caller to run. If the caller drops it, the rest runs in the background, and
    /// only then does [`drain`](Self::drain) wait for it.
    pub(crate) fn attached<T: Send + 'static>(
        &self,
        task: impl Future<Output = T> + Send + 'static,
    ) -> Attached<T> {
        Attached {
            task: Some(task.boxed()),
            background: self.clone(),
        }
    }

    /// Runs `task` until it is aborted. [`drain`](Self::drain) does not wait for it.
    pub(crate) fn spawn(
        &self,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> Option<AbortHandle> {
        Some(self.runtime()?.spawn(task).abort_handle())
    }

    /// Returns the runtime. `None` if that of the process cannot be started: then the lease ends what a
    /// task would have ended.
    fn runtime(&self) -> Option<Handle> {
        match &self.0.runtime {
            Some(runtime) => Some(runtime.clone()),
            None => crate::runtime::handle()
                .inspect_err(|error| warn!(%error, "a task in the background does not run"))
                .ok(),
        }
    }

    /// Awaits `first`, and sends the request again until it succeeds or the deadline passes.
    ///
    /// `first` has been sent by the caller, so that later requests of the caller arrive after
    /// it.
    pub(crate) fn retry<F>(
        &self,
        deadline: Instant,
        first: F,
        send: impl Fn() -> F + Send + 'static,
    ) where
        F: Future<Output = Result<()>> + Send + 'static,
    {
        let background = self.clone();
        self.run(async move {
            // The second try needs no permit, and is sent after the deadline too: the store may
            // stand still with the first one unread and reject it later.
            if first.await.is_ok() || send().await.is_ok() {
                return;
            }
            let permit = timeout_at(deadline, background.0.retries.acquire());
            let Ok(Ok(_permit)) = permit.await else {
                return;
            };
            let mut delay = MIN_RETRY_DELAY;
            while Instant::now() < deadline {
                match send().await {
                    Ok(()) => return,
                    Err(error) => debug!(%error, "retrying a release in the background"),
                }
                sleep(delay).await;
                delay = (delay * 2).min(MAX_RETRY_DELAY);
            }
        });
    }
}

/// A task that its caller runs.
pub(crate) struct Attached<T: Send + 'static> {
    task: Option<BoxFuture<'static, T>>,
    background: Background,
}

impl<T: Send + 'static> Future for Attached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Not put back if it panics: it must not be polled again.
        let Some(mut task) = self.task.take() else {
            return Poll::Pending;
        };
        let polled = task.poll_unpin(context);
        if polled.is_pending() {
            self.task = Some(task);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Attached<T> {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            self.background.run(task.map(drop));
        }
    }
}
