//! What is asked of Redis. The steps that come up in one moment, whosever they are, go there
//! in one call of one script: the server is spared the calls, the network the packets, and
//! this process most of the work.
//!
//! Steps reach Redis in the order in which they were asked for, unless a connection breaks.

use std::borrow::Cow;
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

use super::wire::{By, Lua, Slot, Wire};
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::listing::HolderId;
use crate::store::attempt::{Claim, Mode};
use crate::token::Token;

/// How many steps go in one call, and how many calls at once. Few at once: what comes up
/// meanwhile gathers for the next.
const MOST_STEPS: usize = 64;
const MOST_CALLS: usize = 4;

/// A step of a script: see `lock/steps.lua`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    Release {
        claim: Claim,
        /// The last fence of the block that was used, if there is more than one.
        used: Option<u64>,
    },
    Acquire {
        what: What,
        /// In µs.
        waited: u64,
    },
    /// A release with somebody waiting behind in this process.
    Pass {
        claim: Claim,
        used: Option<u64>,
        what: What,
        waited: u64,
    },
    Leave {
        what: What,
        give_back: bool,
    },
    Keep(Token),
    /// In ms.
    Renew(Token, u64),
    /// Takes the lock away.
    Force(HolderId),
}

/// What a waiter waits for, as the queue has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct What {
    pub(super) token: Token,
    /// In ms.
    pub(super) lease: u64,
    /// In ms in all, -1 for as long as it takes; without it, it does not wait.
    pub(super) wait: Option<i64>,
    /// How many fences.
    pub(super) block: u64,
    pub(super) mode: Mode,
}

impl Step {
    /// The script takes them in this order.
    fn rank(self) -> u8 {
        match self {
            Self::Release { .. } => 0,
            Self::Acquire { .. } => 1,
            Self::Pass { .. }
            | Self::Leave { .. }
            | Self::Keep(_)
            | Self::Renew(..)
            | Self::Force(_) => 2,
        }
    }
}

/// The answer to a step.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(super) value: Value,
    /// The server's clock, in µs.
    pub(super) clock: i64,
    /// When the call that was answered was begun.
    pub(super) begun: Instant,
    /// A call before it may have been carried out as well.
    pub(super) repeated: bool,
}

struct Call {
    script: &'static Lua,
    keys: Arc<Keys>,
    slot: Arc<Slot>,
    step: Step,
    asked: Instant,
    answer: oneshot::Sender<Result<Answered>>,
}

/// Asks Redis. Cloned freely.
#[derive(Clone)]
pub(super) struct Calls {
    queue: mpsc::UnboundedSender<Call>,
    wire: Wire,
}

impl Calls {
    pub(super) fn new(wire: Wire, limit: Duration) -> Self {
        let (queue, calls) = mpsc::unbounded_channel();
        tokio::spawn(drive(wire.clone(), limit, calls));
        Self { queue, wire }
    }

    /// Asks for a step from now on, whatever becomes of the answer.
    pub(super) fn ask(&self, script: &'static Lua, keys: &Arc<Keys>, step: Step) -> Asked {
        let (answer, answered) = oneshot::channel();
        let call = Call {
            script,
            keys: keys.clone(),
            slot: self.wire.slot(keys),
            step,
            asked: Instant::now(),
            answer,
        };
        // Were nobody there to take it, the sender would be dropped, and that is heard.
        let _ = self.queue.send(call);
        Asked(answered)
    }
}

/// A step that was asked for. It is taken whether or not anybody waits for the answer.
pub(crate) struct Asked(oneshot::Receiver<Result<Answered>>);

impl Future for Asked {
    type Output = Result<Answered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answered = ready!(Pin::new(&mut self.0).poll(context));
        Poll::Ready(answered.unwrap_or_else(|_| Err(over())))
    }
}

fn over() -> Error {
    Error::unavailable("the runtime is shutting down")
}

/// Sends what is asked, in order, until nobody can ask any more.
async fn drive(wire: Wire, limit: Duration, mut queue: mpsc::UnboundedReceiver<Call>) {
    let mut calls = Vec::new();
    let mut under_way = FuturesUnordered::<BoxFuture<'static, ()>>::new();
    loop {
        tokio::select! {
            biased;
            Some(()) = under_way.next(), if !under_way.is_empty() => {}
            asked = queue.recv_many(&mut calls, MOST_STEPS),
                if under_way.len() < MOST_CALLS =>
            {
                if asked == 0 {
                    break;
                }
                // Whoever else has something to ask in this moment comes first.
                yield_now().await;
                while calls.len() < MOST_STEPS && let Ok(call) = queue.try_recv() {
                    calls.push(call);
                }
                for batch in batches(&mut calls) {
                    under_way.push(Box::pin(send(wire.clone(), limit, batch)));
                }
            }
        }
    }
    while under_way.next().await.is_some() {}
}

/// Those of one script and one slot can go together.
fn batches(calls: &mut Vec<Call>) -> Vec<Vec<Call>> {
    let mut batches = Vec::<Vec<Call>>::new();
    for call in calls.drain(..) {
        // Nobody waits for it, and Redis has never heard of it.
        if matches!(call.step, Step::Acquire { .. }) && call.answer.is_closed() {
            continue;
        }
        let alike = |batch: &&mut Vec<Call>| {
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

async fn send(wire: Wire, limit: Duration, batch: Vec<Call>) {
    let until = batch[0].asked + limit;
    let ran = wire
        .run::<Vec<Value>>(|by| command(&batch, by), until)
        .await;
    let (answers, begun, repeated) = match ran {
        Ok(ran) => (ran.answer, ran.begun, ran.repeated),
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
            Some(why) => {
                wire.doubt();
                Err(Error::refused(&why))
            }
            None => Ok(Answered {
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

/// See `lock/head.lua` and `lock/steps.lua`.
fn command(batch: &[Call], by: By) -> Cmd {
    let first = &batch[0];
    let of_rank = |rank| batch.iter().filter(move |call| call.step.rank() == rank);
    let mut cmd = by.command(first.script);
    cmd.arg(1 + 2 * batch.len()).arg(&*first.slot.clock);
    for Call { keys, .. } in batch {
        cmd.arg(&keys.holder).arg(&keys.queue);
    }
    cmd.arg(&*first.slot.channels)
        .arg(&*first.slot.process)
        .arg(of_rank(0).count())
        .arg(of_rank(1).count());
    for call in batch {
        call.step.write(&mut cmd);
    }
    cmd
}

impl Step {
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
            Self::Keep(token) => {
                cmd.arg("keep").arg(token.to_string());
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

fn write_claim(cmd: &mut Cmd, claim: Claim, used: Option<u64>) {
    cmd.arg(format!("{}:{}", claim.token, claim.last_fence));
    match used {
        Some(used) => cmd.arg(used),
        None => cmd.arg(""),
    };
}

impl What {
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
