//! Batches concurrent calls: a job that arrives while a batch runs joins the next batch.
//!
//! A database answers one query or sixty in nearly the same time. Under load, a batch therefore
//! costs as much as a single call; without load, a job never waits for others. Jobs run in order
//! of arrival. Everything is bounded: the number of concurrent batches, the jobs in a batch, and
//! the queue. A caller may set a start timeout; a job that has not started by then is dropped.

mod keyed;
mod start;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

pub(crate) use self::keyed::KeyBatch;
pub(crate) use self::start::StartToken;

/// A queue of jobs that run in batches. Each job holds the sender for its own reply.
pub(crate) struct Batcher<Job> {
    sender: mpsc::Sender<Job>,
    /// Stops the batches when the batcher is dropped.
    _dispatcher: JoinSet<()>,
}

/// The bounds of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// Maximum number of concurrent batches. A second one starts only while the running ones
    /// are slow: one large batch costs less than two small ones.
    pub(crate) concurrent: usize,
    /// Maximum number of jobs in a batch.
    pub(crate) jobs: usize,
}

/// Maximum number of queued jobs. Beyond it, callers wait to submit theirs.
const MAX_QUEUED: usize = 4096;

/// Age at which a running batch no longer delays the next one: it may wait for a disk or for a
/// dead connection.
const SLOW: Duration = Duration::from_millis(5);

impl<Job: Send + 'static> Batcher<Job> {
    /// Starts a batcher that calls `run` with each batch.
    pub(crate) fn start<Run, Batch>(limits: BatchLimits, run: Run) -> Self
    where
        Run: Fn(Vec<Job>) -> Batch + Send + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        Self::dispatched(|receiver| dispatch(receiver, limits, run))
    }

    fn dispatched<D>(dispatch: impl FnOnce(mpsc::Receiver<Job>) -> D) -> Self
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let (sender, receiver) = mpsc::channel(MAX_QUEUED);
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch(receiver));
        Self {
            sender,
            _dispatcher: dispatcher,
        }
    }

    /// Submits the job that `job` builds around its reply sender, and waits for the reply.
    /// Returns `None` if the batch ended without a reply.
    pub(crate) async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (sender, reply) = oneshot::channel();
        self.sender.send(job(sender)).await.ok()?;
        reply.await.ok()
    }

    /// Submits a job that is useless later: unless it [starts](StartToken::start) within
    /// `timeout`, it never does, and the reply is [`Reply::NotStarted`].
    pub(crate) async fn submit_within<T>(
        &self,
        timeout: Duration,
        job: impl FnOnce(oneshot::Sender<T>, StartToken) -> Job,
    ) -> Reply<T> {
        let start_deadline = Instant::now() + timeout;
        let token = StartToken::default();
        let (sender, mut reply) = oneshot::channel();
        let submitted = self.sender.send(job(sender, token.clone()));
        match timeout_at(start_deadline, submitted).await {
            Err(_) => return Reply::NotStarted,
            Ok(Err(_)) => return Reply::Lost,
            Ok(Ok(())) => {}
        }
        let early = timeout_at(start_deadline, &mut reply).await;
        let reply = match early {
            Ok(reply) => reply,
            Err(_) if token.cancel() => return Reply::NotStarted,
            // The job has started.
            Err(_) => reply.await,
        };
        reply.map_or(Reply::Lost, Reply::Done)
    }
}

/// The reply to a job with a start timeout.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Reply<T> {
    /// The job ran.
    Done(T),
    /// The job has not started and never will.
    NotStarted,
    /// The batch ended without a reply: the effect of the job is unknown.
    Lost,
}

async fn dispatch<Job, Run, Batch>(mut receiver: mpsc::Receiver<Job>, limits: BatchLimits, run: Run)
where
    Run: Fn(Vec<Job>) -> Batch,
    Batch: Future<Output = ()> + Send + 'static,
{
    let mut next = Vec::new();
    let mut running = JoinSet::new();
    let mut slow = Instant::now();
    loop {
        let may_start =
            running.is_empty() || running.len() < limits.concurrent && slow <= Instant::now();
        if may_start && !next.is_empty() {
            running.spawn(run(std::mem::take(&mut next)));
            slow = Instant::now() + SLOW;
        }
        let room = limits.jobs - next.len();
        let waits_to_start = !next.is_empty() && running.len() < limits.concurrent;
        tokio::select! {
            received = receiver.recv_many(&mut next, room), if room > 0 => {
                if received == 0 {
                    return;
                }
            }
            Some(ended) = running.join_next() => log_panic(ended),
            () = sleep_until(slow), if waits_to_start => {}
        }
    }
}

/// Logs the panic of a batch. Its callers receive no reply; other batches are not affected.
fn log_panic(ended: Result<(), JoinError>) {
    if let Err(panic) = ended {
        tracing::error!(%panic, "a batch panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    type Job = (u32, oneshot::Sender<u32>);

    #[tokio::test(start_paused = true)]
    async fn a_job_submitted_while_a_batch_runs_joins_the_next_in_order() {
        let batches = Arc::new(Mutex::new(Vec::new()));
        let (gate, log) = (Arc::new(Notify::new()), batches.clone());
        let opened = gate.clone();
        let limits = BatchLimits {
            concurrent: 1,
            jobs: 3,
        };
        let batcher = Arc::new(Batcher::start(limits, move |batch: Vec<Job>| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                let numbers = batch.iter().map(|job| job.0).collect::<Vec<_>>();
                log.lock().unwrap().push(numbers);
                gate.notified().await;
                for (number, reply) in batch {
                    let _ = reply.send(number * 10);
                }
            }
        }));
        let mut callers = Vec::new();
        for number in 0..6 {
            let batcher = batcher.clone();
            let call = async move { batcher.submit(|reply| (number, reply)).await };
            callers.push(tokio::spawn(call));
            // Paused time advances only when every task is idle: this job is queued then.
            tokio::time::sleep(SLOW * 2).await;
        }
        for _ in 0..3 {
            opened.notify_one();
            tokio::time::sleep(SLOW).await;
        }
        for (number, caller) in (0..).zip(callers) {
            assert_eq!(caller.await.unwrap(), Some(number * 10));
        }
        assert_eq!(
            *batches.lock().unwrap(),
            [vec![0], vec![1, 2, 3], vec![4, 5]]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_batch_does_not_block_the_next_and_a_panic_ends_only_its_own_batch() {
        let limits = BatchLimits {
            concurrent: 2,
            jobs: 10,
        };
        let batcher = Arc::new(Batcher::start(limits, |batch: Vec<Job>| async move {
            for (number, reply) in batch {
                match number {
                    0 => std::future::pending().await,
                    1 => panic!("deliberate"),
                    _ => drop(reply.send(number)),
                }
            }
        }));
        let stuck = batcher.clone();
        let stuck = tokio::spawn(async move { stuck.submit(|reply| (0, reply)).await });
        tokio::time::sleep(SLOW).await;
        assert_eq!(batcher.submit(|reply| (1, reply)).await, None);
        assert_eq!(batcher.submit(|reply| (2, reply)).await, Some(2));
        assert!(!stuck.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_has_not_started_in_time_never_starts() {
        let started = Arc::new(Mutex::new(Vec::new()));
        let (gate, log) = (Arc::new(Notify::new()), started.clone());
        let opened = gate.clone();
        let limits = BatchLimits {
            concurrent: 1,
            jobs: 1,
        };
        let batcher = Batcher::start(limits, move |batch: Vec<(Job, StartToken)>| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                for ((number, reply), token) in batch {
                    if token.start() {
                        log.lock().unwrap().push(number);
                        gate.notified().await;
                        let _ = reply.send(number);
                    }
                }
            }
        });
        let batcher = Arc::new(batcher);
        let submit = |number| {
            let batcher = batcher.clone();
            let job = move |reply, token| ((number, reply), token);
            tokio::spawn(async move { batcher.submit_within(SLOW * 10, job).await })
        };
        let first = submit(1);
        tokio::time::sleep(SLOW).await;
        // The first batch runs for longer than the second job waits.
        assert_eq!(submit(2).await.unwrap(), Reply::NotStarted);
        opened.notify_one();
        assert_eq!(first.await.unwrap(), Reply::Done(1), "it had started");
        let third = submit(3);
        opened.notify_one();
        assert_eq!(third.await.unwrap(), Reply::Done(3));
        assert_eq!(*started.lock().unwrap(), [1, 3]);
    }
}
