//! Combines calls: whoever arrives while a batch is under way joins the next one.
//!
//! A database answers one question or sixty in nearly the same time, so under load a batch
//! costs what a single call did, and without load a call waits for nobody. Order within a
//! batch is order of arrival. Bounded: at most `lanes` batches run at once, of at most
//! `most` jobs each, and callers wait in a bounded queue.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinSet;

/// The entrance to the batches. A job carries its own way to be answered.
pub(crate) struct Combiner<Job> {
    entrance: mpsc::Sender<Job>,
    /// Ends the lanes when the combiner is dropped.
    _lanes: JoinSet<()>,
}

/// Jobs that may wait to be taken into a batch before callers wait outside.
const QUEUE: usize = 4096;

impl<Job: Send + 'static> Combiner<Job> {
    /// Starts `lanes` tasks, each of which runs `run` on one batch after the other.
    pub(crate) fn start<Run, Batch>(lanes: usize, most: usize, run: Run) -> Self
    where
        Run: Fn(Vec<Job>) -> Batch + Clone + Send + 'static,
        Batch: Future<Output = ()> + Send,
    {
        let (entrance, exit) = mpsc::channel(QUEUE);
        let exit = Arc::new(Mutex::new(exit));
        let mut tasks = JoinSet::new();
        for _ in 0..lanes {
            let (exit, run) = (exit.clone(), run.clone());
            tasks.spawn(async move {
                loop {
                    let mut batch = Vec::new();
                    // The lock is held while waiting for jobs, by one idle lane; it is
                    // free again before the batch runs.
                    let taken = exit.lock().await.recv_many(&mut batch, most).await;
                    if taken == 0 {
                        return;
                    }
                    // A panic costs the callers of its batch their answer, and not the
                    // lane its life.
                    if AssertUnwindSafe(run(batch)).catch_unwind().await.is_err() {
                        tracing::error!("a batch panicked");
                    }
                }
            });
        }
        Self {
            entrance,
            _lanes: tasks,
        }
    }

    /// Hands in the job made of the sender that its answer shall go to, and waits for that.
    /// `None` if the batch ended without one.
    pub(crate) async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.entrance.send(job(answer)).await.ok()?;
        answered.await.ok()
    }
}
