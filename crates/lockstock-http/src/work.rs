//! Work that is finished though the client is gone.
//!
//! A server drops the future of a request whose client hung up. A write must not stop halfway
//! for that, and its lock must not stay behind: so it runs on a task of its own.

use std::future::pending;
use std::panic::resume_unwind;

use tokio_util::task::TaskTracker;
use tracing::Instrument;

#[derive(Debug, Clone, Default)]
pub(crate) struct Work(TaskTracker);

impl Work {
    /// Runs `work` to its end, whatever becomes of the caller. A panic in it goes on in the
    /// caller, as if it had been called.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = T> + Send + 'static,
    ) -> T {
        match self.0.spawn(work.in_current_span()).await {
            Ok(done) => done,
            Err(failed) => match failed.try_into_panic() {
                Ok(panic) => resume_unwind(panic),
                // Nobody aborts it: the runtime ends, and with it whoever waits here.
                Err(_) => pending().await,
            },
        }
    }

    /// Waits until all that has begun is over.
    pub(crate) async fn finished(&self) {
        // Closed means that waiting can end. It takes in new tasks all the same.
        self.0.close();
        self.0.wait().await;
    }
}
