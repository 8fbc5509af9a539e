//! Waits for locks on connections of their callers: one wake-up for each hand-over, that of the caller by
//! its own socket.
//!
//! A connection has a channel of its own, so a message wakes the one thread that it is for, and the
//! server knows a waiter whose connection is closed. Its name is that of the client with a number.
//!
//! Not on such a connection: the second waiter of a lock in this process, which waits in its local queue,
//! where a hand-over costs no call; what waits when [`MAX_WAITS`] others do; a store with several servers,
//! whose changes the link follows. If a connection breaks, its request goes on over the link, at its
//! time of arrival.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use lockstock_fork::generation;
use redis::{Cmd, Value};
use tokio::time::Instant;
use tracing::{debug, debug_span};

use super::super::attempt::{Attempt, Grant};
use super::super::connection::direct::{DirectError, Listener, Pool};
use super::super::connection::{Eval, SlotContext};
use super::super::notifications::{Notification, parse};
use super::super::operation::{AcquireArgs, Operation};
use super::super::script;
use super::super::script_call::{Reply, replies, script_call};
use super::super::wait::{Event, Transport, wait};
use super::locks::is_unknown_script;
use super::{DirectRedis, must_be_repeated};
use crate::error::{Error, Result};
use crate::inspect::GrantKind;
use crate::key::{Keys, LockKind};
use crate::store::request::{Outcome, Request};

/// Maximum number of waits at the same time, each of which has a connection.
const MAX_WAITS: usize = 64;

/// The waits of this process on connections of their callers.
#[derive(Default)]
pub(super) struct Waits {
    keys: Mutex<Vec<Arc<Keys>>>,
    last_listener: AtomicU32,
}

/// One wait, until it is dropped.
struct Place<'a> {
    waits: &'a Waits,
    keys: Arc<Keys>,
}

impl Waits {
    fn enter(&self, keys: &Arc<Keys>) -> Option<Place<'_>> {
        let mut waits = self.keys();
        // Permits and readers have no local queue.
        let is_alone = keys.kind != LockKind::Lock || !waits.contains(keys);
        (is_alone && waits.len() < MAX_WAITS).then(|| {
            waits.push(keys.clone());
            Place {
                waits: self,
                keys: keys.clone(),
            }
        })
    }

    fn keys(&self) -> MutexGuard<'_, Vec<Arc<Keys>>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut waits = self.waits.keys();
        if let Some(position) = waits.iter().position(|keys| *keys == self.keys) {
            waits.swap_remove(position);
        }
    }
}

impl DirectRedis {
    /// Waits for a lock on this thread until the wait deadline of the request. Continues with the request
    /// that the link has to carry out.
    pub(super) fn wait(&self, request: Request) -> Result<ControlFlow<Outcome<Grant>, Request>> {
        let _span = debug_span!("lock.wait", lock = %request.keys).entered();
        let Some(pool) = self.single.as_ref().filter(|pool| !pool.is_bypassed()) else {
            return Ok(ControlFlow::Continue(request));
        };
        let Some(_place) = self.waits.enter(&request.keys) else {
            return Ok(ControlFlow::Continue(request));
        };
        let before = generation();
        let slot = || {
            let number = self.waits.last_listener.fetch_add(1, Ordering::Relaxed);
            SlotContext::of_listener(self.client_id, number)
        };
        let listener = match pool.listener(slot, &self.limits()) {
            Ok(listener) => listener,
            Err(DirectError::Interrupted(reason)) => return Err(Error::interrupted(reason)),
            Err(error) => {
                debug!(?error, "no connection to wait on");
                return Ok(ControlFlow::Continue(request));
            }
        };
        let attempt = Arc::new(Attempt::on(request, listener.slot().clone()));
        attempt.ask_for_fences(1);
        let mut transport = OverListener {
            direct: self,
            pool,
            attempt: &attempt,
            listener,
            failure: None,
        };
        // Its transport blocks, so it is complete when it is first polled.
        let waited = wait(&attempt, &mut transport, GrantKind::Free).now_or_never();
        let OverListener {
            listener, failure, ..
        } = transport;
        let request = &attempt.request;
        match (waited, failure) {
            (Some(Ok(outcome)), _) => {
                pool.put_listener(listener);
                self.busy.note(&request.keys);
                Ok(ControlFlow::Break(outcome))
            }
            (_, Some(Failure::Broken)) => {
                pool.close_idle();
                self.withdraw(&attempt);
                Ok(ControlFlow::Continue(request.clone().renewed()))
            }
            (error, failure) => {
                // In a child of `fork` the request is that of the parent.
                if generation() == before {
                    if matches!(failure, Some(Failure::Silent)) {
                        let withdrawal = withdrawal(&attempt, listener.slot());
                        listener.close_with(&withdrawal);
                    }
                    self.withdraw(&attempt);
                }
                match error {
                    Some(Err(error)) => Err(error),
                    _ => Err(Error::unavailable("a wait has stopped")),
                }
            }
        }
    }
}

/// A connection between a waiter and Redis.
struct OverListener<'a> {
    direct: &'a DirectRedis,
    pool: &'a Pool,
    attempt: &'a Arc<Attempt>,
    listener: Listener,
    failure: Option<Failure>,
}

/// Why a wait cannot go on here, if the error is not the server's reply.
enum Failure {
    /// The connection broke, or the server cannot serve a client now: the link has to go on.
    Broken,
    /// The server has not replied yet, and may execute what was sent whenever it goes on.
    Silent,
}

impl OverListener<'_> {
    fn submit(&mut self, operation: Operation) -> Result<Reply> {
        let keys = &self.attempt.request.keys;
        let slot = self.listener.slot().clone();
        let limits = self.direct.limits();
        let sent_at = Instant::now();
        let mut cmd = command(keys, &slot, operation, Eval::Sha);
        let mut call = self.listener.call(&cmd, &limits);
        if call.as_ref().is_ok_and(is_unknown_script) {
            cmd = command(keys, &slot, operation, Eval::Source);
            call = self.listener.call(&cmd, &limits);
        }
        match call {
            Ok(Value::Array(values)) => match replies(values, sent_at, false).next() {
                Some(reply) => reply,
                None => Err(self.broken("a reply is empty")),
            },
            Ok(reply) => {
                must_be_repeated(self.pool, &reply);
                Err(self.broken("the server does not serve clients now"))
            }
            Err(DirectError::TimedOut) => {
                self.failure = Some(Failure::Silent);
                Err(self.direct.timed_out(self.pool, &cmd, sent_at.into_std()))
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn failed(&mut self, error: DirectError) -> Error {
        match error {
            DirectError::Interrupted(reason) => {
                self.failure = Some(Failure::Silent);
                Error::interrupted(reason)
            }
            DirectError::Broken { reason, .. } | DirectError::Unreachable(reason) => {
                self.broken(&reason)
            }
            DirectError::TimedOut => self.broken("the rest of a message has not arrived"),
        }
    }

    fn broken(&mut self, reason: &str) -> Error {
        debug!(reason, "a connection on which a caller waits broke");
        self.failure = Some(Failure::Broken);
        Error::unavailable(reason)
    }
}

impl Transport for OverListener<'_> {
    async fn ask(&mut self, acquire: Operation) -> Result<Reply> {
        self.submit(acquire)
    }

    async fn leave(&mut self, leave: Operation) -> Result<Reply> {
        self.submit(leave)
    }

    async fn next(&mut self, within: Duration) -> Result<Event> {
        let until = (Instant::now() + within).into_std();
        loop {
            let message = self.listener.next(until, || self.direct.limits());
            let Some(message) = message.map_err(|error| self.failed(error))? else {
                return Ok(Event::Elapsed);
            };
            if let Some(notification) = self.notification(&message) {
                return Ok(Event::Notified(notification));
            }
        }
    }

    fn kept(&self, _: Instant) {
        // No other caller waits behind this one.
    }

    fn left(&self) {
        // The name of this connection does not survive a failover: it is not granted a lock then.
    }
}

impl OverListener<'_> {
    /// Returns what a message notifies this waiter of. Others are for earlier waiters, and outdated.
    fn notification(&self, message: &[u8]) -> Option<Notification> {
        let (token, notification) = parse(std::str::from_utf8(message).ok()?)?;
        (token == self.attempt.request.token).then_some(notification)
    }
}

fn command(keys: &Keys, slot: &SlotContext, operation: Operation, eval: Eval) -> Cmd {
    let operations = std::iter::once((keys, operation));
    script_call(script(keys.kind, operation), slot, operations, eval)
}

/// Returns the withdrawal that follows a command without a reply. With the text of its script: its own
/// reply is not read.
fn withdrawal(attempt: &Attempt, slot: &SlotContext) -> Cmd {
    let leave = Operation::Leave {
        args: AcquireArgs::waiting(attempt),
        give_back: true,
    };
    command(&attempt.request.keys, slot, leave, Eval::Source)
}
