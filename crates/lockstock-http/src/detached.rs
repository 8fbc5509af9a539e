//! DetachedTasks that is finished though the client is gone.
//!
//! A server drops the future of a request whose client hung up. A write must not stop halfway
//! for that, and its lock must not stay behind: so it runs on a task of its own.
//!
//! What a client must not stop, a lost lock must: also a handler that another layer, further
//! inside, has put on its own task. So a layer that stops handlers leaves a [`Cancellation`] in the
//! request, and whoever makes a task looks for it.

use std::future::pending;
use std::panic::resume_unwind;

use http::Request;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

#[derive(Debug, Clone, Default)]
pub(crate) struct DetachedTasks(TaskTracker);

impl DetachedTasks {
    /// Runs `work` to its end, whatever becomes of the caller, unless it is stopped. A panic in
    /// it goes on in the caller, as if it had been called.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        stop: Cancellation,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let work = async move {
            tokio::select! {
                biased;
                done = work => Some(done),
                () = stop.0.cancelled() => None,
            }
        };
        match self.0.spawn(work.in_current_span()).await {
            Ok(Some(done)) => done,
            // Whoever stopped it has dropped us, or is about to.
            Ok(None) => pending().await,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody aborts it: the runtime ends, and with it whoever waits here.
                Err(_) => pending().await,
            },
        }
    }

    /// Waits until all that has begun is over.
    pub(crate) async fn drain(&self) {
        // Closed means that waiting can end. It takes in new tasks all the same.
        self.0.close();
        self.0.wait().await;
    }
}

/// What stops the work of a request, on whichever tasks it is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation(CancellationToken);

impl Cancellation {
    /// That of the layers outside, which have left it in the request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// One for the layers inside, which those outside can use as well. Leaves it in the request.
    pub(crate) fn inside<B>(&self, request: &mut Request<B>) -> Self {
        let inside = Self(self.0.child_token());
        request.extensions_mut().insert(inside.clone());
        inside
    }

    /// Stops whatever is inside.
    pub(crate) fn now(&self) {
        self.0.cancel();
    }
}
