//! A blocking connection that is subscribed to a channel of its own, and the messages on it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use redis::{Cmd, Value};

use super::link::{Link, was_opening};
use super::reply::Received;
use super::socket::Limits;
use super::{DirectError, MAX_IDLE, Target, UNCHECKED_IDLE};
use crate::error::explain;
use crate::store::redis::connection::SlotContext;

/// A connection whose caller is notified on it.
pub(in crate::store::redis) struct Listener {
    link: Link,
    /// Under which name the scripts notify it.
    slot: Arc<SlotContext>,
    /// Messages that arrived before a reply.
    unread: VecDeque<Vec<u8>>,
    idle_since: Instant,
}

impl Listener {
    /// Connects and subscribes to the channel of the client in `slot`.
    pub(super) fn open(
        target: &Target,
        slot: Arc<SlotContext>,
        limits: &Limits,
    ) -> Result<Self, DirectError> {
        let mut link = Link::open(target, limits)?;
        let channel = format!("{}{}", slot.channels, slot.client_id);
        let subscribe = redis::cmd("SUBSCRIBE").arg(channel).take();
        link.send(std::iter::once(&subscribe))
            .map_err(was_opening)?;
        // The confirmation is a push message.
        if let Received::Reply(reply) = link.receive_any().map_err(was_opening)? {
            let reason = match reply.extract_error() {
                Err(error) => explain(&error),
                Ok(_) => "the server has not confirmed a subscription".to_owned(),
            };
            return Err(DirectError::Unreachable(reason));
        }
        Ok(Self {
            link,
            slot,
            unread: VecDeque::new(),
            idle_since: Instant::now(),
        })
    }

    /// Returns the names under which the scripts know it.
    pub(in crate::store::redis) fn slot(&self) -> &Arc<SlotContext> {
        &self.slot
    }

    /// Sends a command and waits for the reply, which may be an error of the server.
    pub(in crate::store::redis) fn call(
        &mut self,
        command: &Cmd,
        limits: &Limits,
    ) -> Result<Value, DirectError> {
        self.link.set_limits(limits);
        self.link.send(std::iter::once(command))?;
        loop {
            match self.link.receive_any()? {
                Received::Reply(reply) => return Ok(reply),
                Received::Push(push) => self.unread.extend(message(push)),
            }
        }
    }

    /// Waits for a message. Returns `None` once `until` has passed. `limits` are those for the rest
    /// of a message that has begun.
    pub(in crate::store::redis) fn next(
        &mut self,
        until: Instant,
        limits: impl Fn() -> Limits,
    ) -> Result<Option<Vec<u8>>, DirectError> {
        loop {
            if let Some(message) = self.unread.pop_front() {
                return Ok(Some(message));
            }
            if !self.link.wait_readable(until)? {
                return Ok(None);
            }
            self.link.set_limits(&limits());
            match self.link.receive_any()? {
                Received::Push(push) => self.unread.extend(message(push)),
                Received::Reply(_) => {
                    return Err(DirectError::Broken {
                        reason: "there is a reply without a command".to_owned(),
                        is_disconnect: false,
                    });
                }
            }
        }
    }

    /// Sends a command to whose reply no caller waits, if that is possible at once, and closes the
    /// connection.
    pub(in crate::store::redis) fn close_with(mut self, command: &Cmd) {
        self.link.send_last(command);
    }

    /// Notes that it is not used for now. Messages for the last waiter are outdated.
    pub(super) fn rest(&mut self) {
        self.unread.clear();
        self.idle_since = Instant::now();
    }

    /// Returns whether it can be used again.
    pub(super) fn is_usable(&self) -> bool {
        let idle_for = self.idle_since.elapsed();
        idle_for < UNCHECKED_IDLE || idle_for < MAX_IDLE && self.link.is_quiet()
    }

    pub(super) fn is_old(&self) -> bool {
        self.idle_since.elapsed() > MAX_IDLE
    }
}

/// Returns the text of a message on the channel.
fn message(push: Vec<Value>) -> Option<Vec<u8>> {
    match <[Value; 3]>::try_from(push) {
        Ok([_, _, Value::BulkString(text)]) => Some(text),
        _ => None,
    }
}
