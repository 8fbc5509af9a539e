//! Tasks that outlive a disconnected client.
//!
//! A server drops the future of a request when the client disconnects. A write must not stop
//! halfway because of that, and its lock must not stay taken, so the handler runs on its own
//! task.
//!
//! A disconnect must not cancel the handler, but losing the lock must, even if an inner layer has
//! moved the handler to its own task. A layer that stops handlers therefore puts a
//! [`Cancellation`] into the request, and every layer that spawns a task observes it.

use std::future::pending;
use std::panic::resume_unwind;

use http::Request;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Handlers of one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct DetachedTasks(TaskTracker);

impl DetachedTasks {
    /// Runs a handler on its own task until it finishes or is cancelled. A panic of the handler
    /// resumes in the caller.
    ///
    /// # Cancellation
    ///
    /// Dropping this future does not stop the handler. If `cancellation` stops the handler, this
    /// future never resolves: the layer that cancelled has dropped it or is about to.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        cancellation: Cancellation,
        handler: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let task = async move {
            tokio::select! {
                biased;
                output = handler => Some(output),
                () = cancellation.0.cancelled() => None,
            }
        };
        match self.0.spawn(task.in_current_span()).await {
            Ok(Some(output)) => output,
            Ok(None) => pending().await,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // The task is never aborted, so the runtime is shutting down.
                Err(_) => pending().await,
            },
        }
    }

    /// Waits until every running task has finished.
    pub(crate) async fn drain(&self) {
        // `wait` returns only after `close`. A closed tracker still accepts new tasks.
        self.0.close();
        self.0.wait().await;
    }
}

/// Stops the handler of a request on every task that it uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation(CancellationToken);

impl Cancellation {
    /// Returns the cancellation that an outer layer has put into the request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Puts a cancellation for the inner layers into the request, and returns it. Cancelling the
    /// outer layers cancels it too.
    pub(crate) fn child<B>(&self, request: &mut Request<B>) -> Self {
        let child = Self(self.0.child_token());
        request.extensions_mut().insert(child.clone());
        child
    }

    /// Stops the handler in the inner layers.
    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }
}
