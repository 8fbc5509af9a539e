//! Batches of operations. The operations of one moment, of any number of callers, go to Redis
//! in one call of one script. That saves calls for the server, packets for the network, and
//! most of the work of this process.
//!
//! Order: batches reach Redis in the order in which they were submitted, unless a connection
//! breaks. Within a batch releases come first, then acquisitions, then the rest; a caller's
//! second operation never precedes its first.

use std::collections::{BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use redis::{Cmd, FromRedisValue, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::connection::{Connection, Eval, LuaScript, SlotContext};
use super::operation::Operation;
use crate::error::{Error, Result, explain_operation};
use crate::key::Keys;

/// Maximum number of operations in a batch, and of batches in flight. Few in flight:
/// operations that come up meanwhile gather for the next batch.
const MAX_BATCH: usize = 64;
const MAX_IN_FLIGHT: usize = 8;
/// Maximum number of operations in the first batches in flight. With everything in one batch
/// the server would idle while this process handles the replies, and the reverse.
const INITIAL_BATCH: usize = 32;
const INITIAL_IN_FLIGHT: usize = 2;

/// Reply to one operation.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    /// The server's clock.
    pub(super) server_time_us: i64,
    /// When the call that Redis replied to was sent, or shortly before.
    pub(super) sent_at: Instant,
    /// An earlier call may have been executed too.
    pub(super) repeated: bool,
}

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
pub(super) struct ScriptBatcher {
    /// Unbounded, because a release is submitted where nothing can wait. It cannot grow
    /// without end: a request, a holder and a cancelled request each have few operations
    /// pending, and each operation leaves the queue within the timeout.
    queue: mpsc::UnboundedSender<Pending>,
    connection: Connection,
}

impl ScriptBatcher {
    pub(super) fn new(connection: Connection, timeout: Duration) -> Self {
        let (queue, submitted) = mpsc::unbounded_channel();
        tokio::spawn(run(connection.clone(), timeout, submitted));
        Self { queue, connection }
    }

    /// Submits an operation, which is executed even if the reply is not awaited.
    pub(super) fn submit(
        &self,
        script: &'static LuaScript,
        keys: &Arc<Keys>,
        operation: Operation,
        eval: Eval,
    ) -> PendingReply {
        let (sender, reply) = oneshot::channel();
        // If the task is gone, the sender is dropped and the reply is an error.
        let _ = self.queue.send(Pending {
            script,
            keys: keys.clone(),
            slot: self.connection.slot(keys),
            operation,
            eval,
            submitted_at: Instant::now(),
            reply: sender,
        });
        PendingReply(reply)
    }
}

/// An operation that was submitted. Dropping it does not cancel the operation.
pub(super) struct PendingReply(oneshot::Receiver<Result<Reply>>);

impl Future for PendingReply {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let reply = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(reply.unwrap_or_else(|_| Err(shutting_down())))
    }
}

fn shutting_down() -> Error {
    Error::unavailable("the runtime is shutting down")
}

/// Sends what is submitted, in order, until the last sender is dropped.
async fn run(
    connection: Connection,
    timeout: Duration,
    mut queue: mpsc::UnboundedReceiver<Pending>,
) {
    let mut submitted = Vec::new();
    let mut order = SendOrder::default();
    let mut in_flight = FuturesUnordered::<BoxFuture<'static, u64>>::new();
    let mut open = true;
    while open || !in_flight.is_empty() {
        let max_operations = match in_flight.len() {
            ..INITIAL_IN_FLIGHT => INITIAL_BATCH,
            _ => MAX_BATCH,
        };
        tokio::select! {
            biased;
            Some(number) = in_flight.next(), if !in_flight.is_empty() => order.replied(number),
            received = queue.recv_many(&mut submitted, max_operations),
                if open && in_flight.len() < MAX_IN_FLIGHT =>
            {
                open = received > 0;
                // Other tasks that are ready may submit more for this batch. If the store is
                // idle, sending at once is better.
                if !in_flight.is_empty() {
                    yield_now().await;
                }
                while submitted.len() < max_operations && let Ok(pending) = queue.try_recv() {
                    submitted.push(pending);
                }
            }
        }
        let leaves = take_leaves(&mut submitted);
        let mut batches = batches(submitted.drain(..));
        order.defer(leaves, batches.len());
        batches.extend(self::batches(order.ready()));
        for batch in batches {
            let number = order.sent();
            let connection = connection.clone();
            in_flight.push(Box::pin(async move {
                send(connection, timeout, batch).await;
                number
            }));
        }
    }
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
        let next = self.last_sent + 1;
        let oldest = self.in_flight.first().copied().unwrap_or(next);
        let ready = self.deferred.partition_point(|(after, _)| *after < oldest);
        self.deferred.drain(..ready).map(|(_, leave)| leave)
    }
}

/// Removes and returns the `leave` operations. Usually there are none.
fn take_leaves(submitted: &mut Vec<Pending>) -> Vec<Pending> {
    let is_leave = |pending: &Pending| matches!(pending.operation, Operation::Leave { .. });
    if !submitted.iter().any(is_leave) {
        return Vec::new();
    }
    let (leaves, others) = submitted.drain(..).partition(is_leave);
    *submitted = others;
    leaves
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
    let mut values = reply.value.into_iter();
    let server_time_us = match values.next() {
        Some(Value::Int(time_us)) => time_us,
        _ => 0,
    };
    for (pending, value) in batch.into_iter().zip(values) {
        let reply = match failure(&value) {
            Some(reason) => Err(Error::store_failed(explain_operation(&reason))),
            None => Ok(Reply {
                value,
                server_time_us,
                sent_at,
                repeated,
            }),
        };
        let _ = pending.reply.send(reply);
    }
}

/// Returns the reason if the operation failed.
fn failure(value: &Value) -> Option<String> {
    let Value::Array(parts) = value else {
        return None;
    };
    match &parts[..] {
        [Value::BulkString(failed), reason] if failed == b"failed" => {
            Some(String::from_redis_value_ref(reason).unwrap_or_default())
        }
        _ => None,
    }
}

/// Returns the call of a batch: see `scripts/prelude.lua` and `scripts/acquire_release.lua`.
fn command(batch: &[Pending], eval: Eval) -> Cmd {
    let first = &batch[0];
    let of_rank = |rank| {
        batch
            .iter()
            .filter(move |pending| pending.operation.rank() == rank)
    };
    let mut cmd = eval.command(first.script);
    cmd.arg(1 + 2 * batch.len()).arg(&*first.slot.clock);
    for Pending { keys, .. } in batch {
        cmd.arg(&keys.holder).arg(&keys.queue);
    }
    cmd.arg(&*first.slot.channels)
        .arg(&*first.slot.client_id)
        .arg(of_rank(0).count())
        .arg(of_rank(1).count());
    for pending in batch {
        pending.operation.write(&mut cmd);
    }
    cmd
}
