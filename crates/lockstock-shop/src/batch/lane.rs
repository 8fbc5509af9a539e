//! How the batches of a queue run, one after another.
//!
//! A caller that finds the lane idle carries out its job itself, on its own task: a batch of one,
//! without a wake-up of another task. So does one that finds only a small batch, if the limits say so. Jobs that arrive
//! meanwhile wait for the next batch, which a dispatcher runs. The dispatcher is a task that exists only while there are such jobs.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use metrics::{Histogram, histogram};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::{BatchLimits, MAX_QUEUED, SLOW};

/// The jobs that have not been taken into a batch.
pub(crate) trait Queue: Send + 'static {
    type Job: Send + 'static;
    type Batch: Send + 'static;

    fn push(&mut self, job: Self::Job);

    /// The number of jobs that may start now, or a lower one, but 0 only if there are none.
    fn ready(&self) -> usize;

    /// Takes up to `max` jobs that may start now. Returns them and their number.
    fn take(&mut self, max: usize) -> (Self::Batch, usize);
}

/// A queue and what runs its batches.
pub(super) struct Lane<Q: Queue> {
    limits: BatchLimits,
    state: Mutex<State<Q>>,
    /// Wakes the dispatcher.
    changed: Notify,
    /// A permit for each job that may be queued.
    room: Semaphore,
    execute: Box<dyn Fn(Q::Batch) -> BoxFuture<'static, ()> + Send + Sync>,
    /// The numbers of jobs in the batches.
    sizes: Histogram,
}

struct State<Q> {
    queue: Q,
    /// The number of running batches.
    running: usize,
    /// The number of jobs in them.
    jobs: usize,
    /// The numbers of jobs of the two batches that ended last.
    previous: [usize; 2],
    /// When the newest batch counts as slow.
    slow: Instant,
    dispatcher: Option<AbortHandle>,
}

impl<Q: Queue> Lane<Q> {
    pub(super) fn new<Execute, Batch>(
        limits: BatchLimits,
        queue: impl FnOnce(&Weak<Self>) -> Q,
        execute: Execute,
    ) -> Arc<Self>
    where
        Execute: Fn(Q::Batch) -> Batch + Send + Sync + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        Arc::new_cyclic(|lane| Self {
            limits,
            state: Mutex::new(State {
                queue: queue(lane),
                running: 0,
                jobs: 0,
                previous: [0; 2],
                slow: Instant::now(),
                dispatcher: None,
            }),
            changed: Notify::new(),
            room: Semaphore::new(MAX_QUEUED),
            execute: Box::new(move |batch| execute(batch).boxed()),
            sizes: histogram!("lockstock_batch_jobs", "batch" => limits.name),
        })
    }

    /// Queues a job, waiting for room. Returns the batch that the caller has to carry out, if the
    /// lane was idle.
    pub(super) async fn submit(self: &Arc<Self>, job: Q::Job) -> Option<Lead> {
        if let Ok(permit) = self.room.acquire().await {
            // Returned when the job is taken.
            permit.forget();
        }
        let mut state = self.state();
        state.queue.push(job);
        if state.dispatcher.is_some() {
            drop(state);
            self.changed.notify_one();
            return None;
        }
        let batch = self.start(&mut state);
        if state.queue.ready() > 0 {
            self.spawn_dispatcher(&mut state);
        }
        drop(state);
        batch.map(|(batch, count)| Lead(Some(self.clone().run(batch, count).boxed())))
    }

    /// Changes the queue outside of a batch.
    pub(super) fn update(self: &Arc<Self>, change: impl FnOnce(&mut Q)) {
        let mut state = self.state();
        change(&mut state.queue);
        self.look(&mut state);
    }

    /// Stops the dispatcher.
    pub(super) fn stop(&self) {
        if let Some(dispatcher) = self.state().dispatcher.take() {
            dispatcher.abort();
        }
    }

    /// Takes the next batch and the number of its jobs, if it may start now.
    fn start(&self, state: &mut State<Q>) -> Option<(Q::Batch, usize)> {
        let now = Instant::now();
        let [last, before] = state.previous;
        let is_small = state.jobs.max(last).max(before) <= self.limits.small;
        let ready = state.queue.ready();
        let is_delayed = !is_small && ready < self.limits.large && state.slow > now;
        let has_turn = state.running == 0 || state.running < self.limits.concurrent && !is_delayed;
        if !has_turn || ready == 0 {
            return None;
        }
        state.running += 1;
        state.slow = now + SLOW;
        let (batch, count) = state.queue.take(self.limits.jobs);
        state.jobs += count;
        self.room.add_permits(count);
        self.sizes.record(count as f64);
        Some((batch, count))
    }

    /// Runs a batch. A panic is logged: its callers receive no reply, and other batches are not
    /// affected.
    async fn run(self: Arc<Self>, batch: Q::Batch, count: usize) {
        let batch = AssertUnwindSafe((self.execute)(batch)).catch_unwind();
        if batch.await.is_err() {
            tracing::error!("a batch panicked");
        }
        let mut state = self.state();
        state.running -= 1;
        state.jobs -= count;
        state.previous = [count, state.previous[0]];
        self.look(&mut state);
    }

    /// Has the dispatcher look at the queue, if there is something to start.
    fn look(self: &Arc<Self>, state: &mut State<Q>) {
        if state.dispatcher.is_some() {
            self.changed.notify_one();
        } else if state.queue.ready() > 0 {
            self.spawn_dispatcher(state);
        }
    }

    fn spawn_dispatcher(self: &Arc<Self>, state: &mut State<Q>) {
        // Without a runtime the server is gone.
        if let Ok(runtime) = Handle::try_current() {
            let dispatcher = runtime.spawn(self.clone().dispatch());
            state.dispatcher = Some(dispatcher.abort_handle());
        }
    }

    /// Runs batches until no job may start.
    async fn dispatch(self: Arc<Self>) {
        let mut batches = FuturesUnordered::new();
        loop {
            let slow = {
                let mut state = self.state();
                if let Some((batch, count)) = self.start(&mut state) {
                    batches.push(self.clone().run(batch, count));
                    continue;
                }
                let is_ready = state.queue.ready() > 0;
                if !is_ready && batches.is_empty() {
                    state.dispatcher = None;
                    return;
                }
                let may_start_beside = is_ready && state.running < self.limits.concurrent;
                may_start_beside.then_some(state.slow)
            };
            tokio::select! {
                Some(()) = batches.next() => {}
                () = self.changed.notified() => {}
                () = sleep_until(slow.unwrap_or_else(Instant::now)), if slow.is_some() => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<Q>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch that a caller carries out. If the caller is cancelled, the rest of the batch runs on a
/// task of its own.
pub(super) struct Lead(Option<BoxFuture<'static, ()>>);

impl Future for Lead {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(batch) = &mut self.0 else {
            return Poll::Ready(());
        };
        let polled = batch.poll_unpin(context);
        if polled.is_ready() {
            self.0 = None;
        }
        polled
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some(batch) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(batch);
        }
    }
}
