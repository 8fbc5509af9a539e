//! Batches concurrent calls: a job that arrives while a batch runs joins the next batch.
//!
//! A database answers one query or sixty in nearly the same time. Under load, a batch therefore
//! costs as much as a single call; without load, a job waits neither for others nor for another
//! task. Jobs run in order of arrival. Everything is bounded: the number of concurrent batches, the jobs in a batch, and
//! the queue. A caller may set a start timeout; a job that has not started by then is dropped.

mod keyed;
mod lane;
mod start;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::keyed::{KeyBatch, Keyed};
use self::lane::{Lane, Lead, Queue};
pub(crate) use self::start::StartToken;

/// A queue of jobs that run in batches. Each job holds the sender for its own reply.
pub(crate) struct Batcher<Q: Queue>(Arc<Lane<Q>>);

/// The bounds of a [`Batcher`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct BatchLimits {
    /// What is batched, in the metrics.
    pub(crate) name: &'static str,
    /// Maximum number of concurrent batches. A second one starts only while the running ones are small
    /// or slow, or when it is large itself: one large batch costs less than two smaller ones.
    pub(crate) concurrent: usize,
    /// Maximum number of jobs in a batch.
    pub(crate) jobs: usize,
    /// Running batches of no more jobs than this together do not delay the next one, if the two that
    /// ended last were as small. With many callers they were not, and their jobs should share the next
    /// batch. 0 if another small batch costs more than the wait for the running one.
    pub(crate) small: usize,
    /// A batch of at least as many jobs does not wait for the running ones. `usize::MAX` if two large
    /// batches cost more than the wait.
    pub(crate) large: usize,
}

impl BatchLimits {
    /// Creates limits by which a batch starts when the one before it has ended, or is slow.
    pub(crate) const fn new(name: &'static str, concurrent: usize, jobs: usize) -> Self {
        Self {
            name,
            concurrent,
            jobs,
            small: 0,
            large: usize::MAX,
        }
    }
}

/// Maximum number of queued jobs. Beyond it, callers wait to submit theirs.
const MAX_QUEUED: usize = 4096;

/// Age at which a running batch no longer delays the next one: it may wait for a disk or for a
/// dead connection.
const SLOW: Duration = Duration::from_millis(5);

/// A queue whose jobs may run together, in order of arrival.
pub(crate) struct Fifo<Job>(VecDeque<Job>);

impl<Job: Send + 'static> Queue for Fifo<Job> {
    type Job = Job;
    type Batch = Vec<Job>;

    fn push(&mut self, job: Job) {
        self.0.push_back(job);
    }

    fn ready(&self) -> usize {
        self.0.len()
    }

    fn take(&mut self, max: usize) -> (Vec<Job>, usize) {
        let batch = self.0.drain(..max.min(self.0.len())).collect::<Vec<_>>();
        let count = batch.len();
        (batch, count)
    }
}

impl<Job: Send + 'static> Batcher<Fifo<Job>> {
    /// Creates a batcher that calls `execute` with each batch.
    pub(crate) fn new<Execute, Batch>(limits: BatchLimits, execute: Execute) -> Self
    where
        Execute: Fn(Vec<Job>) -> Batch + Send + Sync + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        let queue = |_: &_| Fifo(VecDeque::new());
        Self(Lane::new(limits, queue, execute))
    }
}

impl<Q: Queue> Batcher<Q> {
    /// Submits the job that `job` builds around its reply sender, and waits for the reply.
    /// Returns `None` if the batch ended without a reply.
    pub(crate) async fn submit<T>(
        &self,
        job: impl FnOnce(oneshot::Sender<T>) -> Q::Job,
    ) -> Option<T> {
        let (sender, reply) = oneshot::channel();
        let lead = self.0.submit(job(sender)).await;
        received(lead, reply).await
    }

    /// Submits a job that is useless later: unless it [starts](StartToken::start) within
    /// `timeout`, it never does, and the reply is [`Reply::NotStarted`].
    pub(crate) async fn submit_within<T>(
        &self,
        timeout: Duration,
        job: impl FnOnce(oneshot::Sender<T>, StartToken) -> Q::Job,
    ) -> Reply<T> {
        let start_deadline = Instant::now() + timeout;
        let token = StartToken::default();
        let (sender, reply) = oneshot::channel();
        let submitted = self.0.submit(job(sender, token.clone()));
        let Ok(lead) = timeout_at(start_deadline, submitted).await else {
            return Reply::NotStarted;
        };
        let mut reply = std::pin::pin!(received(lead, reply));
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

impl<Q: Queue> Drop for Batcher<Q> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Waits for a reply, and carries out the batch that may be the caller's to carry out. What the
/// batch does after the reply is not waited for.
async fn received<T>(lead: Option<Lead>, mut reply: oneshot::Receiver<T>) -> Option<T> {
    if let Some(mut lead) = lead {
        let early = poll_fn(|context| {
            // Nearly always the batch sends the reply while it is polled here. A waker that is registered
            // meanwhile would schedule this task once more, and wake another thread for it.
            let mut unregister = Context::from_waker(Waker::noop());
            if let Poll::Ready(reply) = reply.poll_unpin(&mut unregister) {
                return Poll::Ready(Some(reply));
            }
            let ended = lead.poll_unpin(context);
            if let Poll::Ready(reply) = reply.poll_unpin(context) {
                return Poll::Ready(Some(reply));
            }
            ended.map(|()| None)
        });
        if let Some(reply) = early.await {
            return reply.ok();
        }
    }
    reply.await.ok()
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex};
    use std::task::Wake;
    use tokio::sync::Notify;

    /// Counts the wake-ups of a task.
    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    type Job = (u32, oneshot::Sender<u32>);
    /// The numbers of the jobs in each batch.
    type Batches = Arc<Mutex<Vec<Vec<u32>>>>;

    /// Returns a batcher whose batches wait for the gate and then reply, the batches that have started,
    /// and the gate.
    fn gated(
        limits: BatchLimits,
        answer: fn(u32) -> u32,
    ) -> (Arc<Batcher<Fifo<Job>>>, Batches, Arc<Notify>) {
        let started = Arc::new(Mutex::new(Vec::new()));
        let (opened, log) = (Arc::new(Notify::new()), started.clone());
        let gate = opened.clone();
        let batcher = Batcher::new(limits, move |batch: Vec<Job>| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                let numbers = batch.iter().map(|job| job.0).collect::<Vec<_>>();
                log.lock().unwrap().push(numbers);
                gate.notified().await;
                for (number, reply) in batch {
                    let _ = reply.send(answer(number));
                }
            }
        });
        (Arc::new(batcher), started, opened)
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_submitted_while_a_batch_runs_joins_the_next_in_order() {
        let limits = BatchLimits::new("test", 1, 3);
        let (batcher, batches, opened) = gated(limits, |number| number * 10);
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
        let limits = BatchLimits::new("test", 2, 10);
        let batcher = Arc::new(Batcher::new(limits, |batch: Vec<Job>| async move {
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
        let limits = BatchLimits::new("test", 1, 1);
        let batcher = Batcher::new(limits, move |batch: Vec<(Job, StartToken)>| {
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

    #[tokio::test(start_paused = true)]
    async fn a_lone_job_runs_on_the_task_of_its_caller_and_to_its_end_if_the_caller_is_cancelled() {
        let tasks = Arc::new(Mutex::new(Vec::new()));
        let (gate, log) = (Arc::new(Notify::new()), tasks.clone());
        let opened = gate.clone();
        let limits = BatchLimits::new("test", 1, 1);
        let batcher = Arc::new(Batcher::new(limits, move |batch: Vec<Job>| {
            let (gate, log) = (gate.clone(), log.clone());
            async move {
                log.lock().unwrap().push((batch[0].0, tokio::task::id()));
                gate.notified().await;
                log.lock().unwrap().push((batch[0].0, tokio::task::id()));
                for (number, reply) in batch {
                    let _ = reply.send(number);
                }
            }
        }));
        let submit = |number| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(|reply| (number, reply)).await })
        };
        let lone = submit(1);
        let caller = lone.id();
        tokio::time::sleep(SLOW).await;
        opened.notify_one();
        assert_eq!(lone.await.unwrap(), Some(1));
        assert_eq!(tasks.lock().unwrap()[..], [(1, caller), (1, caller)]);

        let cancelled = submit(2);
        tokio::time::sleep(SLOW).await;
        cancelled.abort();
        assert!(cancelled.await.unwrap_err().is_cancelled());
        let next = submit(3);
        tokio::time::sleep(SLOW).await;
        // The batch of the cancelled caller has not ended.
        assert_eq!(tasks.lock().unwrap().len(), 3);
        opened.notify_one();
        tokio::time::sleep(SLOW).await;
        opened.notify_one();
        assert_eq!(next.await.unwrap(), Some(3));
        let numbers = tasks
            .lock()
            .unwrap()
            .iter()
            .map(|step| step.0)
            .collect::<Vec<_>>();
        assert_eq!(numbers, [1, 1, 2, 2, 3, 3]);
    }

    #[tokio::test]
    async fn a_caller_that_carries_out_its_job_is_not_woken_by_its_reply() {
        let limits = BatchLimits::new("test", 1, 1);
        let (batcher, _, opened) = gated(limits, |number| number);
        let mut submitted = Box::pin(batcher.submit(|reply| (1, reply)));
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(wakes.clone());
        let mut context = Context::from_waker(&waker);
        assert!(submitted.poll_unpin(&mut context).is_pending());
        opened.notify_one();
        assert_eq!(submitted.poll_unpin(&mut context), Poll::Ready(Some(1)));
        assert_eq!(wakes.0.load(Ordering::SeqCst), 1, "by the gate only");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_batch_starts_at_once_beside_a_small_one_and_not_beside_a_large_one() {
        let limits = BatchLimits {
            small: 3,
            ..BatchLimits::new("test", 2, 10)
        };
        let (batcher, started, opened) = gated(limits, |number| number);
        let submit = |number| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(|reply| (number, reply)).await })
        };
        let mut callers = (0..6).map(submit).collect::<Vec<_>>();
        // Long enough for every task to run, and too short for a batch to be slow.
        let pause = || tokio::time::sleep(SLOW / 5);
        pause().await;
        assert_eq!(*started.lock().unwrap(), [vec![0], vec![1]]);
        opened.notify_waiters();
        pause().await;
        callers.push(submit(6));
        pause().await;
        assert_eq!(started.lock().unwrap()[2..], [vec![2, 3, 4, 5]]);
        tokio::time::sleep(SLOW).await;
        assert_eq!(started.lock().unwrap()[3..], [vec![6]]);
        opened.notify_waiters();
        pause().await;
        // Of the two that ended last one was large, so none starts beside the next.
        callers.extend([submit(7), submit(8)]);
        pause().await;
        assert_eq!(started.lock().unwrap()[4..], [vec![7]]);
        for _ in 0..2 {
            opened.notify_waiters();
            pause().await;
        }
        assert_eq!(started.lock().unwrap()[5..], [vec![8]]);
        // Now both were small.
        callers.extend([submit(9), submit(10)]);
        pause().await;
        assert_eq!(started.lock().unwrap()[6..], [vec![9], vec![10]]);
        opened.notify_waiters();
        for (number, caller) in (0..).zip(callers) {
            assert_eq!(caller.await.unwrap(), Some(number));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_large_batch_starts_at_once_beside_another_large_one() {
        let limits = BatchLimits {
            large: 3,
            ..BatchLimits::new("test", 2, 10)
        };
        let (batcher, started, opened) = gated(limits, |number| number);
        let submit = |number| {
            let batcher = batcher.clone();
            tokio::spawn(async move { batcher.submit(|reply| (number, reply)).await })
        };
        let pause = || tokio::time::sleep(SLOW / 10);
        let mut callers = vec![submit(0)];
        pause().await;
        callers.extend([submit(1), submit(2)]);
        pause().await;
        assert_eq!(*started.lock().unwrap(), [vec![0]]);
        callers.push(submit(3));
        pause().await;
        assert_eq!(started.lock().unwrap()[1..], [vec![1, 2, 3]]);
        // Two batches at a time.
        callers.extend([submit(4), submit(5), submit(6)]);
        pause().await;
        assert_eq!(started.lock().unwrap().len(), 2);
        opened.notify_waiters();
        pause().await;
        assert_eq!(started.lock().unwrap()[2..], [vec![4, 5, 6]]);
        opened.notify_waiters();
        for (number, caller) in (0..).zip(callers) {
            assert_eq!(caller.await.unwrap(), Some(number));
        }
    }
}
