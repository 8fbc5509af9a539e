//! What is asked of Redis. The steps that come up in one moment, whosever they are, go there
//! in one call of one script: the server is spared the calls, the network the packets, and
//! this process most of the work.
//!
//! Calls reach Redis in the order in which they were asked for, unless a connection breaks; of
//! the steps of one call those that release come first, and nobody's second step comes before
//! the first.

use std::borrow::Cow;
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
use crate::error::{Error, Result, explain_operation};
use crate::inspect::HolderId;
use crate::key::Keys;
use crate::store::request::{Mode, Ownership};
use crate::token::Token;

/// How many steps go in one call, and how many calls at once. Few at once: what comes up
/// meanwhile gathers for the next.
const MAX_BATCH: usize = 64;
const MAX_IN_FLIGHT: usize = 8;
/// How many steps go in one of the first calls at once: with everything in one call the server
/// would rest while we deal with its answers, and we while it works.
const INITIAL_BATCH: usize = 32;
const INITIAL_IN_FLIGHT: usize = 2;

/// A step of a script: see `scripts/acquire_release.lua`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Operation {
    Release {
        claim: Ownership,
        /// The last fence of the block that was used, if there is more than one.
        used: Option<u64>,
    },
    Acquire {
        what: AcquireArgs,
        /// In µs.
        waited: u64,
    },
    /// A release with somebody waiting behind in this process.
    Pass {
        claim: Ownership,
        used: Option<u64>,
        what: AcquireArgs,
        waited: u64,
    },
    Leave {
        what: AcquireArgs,
        give_back: bool,
    },
    Keep {
        claim: Ownership,
        used: Option<u64>,
    },
    /// In ms.
    Renew(Token, u64),
    /// Takes the lock away.
    Force(HolderId),
}

/// What a waiter waits for, as the queue has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct AcquireArgs {
    pub(super) token: Token,
    /// In ms.
    pub(super) lease: u64,
    /// In ms in all, -1 for as long as it takes; without it, it does not wait.
    pub(super) wait: Option<i64>,
    /// How many fences.
    pub(super) block: u64,
    pub(super) mode: Mode,
}

impl Operation {
    /// Whether it is taken now and then only.
    pub(super) fn is_rare(self) -> bool {
        matches!(self, Self::Leave { .. } | Self::Renew(..) | Self::Force(_))
    }

    /// The script takes them in this order.
    fn rank(self) -> u8 {
        match self {
            Self::Release { .. } => 0,
            Self::Acquire { .. } => 1,
            Self::Pass { .. }
            | Self::Leave { .. }
            | Self::Keep { .. }
            | Self::Renew(..)
            | Self::Force(_) => 2,
        }
    }
}

/// The answer to a step.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(super) value: Value,
    /// The server's clock, in µs.
    pub(super) clock: i64,
    /// When the call that was answered was begun.
    pub(super) begun: Instant,
    /// A call before it may have been carried out as well.
    pub(super) repeated: bool,
}

struct Pending {
    script: &'static LuaScript,
    keys: Arc<Keys>,
    slot: Arc<SlotContext>,
    step: Operation,
    asked: Instant,
    answer: oneshot::Sender<Result<Reply>>,
}

/// Asks Redis. Cloned freely.
#[derive(Clone)]
pub(super) struct ScriptBatcher {
    queue: mpsc::UnboundedSender<Pending>,
    wire: Connection,
}

impl ScriptBatcher {
    pub(super) fn new(wire: Connection, limit: Duration) -> Self {
        let (queue, calls) = mpsc::unbounded_channel();
        tokio::spawn(drive(wire.clone(), limit, calls));
        Self { queue, wire }
    }

    /// Asks for a step from now on, whatever becomes of the answer.
    pub(super) fn ask(
        &self,
        script: &'static LuaScript,
        keys: &Arc<Keys>,
        step: Operation,
    ) -> PendingReply {
        let (answer, answered) = oneshot::channel();
        // Were nobody there to take it, the sender would be dropped, and that is heard.
        let _ = self.queue.send(self.call(script, keys, step, answer));
        PendingReply(answered)
    }

    /// Asks for a step when it is called, if the store is still in use then.
    pub(super) fn later(
        &self,
        script: &'static LuaScript,
        keys: &Arc<Keys>,
        step: Operation,
    ) -> impl FnOnce() + Send + use<> {
        let queue = self.queue.downgrade();
        let mut call = self.call(script, keys, step, oneshot::channel().0);
        move || {
            call.asked = Instant::now();
            if let Some(queue) = queue.upgrade() {
                let _ = queue.send(call);
            }
        }
    }

    fn call(
        &self,
        script: &'static LuaScript,
        keys: &Arc<Keys>,
        step: Operation,
        answer: oneshot::Sender<Result<Reply>>,
    ) -> Pending {
        Pending {
            script,
            keys: keys.clone(),
            slot: self.wire.slot(keys),
            step,
            asked: Instant::now(),
            answer,
        }
    }
}

/// A step that was asked for. It is taken whether or not anybody waits for the answer.
pub(crate) struct PendingReply(oneshot::Receiver<Result<Reply>>);

impl Future for PendingReply {
    type Output = Result<Reply>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(answered.unwrap_or_else(|_| Err(over())))
    }
}

fn over() -> Error {
    Error::unavailable("the runtime is shutting down")
}

/// Sends what is asked, in order, until nobody can ask any more.
async fn drive(wire: Connection, limit: Duration, mut queue: mpsc::UnboundedReceiver<Pending>) {
    let mut calls = Vec::new();
    let mut order = SendOrder::default();
    let mut under_way = FuturesUnordered::<BoxFuture<'static, u64>>::new();
    let mut open = true;
    while open || !under_way.is_empty() {
        let most_steps = match under_way.len() {
            ..INITIAL_IN_FLIGHT => INITIAL_BATCH,
            _ => MAX_BATCH,
        };
        tokio::select! {
            biased;
            Some(number) = under_way.next(), if !under_way.is_empty() => order.answered(number),
            asked = queue.recv_many(&mut calls, most_steps),
                if open && under_way.len() < MAX_IN_FLIGHT =>
            {
                open = asked > 0;
                // Whoever else has something to ask in this moment comes first, unless the store
                // has nothing to do but wait for us.
                if !under_way.is_empty() {
                    yield_now().await;
                }
                while calls.len() < most_steps && let Ok(call) = queue.try_recv() {
                    calls.push(call);
                }
            }
        }
        let leaving = take_leaving(&mut calls);
        let mut batches = batches(calls.drain(..));
        order.hold_back(leaving, batches.len());
        batches.extend(self::batches(order.ready()));
        for batch in batches {
            let number = order.sent();
            let wire = wire.clone();
            under_way.push(Box::pin(async move {
                send(wire, limit, batch).await;
                number
            }));
        }
    }
}

/// Calls that are repeated (the server did not know the script, a connection broke) may arrive
/// behind later ones. Mostly that does no harm; but whoever leaves must not leave before it has
/// come, or what it is granted afterwards is nobody's.
#[derive(Default)]
struct SendOrder {
    sent: u64,
    /// The numbers of the calls that were sent and not answered.
    unanswered: BTreeSet<u64>,
    /// Those that leave, and the last call that was sent before them.
    held_back: VecDeque<(u64, Pending)>,
}

impl SendOrder {
    fn sent(&mut self) -> u64 {
        self.sent += 1;
        self.unanswered.insert(self.sent);
        self.sent
    }

    fn answered(&mut self, number: u64) {
        self.unanswered.remove(&number);
    }

    /// Lets those that leave wait for all that was sent, and the next so many calls.
    fn hold_back(&mut self, leaving: Vec<Pending>, next_calls: usize) {
        let after = self.sent + u64::try_from(next_calls).unwrap_or_default();
        self.held_back
            .extend(leaving.into_iter().map(|call| (after, call)));
    }

    /// Those that have nothing to wait for any more.
    fn ready(&mut self) -> impl Iterator<Item = Pending> {
        let next = self.sent + 1;
        let oldest = self.unanswered.first().copied().unwrap_or(next);
        let ready = self.held_back.partition_point(|(after, _)| *after < oldest);
        self.held_back.drain(..ready).map(|(_, call)| call)
    }
}

/// Nearly always nobody.
fn take_leaving(calls: &mut Vec<Pending>) -> Vec<Pending> {
    let leaves = |call: &Pending| matches!(call.step, Operation::Leave { .. });
    if !calls.iter().any(leaves) {
        return Vec::new();
    }
    let (leaving, others) = calls.drain(..).partition(leaves);
    *calls = others;
    leaving
}

/// Those of one script and one slot can go together.
fn batches(calls: impl Iterator<Item = Pending>) -> Vec<Vec<Pending>> {
    let mut batches = Vec::<Vec<Pending>>::new();
    for call in calls {
        // Nobody waits for it, and Redis has never heard of it.
        if matches!(call.step, Operation::Acquire { .. }) && call.answer.is_closed() {
            continue;
        }
        let alike = |batch: &&mut Vec<Pending>| {
            let first = &batch[0];
            std::ptr::eq(first.script, call.script) && Arc::ptr_eq(&first.slot, &call.slot)
        };
        match batches.iter_mut().find(alike) {
            Some(batch) => batch.push(call),
            None => batches.push(vec![call]),
        }
    }
    for batch in &mut batches {
        batch.sort_by_key(|call| call.step.rank());
    }
    batches
}

async fn send(wire: Connection, limit: Duration, batch: Vec<Pending>) {
    let until = batch[0].asked + limit;
    let ran = wire
        .run::<Vec<Value>>(|by| command(&batch, by), until)
        .await;
    let (answers, begun, repeated) = match ran {
        Ok(ran) => (ran.value, ran.sent_at, ran.repeated),
        Err(error) => {
            for call in batch {
                let _ = call.answer.send(Err(error.clone()));
            }
            return;
        }
    };
    let mut answers = answers.into_iter();
    let clock = match answers.next() {
        Some(Value::Int(clock)) => clock,
        _ => 0,
    };
    for (call, value) in batch.into_iter().zip(answers) {
        let answer = match refusal(&value) {
            Some(why) => Err(Error::store_failed(explain_operation(&why))),
            None => Ok(Reply {
                value,
                clock,
                begun,
                repeated,
            }),
        };
        let _ = call.answer.send(answer);
    }
}

/// Why a step failed, if it did.
fn refusal(answer: &Value) -> Option<String> {
    let Value::Array(parts) = answer else {
        return None;
    };
    match &parts[..] {
        [Value::BulkString(failed), why] if failed == b"failed" => {
            Some(String::from_redis_value_ref(why).unwrap_or_default())
        }
        _ => None,
    }
}

/// See `scripts/prelude.lua` and `scripts/acquire_release.lua`.
fn command(batch: &[Pending], by: Eval) -> Cmd {
    let first = &batch[0];
    let of_rank = |rank| batch.iter().filter(move |call| call.step.rank() == rank);
    let mut cmd = by.command(first.script);
    cmd.arg(1 + 2 * batch.len()).arg(&*first.slot.clock);
    for Pending { keys, .. } in batch {
        cmd.arg(&keys.holder).arg(&keys.queue);
    }
    cmd.arg(&*first.slot.channels)
        .arg(&*first.slot.client_id)
        .arg(of_rank(0).count())
        .arg(of_rank(1).count());
    for call in batch {
        call.step.write(&mut cmd);
    }
    cmd
}

impl Operation {
    fn write(self, cmd: &mut Cmd) {
        match self {
            Self::Release { claim, used } => write_claim(cmd, claim, used),
            Self::Acquire { what, waited } => what.write_with(waited, cmd),
            Self::Pass {
                claim,
                used,
                what,
                waited,
            } => {
                cmd.arg("pass");
                write_claim(cmd, claim, used);
                what.write_with(waited, cmd);
            }
            Self::Leave { what, give_back } => {
                cmd.arg("leave");
                what.write_how_long(cmd);
                cmd.arg(what.block)
                    .arg(mode(what.mode))
                    .arg(u8::from(give_back));
            }
            Self::Keep { claim, used } => {
                cmd.arg("keep");
                write_claim(cmd, claim, used);
            }
            Self::Renew(token, left) => {
                cmd.arg("renew").arg(token.to_string()).arg(left);
            }
            Self::Force(holder) => {
                cmd.arg("force").arg(holder.to_string());
            }
        }
    }
}

/// As the holder's key has it while nobody waits: the script need only compare.
fn write_claim(cmd: &mut Cmd, claim: Ownership, used: Option<u64>) {
    cmd.arg(format!(
        "lockstock:held:{}:{}",
        claim.token, claim.last_fence
    ));
    match used {
        Some(used) => cmd.arg(used),
        None => cmd.arg(""),
    };
}

impl AcquireArgs {
    fn write_with(self, waited: u64, cmd: &mut Cmd) {
        self.write_how_long(cmd);
        cmd.arg(waited).arg(self.block).arg(mode(self.mode));
    }

    fn write_how_long(self, cmd: &mut Cmd) {
        cmd.arg(self.token.to_string()).arg(self.lease);
        match self.wait {
            Some(wait) => cmd.arg(wait),
            None => cmd.arg(""),
        };
    }
}

/// As the scripts have it.
fn mode(mode: Mode) -> Cow<'static, str> {
    match mode {
        Mode::Exclusive => "x".into(),
        Mode::Permit(most) => format!("s{most}").into(),
        Mode::Read => "s0".into(),
    }
}
