//! Blocking connections to one server, for callers that bring a thread.
//!
//! A transport and nothing else: it knows no topology and no script. What a command is and what
//! its reply means is in `values.rs`; where the server is, and what to do if it is another one now,
//! is in the asynchronous connection.
//!
//! Guarantees: a call ends at its deadline, whatever the server does. A connection is used again
//! only if every byte of every reply has been read, and nothing else. Opening one takes at most half
//! of the time, so that a call can take another way if only new connections hang.
//!
//! Not guaranteed: that an idle connection is closed after a minute if no further call is made.
//! There is no thread to close it.
//!
//! The pool's mutex is std's. One of `parking_lot` parks in a table that all its mutexes share, and
//! a child of `fork` may find it locked.

mod framing;
mod link;
mod listener;
pub(in crate::store) mod polled;
mod reply;
mod reply_end;
mod socket;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionInfo, Value};

pub(super) use self::framing::{Framing, Reading};
use self::link::Link;
pub(in crate::store::redis) use self::listener::Listener;
use self::polled::PolledLink;
pub(super) use self::reply::ReplyError;
#[cfg(fuzzing)]
pub(crate) use self::reply::fuzzing::check as check_replies;
pub(in crate::store) use self::socket::Limits;
pub(crate) use self::socket::OnInterrupt;
use super::SlotContext;
use super::tls::ClientTls;

/// How long a connection is idle before it is closed.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// How long a connection is idle before it is checked. It costs a system call.
const UNCHECKED_IDLE: Duration = Duration::from_secs(1);
/// How long calls take another way after a connection was not opened in time: each attempt delays a
/// call.
const HANGING_BYPASS: Duration = Duration::from_secs(1);
/// The state of a pool that calls use.
const IN_USE: u64 = 0;

/// A server, and how to connect to it.
#[derive(Clone)]
pub(in crate::store) struct Target {
    pub(super) info: ConnectionInfo,
    pub(super) tls: Arc<ClientTls>,
}

/// The connections to one server. As many as there are calls at the same time.
pub(in crate::store) struct Pool {
    target: Target,
    /// The one that was used last is at the end, and is used first. Each was in use by a call of the
    /// last minute, which bounds their number.
    idle: Mutex<VecDeque<Idle>>,
    /// The subscribed connections on which no caller waits, in the same order.
    idle_listeners: Mutex<VecDeque<Listener>>,
    created_at: Instant,
    /// [`IN_USE`], or from when on it may be used again, in milliseconds since `created_at`.
    bypassed_until_ms: AtomicU64,
}

struct Idle {
    link: Link,
    since: Instant,
}

/// Why a call has no reply.
#[derive(Debug)]
pub(in crate::store) enum DirectError {
    /// There is no connection: nothing was sent.
    Unreachable(String),
    /// The connection broke during the call, which may have run.
    Broken { reason: String, is_disconnect: bool },
    /// The server sent no reply in time.
    TimedOut,
    /// A signal arrived, and the caller does not want to wait any longer.
    Interrupted(Arc<dyn StdError + Send + Sync>),
}

impl Pool {
    /// Opens no connection yet.
    pub(in crate::store) fn new(target: Target) -> Self {
        Self {
            target,
            idle: Mutex::default(),
            idle_listeners: Mutex::default(),
            created_at: Instant::now(),
            bypassed_until_ms: AtomicU64::new(IN_USE),
        }
    }

    /// Sends a command and waits for the reply, which may be an error of the server. If the
    /// connection turns out to be dead and the command is repeatable, sends it a second time, over a
    /// new connection.
    pub(in crate::store) fn call(
        &self,
        command: &Cmd,
        is_repeatable: bool,
        limits: &Limits,
    ) -> Result<Value, DirectError> {
        self.run(is_repeatable, false, limits, |link| {
            link.send(std::iter::once(command))?;
            link.receive()
        })
    }

    /// Sends a command and waits for the reply, as [`call`](Self::call) does, over a connection that
    /// the server has not closed yet. If the caller stops waiting for the reply, `withdrawal` follows
    /// on the same connection: the server may execute the command whenever it goes on.
    pub(in crate::store) fn call_or_withdraw(
        &self,
        command: &Cmd,
        is_repeatable: bool,
        limits: &Limits,
        withdrawal: Option<&dyn Fn() -> Cmd>,
    ) -> Result<Value, DirectError> {
        self.run(is_repeatable, !is_repeatable, limits, |link| {
            link.send(std::iter::once(command))?;
            let reply = link.receive();
            let has_stopped = matches!(
                reply,
                Err(DirectError::TimedOut | DirectError::Interrupted(_))
            );
            if has_stopped && let Some(withdrawal) = withdrawal {
                link.send_last(&withdrawal());
            }
            reply
        })
    }

    /// Sends several commands at once and waits for their replies, in order, as [`call`](Self::call)
    /// does for one.
    pub(in crate::store) fn call_all<'a>(
        &self,
        commands: impl ExactSizeIterator<Item = &'a Cmd> + Clone,
        are_repeatable: bool,
        limits: &Limits,
    ) -> Result<Vec<Value>, DirectError> {
        self.run(are_repeatable, false, limits, |link| {
            link.send(commands.clone())?;
            commands.clone().map(|_| link.receive()).collect()
        })
    }

    /// Takes a subscribed connection on which no caller waits, or opens one that the scripts know by the
    /// names in `slot`.
    pub(in crate::store::redis) fn listener(
        &self,
        slot: impl FnOnce() -> SlotContext,
        limits: &Limits,
    ) -> Result<Listener, DirectError> {
        loop {
            let idle = self.idle_listeners().pop_back();
            let Some(listener) = idle else {
                return self.open_with(limits, |limits| {
                    Listener::open(&self.target, slot().into(), limits)
                });
            };
            if listener.is_usable() {
                return Ok(listener);
            }
        }
    }

    /// Keeps a listener for the next wait.
    pub(in crate::store::redis) fn put_listener(&self, mut listener: Listener) {
        listener.rest();
        let mut idle = self.idle_listeners();
        idle.push_back(listener);
        let mut old = Vec::new();
        while idle.front().is_some_and(Listener::is_old) {
            old.extend(idle.pop_front());
        }
        // They are closed without the mutex.
        drop(idle);
        drop(old);
    }

    /// Returns whether calls should take another way to the server: the last one did not reach it.
    pub(in crate::store) fn is_bypassed(&self) -> bool {
        self.bypassed_until_ms.load(Ordering::Relaxed) != IN_USE
    }

    /// Lets calls take another way until one has succeeded there.
    pub(in crate::store) fn bypass(&self) {
        self.bypass_for(Duration::ZERO);
    }

    /// Lets calls use these connections again, unless the server has just not accepted one in time.
    pub(in crate::store) fn end_bypass(&self) {
        let now_ms = self.ms_at(Instant::now());
        let end = |until_ms| (until_ms <= now_ms).then_some(IN_USE);
        let order = Ordering::Relaxed;
        let _ = self.bypassed_until_ms.fetch_update(order, order, end);
    }

    fn bypass_for(&self, at_least: Duration) {
        let until_ms = self.ms_at(Instant::now() + at_least);
        self.bypassed_until_ms
            .fetch_max(until_ms, Ordering::Relaxed);
    }

    /// Returns the milliseconds from the creation to `at`, more than [`IN_USE`].
    fn ms_at(&self, at: Instant) -> u64 {
        let since = at.duration_since(self.created_at).as_millis();
        u64::try_from(since).map_or(u64::MAX, |ms| ms + 1)
    }

    fn run<T>(
        &self,
        is_repeatable: bool,
        is_checked: bool,
        limits: &Limits,
        exchange: impl Fn(&mut Link) -> Result<T, DirectError>,
    ) -> Result<T, DirectError> {
        let mut was_dead = false;
        loop {
            let idle = if was_dead {
                None
            } else {
                self.take(is_checked)
            };
            let mut link = match idle {
                Some(mut link) => {
                    link.set_limits(limits);
                    link
                }
                None => self.open(limits)?,
            };
            // A connection whose call fails is dropped: a reply may still be on its way.
            match exchange(&mut link) {
                Ok(reply) => {
                    if link.is_settled() {
                        self.put(link);
                    }
                    return Ok(reply);
                }
                Err(DirectError::Broken {
                    is_disconnect: true,
                    ..
                }) if is_repeatable && !was_dead => {
                    was_dead = true;
                    // The server has restarted: all others are dead too.
                    self.close_idle();
                }
                Err(error) => {
                    if matches!(error, DirectError::TimedOut) {
                        // The network may have forgotten the others too.
                        self.close_idle();
                    }
                    return Err(error);
                }
            }
        }
    }

    fn open(&self, limits: &Limits) -> Result<Link, DirectError> {
        let mut link = self.open_with(limits, |limits| Link::open(&self.target, limits))?;
        link.set_limits(limits);
        Ok(link)
    }

    /// Opens a connection in a part of the time, so that some is left for another way.
    fn open_with<T>(
        &self,
        limits: &Limits,
        open: impl FnOnce(&Limits) -> Result<T, DirectError>,
    ) -> Result<T, DirectError> {
        let opening = limits.half().map_err(|_| DirectError::TimedOut)?;
        match open(&opening) {
            Err(DirectError::TimedOut) => {
                self.bypass_for(HANGING_BYPASS);
                Err(DirectError::Unreachable("no connection in time".to_owned()))
            }
            opened => opened,
        }
    }

    /// Opens a connection for a caller that waits until its descriptor is ready. `None`: the server
    /// has none, because it needs TLS.
    pub(in crate::store) fn open_polled(
        &self,
        limits: &Limits,
    ) -> Result<Option<PolledLink>, DirectError> {
        if matches!(
            self.target.info.addr(),
            redis::ConnectionAddr::TcpTls { .. }
        ) {
            return Ok(None);
        }
        let link = Link::open(&self.target, limits)?;
        link.into_socket().map(PolledLink::new).transpose()
    }

    /// Takes the idle connection that was used last. `is_checked`: even if that was just now, it is
    /// looked at before use.
    fn take(&self, is_checked: bool) -> Option<Link> {
        loop {
            let Idle { link, since } = self.idle().pop_back()?;
            let idle_for = since.elapsed();
            if idle_for < UNCHECKED_IDLE && !is_checked {
                return Some(link);
            }
            if idle_for < MAX_IDLE && link.is_quiet() {
                return Some(link);
            }
        }
    }

    fn put(&self, link: Link) {
        let since = Instant::now();
        let is_old = |idle: &Idle| since.duration_since(idle.since) > MAX_IDLE;
        let mut idle = self.idle();
        idle.push_back(Idle { link, since });
        let mut old = Vec::new();
        while idle.front().is_some_and(is_old) {
            old.extend(idle.pop_front());
        }
        // They are closed without the mutex.
        drop(idle);
        drop(old);
    }

    /// Closes the connections that are not in use.
    pub(in crate::store) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle());
        drop(idle);
        let listeners = std::mem::take(&mut *self.idle_listeners());
        drop(listeners);
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle_listeners(&self) -> MutexGuard<'_, VecDeque<Listener>> {
        self.idle_listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
