//! Batches of operations. The operations of one moment, of any number of callers, go to Redis
//! in one call of one script. That saves calls for the server, packets for the network, and
//! most of the work of this process.
//!
//! A caller that finds nothing queued and at most one batch in flight carries out its call itself, on
//! its own task (`lone_call.rs`): the release of one request does not delay the next. Other operations
//! wait for the next batch, which a dispatcher sends. The dispatcher is a task that exists only while
//! there are such operations.
//!
//! Order: batches reach Redis in the order in which they were submitted, unless a connection
//! breaks. Within a batch releases come first, then acquisitions, then the rest; a caller's
//! second operation never precedes its first.

mod lone_call;

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, Value};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::task::yield_now;
use tokio::time::{Instant, sleep};

use self::lone_call::LoneCall;
use super::connection::{Connection, Eval, LuaScript, SlotContext};
use super::operation::Operation;
use super::script_call::{Reply, replies, script_call};
use crate::error::{Error, Result};
use crate::key::Keys;

/// Maximum number of operations in a batch, and of batches in flight. Few in flight:
/// operations that come up meanwhile gather for the next batch.
const MAX_BATCH: usize = 64;
const MAX_IN_FLIGHT: usize = 8;
/// Maximum number of operations in the first batches in flight. With everything in one batch
/// the server would idle while this process handles the replies, and the reverse.
const INITIAL_BATCH: usize = 32;
const INITIAL_IN_FLIGHT: usize = 2;

/// How long at least, and for less than twice as long, a call is left to its caller, which may have
/// stopped polling it.
const MAX_ATTACHED: Duration = Duration::from_millis(100);

struct Pending {
    script: &'static LuaScript,
    keys: Arc<Keys>,
    slot: Arc<SlotContext>,
    operation: Operation,
    eval: Eval,
    submitted_at: Instant,
    reply: oneshot::Sender<Result<Reply>>,
}

/// Sends operations to Redis in batches. Cheap to clone.
#[derive(Clone)]
pub(super) struct ScriptBatcher(Arc<Inner>);

struct Inner {
    connection: Connection,
    timeout: Duration,
    /// For the dispatcher, which outlives the runtime of a caller.
    runtime: Handle,
    state: Mutex<State>,
    /// Wakes the dispatcher.
    changed: Notify,
}

#[derive(Default)]
struct State {
    /// Unbounded, because a release is submitted where nothing can wait. It cannot grow
    /// without end: a request, a holder and a cancelled request each have few operations
    /// pending, and each operation leaves the queue within the timeout.
    queue: VecDeque<Pending>,
    order: SendOrder,
    /// The calls that their callers carry out, and their numbers.
    lone: Vec<(u64, Arc<LoneCall>)>,
    /// Whether a task takes over such calls after [`MAX_ATTACHED`].
    is_watching: bool,
    is_dispatching: bool,
}

impl ScriptBatcher {
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(super) fn new(connection: Connection, timeout: Duration) -> Self {
        Self(Arc::new(Inner {
            connection,
            timeout,
            runtime: Handle::current(),
            state: Mutex::default(),
            changed: Notify::new(),
        }))
    }

    /// Submits an operation, which is executed even if the reply is not awaited.
    pub(super) fn submit(
        &self,
        script: &'static LuaScript,
        slot: Arc<SlotContext>,
        keys: &Arc<Keys>,
        operation: Operation,
        eval: Eval,
    ) -> PendingReply {
        let (sender, reply) = oneshot::channel();
        let pending = Pending {
            script,
            keys: keys.clone(),
            slot,
            operation,
            eval,
            submitted_at: Instant::now(),
            reply: sender,
        };
        // Without a runtime there are no timers.
        let runtime = Handle::try_current().ok();
        let mut state = self.0.state();
        let lone = match runtime {
            Some(runtime) if state.admits_lone() && !is_leave(&pending) => {
                let call = self.0.send(&mut state, vec![pending]);
                let call = Arc::new(LoneCall::new(call, runtime));
                let number = state.order.last_sent;
                state.lone.push((number, call.clone()));
                let was_watching = std::mem::replace(&mut state.is_watching, true);
                drop(state);
                if !was_watching {
                    let batcher = Arc::downgrade(&self.0);
                    self.0.runtime.spawn(Inner::watch(batcher));
                }
                // The command is on its way when this returns: the order is that of the calls.
                call.begin();
                Some(call)
            }
            _ => {
                state.queue.push_back(pending);
                self.0.look(state);
                None
            }
        };
        PendingReply { reply, lone }
    }
}

impl State {
    /// Returns whether the next operation is sent at once, by its caller.
    fn admits_lone(&self) -> bool {
        !self.is_dispatching
            && self.queue.is_empty()
            && self.order.deferred.is_empty()
            && self.order.in_flight.len() < INITIAL_IN_FLIGHT
    }

    /// Returns whether there is something to send now.
    fn has_next(&self) -> bool {
        let has_room = self.order.in_flight.len() < MAX_IN_FLIGHT;
        has_room && !self.queue.is_empty() || self.order.has_ready()
    }

    /// Takes the batches to send next, with what is queued if `with_queued`.
    fn next_batches(&mut self, with_queued: bool) -> Vec<Vec<Pending>> {
        let max_operations = match self.order.in_flight.len() {
            _ if !with_queued => 0,
            0..INITIAL_IN_FLIGHT => INITIAL_BATCH,
            INITIAL_IN_FLIGHT..MAX_IN_FLIGHT => MAX_BATCH,
            MAX_IN_FLIGHT.. => 0,
        };
        let count = max_operations.min(self.queue.len());
        let (leaves, others) = self.queue.drain(..count).partition::<Vec<_>, _>(is_leave);
        let mut next = batches(others.into_iter());
        self.order.defer(leaves, next.len());
        next.extend(batches(self.order.ready()));
        next
    }
}

impl Inner {
    /// Has the dispatcher look at the queue.
    fn look(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.is_dispatching {
            drop(state);
            self.changed.notify_one();
            return;
        }
        state.is_dispatching = true;
        let lone = state.lone.clone();
        drop(state);
        // From now on other operations wait for them, and their callers may not poll them.
        for (_, lone) in lone {
            lone.detach();
        }
        let dispatcher = Dispatcher {
            batcher: self.clone(),
            is_done: false,
        };
        self.runtime.spawn(dispatcher.run());
    }

    /// Returns the call of a batch, which has its place in the order from now on.
    fn send(self: &Arc<Self>, state: &mut State, batch: Vec<Pending>) -> BoxFuture<'static, ()> {
        let sent = Sent {
            batcher: self.clone(),
            number: state.order.sent(),
        };
        let (connection, timeout) = (self.connection.clone(), self.timeout);
        Box::pin(async move {
            let _sent = sent;
            send(connection, timeout, batch).await;
        })
    }

    /// Takes over calls whose callers do not carry them out, while there are such calls. One timer
    /// for all calls of [`MAX_ATTACHED`] instead of one for each.
    async fn watch(batcher: Weak<Self>) {
        let mut last_seen = 0;
        loop {
            sleep(MAX_ATTACHED).await;
            let Some(batcher) = batcher.upgrade() else {
                return;
            };
            let mut state = batcher.state();
            let mut old = state.lone.clone();
            old.retain(|(number, _)| *number <= last_seen);
            if old.is_empty() && state.order.last_sent == last_seen {
                state.is_watching = false;
                return;
            }
            last_seen = state.order.last_sent;
            drop(state);
            for (_, lone) in old {
                lone.detach();
            }
        }
    }

    /// Waits until there is something to send, or nothing in flight.
    async fn changed(&self) {
        loop {
            let changed = self.changed.notified();
            {
                let state = self.state();
                if state.has_next() || state.order.is_idle() {
                    return;
                }
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Locked for moments, never across an await.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A batch in flight. Dropped with its call, whether that has a reply or not.
struct Sent {
    batcher: Arc<Inner>,
    number: u64,
}

impl Drop for Sent {
    fn drop(&mut self) {
        let mut state = self.batcher.state();
        state.order.replied(self.number);
        let is_own = |(number, _): &(u64, _)| *number == self.number;
        let lone = state.lone.iter().position(is_own);
        let lone = lone.map(|position| state.lone.swap_remove(position));
        let is_dispatching = state.is_dispatching;
        drop(state);
        drop(lone);
        if is_dispatching {
            self.batcher.changed.notify_one();
        }
    }
}

/// Sends what is queued, in order.
struct Dispatcher {
    batcher: Arc<Inner>,
    /// There may be another dispatcher from then on.
    is_done: bool,
}

impl Dispatcher {
    /// Runs until there is nothing to send and nothing in flight.
    async fn run(mut self) {
        let batcher = self.batcher.clone();
        let mut in_flight = FuturesUnordered::new();
        loop {
            let with_queued = tokio::select! {
                biased;
                Some(()) = in_flight.next(), if !in_flight.is_empty() => false,
                () = batcher.changed() => {
                    // Other tasks that are ready may submit more for this batch. If the store is
                    // idle, sending at once is better.
                    if !in_flight.is_empty() {
                        yield_now().await;
                    }
                    true
                }
            };
            let mut state = batcher.state();
            for batch in state.next_batches(with_queued) {
                in_flight.push(batcher.send(&mut state, batch));
            }
            if in_flight.is_empty() && state.order.is_idle() && state.queue.is_empty() {
                state.is_dispatching = false;
                self.is_done = true;
                return;
            }
        }
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        if self.is_done {
            return;
        }
        // The runtime is gone: no operation is sent any more.
        let mut state = self.batcher.state();
        state.is_dispatching = false;
        let queue = std::mem::take(&mut state.queue);
        let deferred = std::mem::take(&mut state.order.deferred);
        drop(state);
        drop((queue, deferred));
    }
}

/// An operation that was submitted. Dropping it does not cancel the operation.
pub(super) struct PendingReply {
    reply: oneshot::Receiver<Result<Reply>>,
    /// The call, if this caller carries it out.
    lone: Option<Arc<LoneCall>>,
}

impl PendingReply {
    /// Returns the reply to an operation that cannot be submitted.
    pub(super) fn failed(error: Error) -> Self {
        let (sender, reply) = oneshot::channel();
        let _ = sender.send(Err(error));
        Self { reply, lone: None }
    }
}

impl Future for PendingReply {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(lone) = &self.lone {
            if lone.poll(context).is_ready() {
                self.lone = None;
            } else if !lone.is_detached() {
                // The reply is not waited for yet: the task that polls the call would wake itself.
                return Poll::Pending;
            }
        }
        let reply = ready!(Pin::new(&mut self.reply).poll(context));
        Poll::Ready(reply.unwrap_or_else(|_| Err(shutting_down())))
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if let Some(lone) = self.lone.take() {
            lone.detach();
        }
    }
}

fn shutting_down() -> Error {
    Error::unavailable("the runtime is shutting down")
}

/// Keeps `leave` operations behind the operations that were sent before them.
///
/// A call that is repeated (the server did not know the script, a connection broke) may arrive
/// after later calls. That is harmless, except for `leave`: if it overtook the `acquire` of the
/// same waiter, that waiter would be granted a lock that it never releases.
#[derive(Default)]
struct SendOrder {
    last_sent: u64,
    /// Numbers of the batches in flight.
    in_flight: BTreeSet<u64>,
    /// `leave` operations, each with the number of the last batch before it.
    deferred: VecDeque<(u64, Pending)>,
}

impl SendOrder {
    /// Returns whether nothing is in flight and nothing is deferred.
    fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.deferred.is_empty()
    }

    fn sent(&mut self) -> u64 {
        self.last_sent += 1;
        self.in_flight.insert(self.last_sent);
        self.last_sent
    }

    fn replied(&mut self, number: u64) {
        self.in_flight.remove(&number);
    }

    /// Defers `leaves` until the batches in flight and the next `next_batches` are done.
    fn defer(&mut self, leaves: Vec<Pending>, next_batches: usize) {
        let after = self.last_sent + u64::try_from(next_batches).unwrap_or_default();
        self.deferred
            .extend(leaves.into_iter().map(|leave| (after, leave)));
    }

    /// Removes and returns the operations that can be sent.
    fn ready(&mut self) -> impl Iterator<Item = Pending> {
        let ready = self.ready_count();
        self.deferred.drain(..ready).map(|(_, leave)| leave)
    }

    fn has_ready(&self) -> bool {
        self.ready_count() > 0
    }

    fn ready_count(&self) -> usize {
        let next = self.last_sent + 1;
        let oldest = self.in_flight.first().copied().unwrap_or(next);
        self.deferred.partition_point(|(after, _)| *after < oldest)
    }
}

fn is_leave(pending: &Pending) -> bool {
    matches!(pending.operation, Operation::Leave { .. })
}

/// Groups operations by script, slot, and how the script is sent.
fn batches(submitted: impl Iterator<Item = Pending>) -> Vec<Vec<Pending>> {
    let mut batches = Vec::<Vec<Pending>>::new();
    for pending in submitted {
        // The request was dropped before Redis knew of it.
        if matches!(pending.operation, Operation::Acquire { .. }) && pending.reply.is_closed() {
            continue;
        }
        let matches = |batch: &&mut Vec<Pending>| {
            let first = &batch[0];
            std::ptr::eq(first.script, pending.script)
                && Arc::ptr_eq(&first.slot, &pending.slot)
                && first.eval == pending.eval
        };
        match batches.iter_mut().find(matches) {
            Some(batch) => batch.push(pending),
            None => batches.push(vec![pending]),
        }
    }
    for batch in &mut batches {
        batch.sort_by_key(|pending| pending.operation.rank());
    }
    batches
}

async fn send(connection: Connection, timeout: Duration, batch: Vec<Pending>) {
    let deadline = batch[0].submitted_at + timeout;
    let reply = connection
        .run::<Vec<Value>>(batch[0].eval, |eval| command(&batch, eval), deadline)
        .await;
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => {
            for pending in batch {
                let _ = pending.reply.send(Err(error.clone()));
            }
            return;
        }
    };
    let (sent_at, repeated) = (reply.sent_at, reply.repeated);
    let replies = replies(reply.value, sent_at, repeated);
    for (pending, reply) in batch.into_iter().zip(replies) {
        let _ = pending.reply.send(reply);
    }
}

/// Returns the call of a batch.
fn command(batch: &[Pending], eval: Eval) -> Cmd {
    let first = &batch[0];
    let operations = batch
        .iter()
        .map(|pending| (&*pending.keys, pending.operation));
    script_call(first.script, &first.slot, operations, eval)
}
