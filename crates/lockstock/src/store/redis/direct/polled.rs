//! Commands on values over a connection that an event loop polls.
//!
//! Guarantees: replies are delivered in the order of their commands, each to the command that it
//! belongs to, whether that is still wanted or not. A command is sent at most once here. What the
//! connection cannot carry out, and was not carried out or may be repeated, is [`Left`](Settled::Left)
//! to the link. The time limit of a command includes its execution over the link.
//!
//! After a command had no reply in time, the connection takes no further one, and is closed as soon as
//! no other command waits.

use std::collections::VecDeque;
use std::fmt;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use lockstock_fork::generation;
use redis::Value;
use tracing::debug;

use super::super::Redis;
use super::super::connection::direct::polled::PolledLink;
use super::super::connection::direct::{DirectError, Limits, Pool};
use super::{DirectRedis, must_be_repeated, parse};
use crate::command::{Command, Reply};
use crate::error::{Error, Result};
use crate::runtime;
use crate::store::near::Written;
use crate::store::values::ValueCommand;

/// How long a connection is idle before it is closed.
const MAX_IDLE: Duration = Duration::from_secs(60);
/// How much may wait to be sent. A command that comes then goes over the link.
const MAX_UNSENT_BYTES: usize = 1024 * 1024;

/// A connection to the only server of a store, or to its master, that never waits: for event loops of
/// other languages, from [`connect_polled`](crate::blocking::Store::connect_polled).
///
/// A call of its owner is a tag of the type `T`, which comes back with the reply. All methods return at
/// once; in a child of `fork` they do nothing.
pub struct PolledConnection<T> {
    redis: Arc<DirectRedis>,
    link: Arc<Redis>,
    /// Of the server that it leads to.
    pool: Arc<Pool>,
    /// Stays open until its owner has stopped waiting for the descriptor.
    wire: PolledLink,
    is_closed: bool,
    /// Whether it takes no further command.
    is_retired: bool,
    /// Commands without a reply, in the order in which they were sent.
    waiting: VecDeque<Waiting<T>>,
    settled: VecDeque<(T, Settled)>,
    used_at: Instant,
    /// Of processes, in which it was opened.
    generation: u64,
}

struct Waiting<T> {
    command: Command,
    /// `None` after the time limit: its reply may still come.
    tag: Option<T>,
    /// Where it begins in what is sent.
    position: u64,
    deadline: Instant,
}

/// What came of a command.
pub enum Settled {
    /// Its reply, or why there is none.
    Reply(Result<Reply>),
    /// It has to be executed in another way.
    Left(LeftCommand),
}

/// A command that a [`PolledConnection`] could not carry out.
pub struct LeftCommand {
    link: Arc<Redis>,
    command: Command,
    deadline: Instant,
}

impl LeftCommand {
    /// Executes the command over the connection of the runtime, in the time that is left.
    ///
    /// # Errors
    ///
    /// As [`Store::execute`](crate::Store::execute).
    pub async fn execute(self) -> Result<Reply> {
        let _overwriting = self.link.overwrite(self.command.writes());
        self.link
            .value_until(&self.command, self.deadline.into())
            .await
    }
}

impl DirectRedis {
    /// Opens a connection that is polled. Blocks. `None`: there is none to this kind of store.
    pub(in crate::store) fn connect_polled<T>(
        self: &Arc<Self>,
    ) -> Result<Option<PolledConnection<T>>> {
        let Some(pool) = self.only_pool()? else {
            return Ok(None);
        };
        let limits = Limits {
            on_interrupt: None,
            ..self.limits()
        };
        let wire = match pool.open_polled(&limits) {
            Ok(Some(wire)) => wire,
            Ok(None) => return Ok(None),
            Err(DirectError::TimedOut) => {
                return Err(Error::timed_out(self.settings.options.timeout));
            }
            Err(DirectError::Unreachable(reason) | DirectError::Broken { reason, .. }) => {
                return Err(Error::store_failed(reason));
            }
            Err(DirectError::Interrupted(reason)) => return Err(Error::interrupted(reason)),
        };
        Ok(Some(PolledConnection {
            link: self.link()?.clone(),
            redis: self.clone(),
            pool,
            wire,
            is_closed: false,
            is_retired: false,
            waiting: VecDeque::new(),
            settled: VecDeque::new(),
            used_at: Instant::now(),
            generation: generation(),
        }))
    }

    /// Returns the connections to the server of all keys, if there is one that is known.
    fn only_pool(&self) -> Result<Option<Arc<Pool>>> {
        match self.slot_of() {
            Some(_) => Ok(None),
            None => self.pool(&redis::cmd("PING")),
        }
    }
}

impl<T> PolledConnection<T> {
    /// Returns whether commands can be pushed. Otherwise they have to take another way.
    pub fn accepts(&mut self, commands: &[Command]) -> bool {
        if self.is_retired || !self.is_usable() || self.wire.unsent() > MAX_UNSENT_BYTES {
            return false;
        }
        let writes = |command: &Command| !matches!(command.writes(), Written::Nothing);
        if commands.iter().any(writes) && self.link.near.is_in_use() {
            // Copies are dropped before a write is sent, and when it has ended in whatever way.
            return false;
        }
        let is_idle_for_long = self.waiting.is_empty() && self.used_at.elapsed() >= MAX_IDLE;
        if is_idle_for_long || !self.leads_to_master() {
            self.is_retired = true;
            self.close_if_done();
            return false;
        }
        true
    }

    /// Appends a command, which the connection [accepts](Self::accepts), to what
    /// [`flush`](Self::flush) sends. Returns the end of its time limit.
    pub fn push(&mut self, command: Command, tag: T) -> Instant {
        self.used_at = Instant::now();
        let deadline = self.used_at + self.redis.settings.options.timeout;
        self.waiting.push_back(Waiting {
            position: self.wire.push(&command.cmd),
            command,
            tag: Some(tag),
            deadline,
        });
        deadline
    }

    /// Returns whether no command is without a reply.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Sends what was pushed. Returns whether all of it is sent: otherwise call again when the
    /// descriptor is writable.
    pub fn flush(&mut self) -> bool {
        if !self.is_usable() {
            return true;
        }
        match self.wire.flush() {
            Ok(()) => self.wire.unsent() == 0,
            Err(error) => {
                self.fail(error);
                true
            }
        }
    }

    /// Reads replies, after the descriptor has become readable.
    pub fn receive(&mut self) {
        if !self.is_usable() {
            return;
        }
        let received = self.wire.receive();
        if let Err(error) = self.settle_replies().and(received) {
            self.fail(error);
        }
        self.close_if_done();
    }

    /// Returns the next command that has ended.
    pub fn settled(&mut self) -> Option<(T, Settled)> {
        self.settled.pop_front()
    }

    /// Fails the commands whose time limit has passed. Returns when to call it again, `None` if the
    /// connection is closed.
    pub fn expire(&mut self) -> Option<Instant> {
        if !self.is_usable() {
            return None;
        }
        // Replies may have arrived while the loop did something else.
        self.receive();
        let (now, timeout) = (Instant::now(), self.redis.settings.options.timeout);
        let mut suspect = None;
        for waiting in &mut self.waiting {
            if waiting.deadline > now {
                break;
            }
            if let Some(tag) = waiting.tag.take() {
                let error = Error::timed_out(timeout);
                self.settled.push_back((tag, Settled::Reply(Err(error))));
                suspect.get_or_insert((&waiting.command, waiting.deadline - timeout));
            }
        }
        if let Some((command, sent_at)) = suspect {
            self.is_retired = true;
            self.pool.bypass();
            match runtime::enter() {
                Ok(_entered) => self.link.connection.suspect(&command.cmd, sent_at),
                Err(error) => debug!(%error, "no runtime"),
            }
        }
        let next = self.waiting.iter().find(|waiting| waiting.tag.is_some());
        let idle_for = now.duration_since(self.used_at);
        let next = match next {
            Some(waiting) => waiting.deadline,
            None if idle_for < timeout => now + timeout,
            None => self.used_at + MAX_IDLE,
        };
        if next <= now {
            self.is_retired = true;
        }
        self.close_if_done();
        (!self.is_closed).then_some(next)
    }

    /// Returns whether it is closed: its descriptor must not be waited for any longer. The
    /// descriptor itself is closed when the connection is dropped.
    pub fn is_closed(&self) -> bool {
        self.is_closed
    }

    /// Returns the descriptor to wait for.
    #[cfg(unix)]
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.wire.as_fd()
    }

    /// Returns the tags of all calls that are under way.
    pub fn tags(&self) -> impl Iterator<Item = &T> {
        let waiting = self
            .waiting
            .iter()
            .filter_map(|waiting| waiting.tag.as_ref());
        waiting.chain(self.settled.iter().map(|(tag, _)| tag))
    }

    /// Returns whether it is open, and of this process.
    fn is_usable(&self) -> bool {
        !self.is_closed && self.generation == generation()
    }

    /// Returns whether the server is that of the store. Sentinels may have another one by now.
    fn leads_to_master(&self) -> bool {
        self.redis.single.is_some()
            || matches!(self.redis.only_pool(), Ok(Some(pool)) if Arc::ptr_eq(&pool, &self.pool))
    }

    fn settle_replies(&mut self) -> Result<(), DirectError> {
        while !self.waiting.is_empty() {
            let Some(reply) = self.wire.reply()? else {
                return Ok(());
            };
            if let Some(waiting) = self.waiting.pop_front() {
                self.settle(waiting, reply);
            }
        }
        match self.wire.has_input() {
            false => Ok(()),
            true => Err(DirectError::Broken {
                reason: "the server has sent more than replies".to_owned(),
                is_disconnect: false,
            }),
        }
    }

    fn settle(&mut self, waiting: Waiting<T>, reply: Value) {
        if must_be_repeated(&self.pool, &reply) {
            // The server is another one now, or will be.
            self.is_retired = true;
            self.leave(waiting);
            return;
        }
        self.link.near.invalidate(waiting.command.writes());
        if let Some(tag) = waiting.tag {
            let reply = parse::<Command>(reply.extract_error());
            self.settled.push_back((tag, Settled::Reply(reply)));
        }
    }

    fn leave(&mut self, waiting: Waiting<T>) {
        self.link.near.invalidate(waiting.command.writes());
        if let Some(tag) = waiting.tag {
            let left = LeftCommand {
                link: self.link.clone(),
                command: waiting.command,
                deadline: waiting.deadline,
            };
            self.settled.push_back((tag, Settled::Left(left)));
        }
    }

    /// Closes the connection, which is broken.
    fn fail(&mut self, error: DirectError) {
        self.is_closed = true;
        self.is_retired = true;
        let (reason, is_disconnect) = match error {
            DirectError::Broken {
                reason,
                is_disconnect,
            } => (reason, is_disconnect),
            DirectError::Unreachable(reason) => (reason, true),
            DirectError::TimedOut => ("the connection timed out".to_owned(), true),
            DirectError::Interrupted(reason) => (reason.to_string(), false),
        };
        debug!(reason, "the connection of an event loop is closed");
        for waiting in std::mem::take(&mut self.waiting) {
            let may_be_sent = !self.wire.has_begun(waiting.position)
                || is_disconnect && waiting.command.is_repeatable;
            if may_be_sent {
                self.leave(waiting);
                continue;
            }
            self.link.near.invalidate(waiting.command.writes());
            if let Some(tag) = waiting.tag {
                let error = Error::store_failed(&reason);
                self.settled.push_back((tag, Settled::Reply(Err(error))));
            }
        }
    }

    /// Closes the connection if it takes no further command and no call waits for one.
    fn close_if_done(&mut self) {
        if self.is_retired && self.waiting.iter().all(|waiting| waiting.tag.is_none()) {
            for waiting in std::mem::take(&mut self.waiting) {
                self.link.near.invalidate(waiting.command.writes());
            }
            self.is_closed = true;
        }
    }
}

impl<T> fmt::Debug for PolledConnection<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without commands and replies, which may be secret.
        f.debug_struct("PolledConnection")
            .field("is_closed", &self.is_closed)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reply(Ok(_)) => "Reply(Ok(..))",
            Self::Reply(Err(_)) => "Reply(Err(..))",
            Self::Left(_) => "Left(..)",
        })
    }
}

impl fmt::Debug for LeftCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeftCommand")
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
