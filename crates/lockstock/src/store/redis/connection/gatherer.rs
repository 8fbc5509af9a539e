//! Gathering of calls on values: the commands of one moment, of any number of callers, go to the
//! server in one write.
//!
//! Otherwise most calls would be a packet each, which costs both sides more than the call: small
//! packets are sent at once (see `url.rs`). A call that is alone is sent at once.
//!
//! Not guaranteed: the order of calls that are made at the same time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::{Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::{mpsc, oneshot};
use tokio::task::yield_now;
use tokio_util::task::AbortOnDropHandle;

use super::multiplexed::Multiplexed;

/// Maximum number of commands in one write.
const MAX_BATCH: usize = 64;
/// Maximum number of writes whose replies are awaited. Few: commands that come up meanwhile gather
/// for the next write.
const MAX_IN_FLIGHT: usize = 4;
/// Maximum number of commands that wait to be sent. Further callers wait before that: while the
/// server does not reply, the commands of cancelled calls stay in the queue.
const MAX_QUEUED: usize = 1024;
/// Larger commands are sent on their own, and so are those after a larger reply: the replies to one
/// write arrive together, which is late for the first if they are large.
const MAX_GATHERED_BYTES: usize = 4096;

/// The calls on one connection.
pub(super) struct Gatherer {
    queue: mpsc::Sender<Call>,
    /// The number of calls without a reply.
    pending: AtomicUsize,
    /// Whether the last reply was larger than [`MAX_GATHERED_BYTES`].
    has_large_replies: AtomicBool,
    _task: AbortOnDropHandle<()>,
}

struct Call {
    command: Cmd,
    reply: oneshot::Sender<RedisResult<Value>>,
}

impl Gatherer {
    pub(super) fn new(connection: Multiplexed) -> Self {
        let (queue, calls) = mpsc::channel(MAX_QUEUED);
        Self {
            queue,
            pending: AtomicUsize::new(0),
            has_large_replies: AtomicBool::new(false),
            _task: AbortOnDropHandle::new(tokio::spawn(run(connection, calls))),
        }
    }

    /// Sends a command on `connection`, alone or with others, and returns the reply.
    pub(super) async fn call(
        &self,
        connection: &mut Multiplexed,
        command: &Cmd,
    ) -> RedisResult<Value> {
        let pending = Pending::new(&self.pending);
        let had_large_replies = self.has_large_replies.load(Ordering::Relaxed);
        let is_large = had_large_replies || bytes(command) > MAX_GATHERED_BYTES;
        let reply = if pending.is_alone || is_large {
            connection.inner.send_packed_command(command).await?
        } else {
            let (reply, replied) = oneshot::channel();
            let command = command.clone();
            let sent = self.queue.send(Call { command, reply }).await;
            sent.map_err(|_| closed())?;
            replied.await.map_err(|_| closed())??
        };
        let is_large = reply_bytes(&reply) > MAX_GATHERED_BYTES;
        if is_large != had_large_replies {
            self.has_large_replies.store(is_large, Ordering::Relaxed);
        }
        reply.extract_error()
    }
}

/// A call without a reply.
struct Pending<'a> {
    count: &'a AtomicUsize,
    is_alone: bool,
}

impl<'a> Pending<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        let is_alone = count.fetch_add(1, Ordering::Relaxed) == 0;
        Self { count, is_alone }
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

fn bytes(command: &Cmd) -> usize {
    let lengths = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word.len(),
        _ => 0,
    });
    lengths.sum()
}

/// Returns the size of the values in a reply.
fn reply_bytes(reply: &Value) -> usize {
    match reply {
        Value::BulkString(value) => value.len(),
        Value::Array(values) => values.iter().map(reply_bytes).sum(),
        _ => 0,
    }
}

fn closed() -> RedisError {
    (ErrorKind::Io, "the connection is closed").into()
}

/// Sends the calls, in order. Aborted with the connection.
async fn run(connection: Multiplexed, mut queue: mpsc::Receiver<Call>) {
    let mut calls = Vec::new();
    let mut in_flight = FuturesUnordered::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = in_flight.next(), if !in_flight.is_empty() => {}
            received = queue.recv_many(&mut calls, MAX_BATCH), if in_flight.len() < MAX_IN_FLIGHT => {
                if received == 0 {
                    return;
                }
                // Other tasks that are ready may call too.
                yield_now().await;
                while calls.len() < MAX_BATCH && let Ok(call) = queue.try_recv() {
                    calls.push(call);
                }
                in_flight.push(send(connection.clone(), std::mem::take(&mut calls)));
            }
        }
    }
}

async fn send(mut connection: Multiplexed, calls: Vec<Call>) {
    let mut pipeline = Pipeline::with_capacity(calls.len());
    let mut replies = Vec::with_capacity(calls.len());
    for Call { command, reply } in calls {
        // The caller does not wait any longer.
        if !reply.is_closed() {
            pipeline.add_command(command);
            replies.push(reply);
        }
    }
    if replies.is_empty() {
        return;
    }
    match connection
        .inner
        .send_packed_commands(&pipeline, 0, replies.len())
        .await
    {
        Ok(values) => {
            for (reply, value) in replies.into_iter().zip(values) {
                let _ = reply.send(Ok(value));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }
}
