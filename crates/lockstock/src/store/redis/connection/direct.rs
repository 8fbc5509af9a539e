//! Blocking connections to one server, for callers that bring a thread.
//!
//! A transport and nothing else: it knows no topology and no script. What a command is and what
//! its reply means is in `values.rs`; where the server is, and what to do if it is another one now,
//! is in the asynchronous connection.
//!
//! Guarantees: a call ends at its deadline, whatever the server does. A connection is used again
//! only if every byte of every reply has been read, and nothing else.
//!
//! Not guaranteed: that an idle connection is closed after a minute if no further call is made.
//! There is no thread to close it.
//!
//! The pool's mutex is std's. One of `parking_lot` parks in a table that all its mutexes share, and
//! a child of `fork` may find it locked.

mod link;
mod reply;
mod socket;

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redis::{Cmd, ConnectionInfo, Value};

use self::link::Link;
pub(in crate::store) use self::socket::Limits;
pub(crate) use self::socket::OnInterrupt;
use super::tls::ClientTls;

/// How long a connection is idle before it is closed.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// How long a connection is idle before it is checked. It costs three system calls.
const UNCHECKED_IDLE: Duration = Duration::from_secs(1);

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
    /// Whether the last call failed to reach the server.
    is_bypassed: AtomicBool,
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
            is_bypassed: AtomicBool::new(false),
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
        self.run(is_repeatable, limits, |link| {
            link.send(std::iter::once(command))?;
            link.receive()
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
        self.run(are_repeatable, limits, |link| {
            link.send(commands.clone())?;
            commands.clone().map(|_| link.receive()).collect()
        })
    }

    /// Returns whether calls should take another way to the server: the last one did not reach it.
    pub(in crate::store) fn is_bypassed(&self) -> bool {
        self.is_bypassed.load(Ordering::Relaxed)
    }

    pub(in crate::store) fn set_bypassed(&self, is_bypassed: bool) {
        self.is_bypassed.store(is_bypassed, Ordering::Relaxed);
    }

    fn run<T>(
        &self,
        is_repeatable: bool,
        limits: &Limits,
        exchange: impl Fn(&mut Link) -> Result<T, DirectError>,
    ) -> Result<T, DirectError> {
        let mut was_dead = false;
        loop {
            let idle = if was_dead { None } else { self.take() };
            let mut link = match idle {
                Some(mut link) => {
                    link.set_limits(limits);
                    link
                }
                None => Link::open(&self.target, limits)?,
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
                Err(error) => return Err(error),
            }
        }
    }

    /// Takes the idle connection that was used last.
    fn take(&self) -> Option<Link> {
        loop {
            let Idle { mut link, since } = self.idle().pop_back()?;
            let idle_for = since.elapsed();
            if idle_for < UNCHECKED_IDLE {
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
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
