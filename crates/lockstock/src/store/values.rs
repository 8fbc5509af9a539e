//! Commands on values, for [`Cache`](crate::Cache): what each one needs and what it returns. How a
//! backend carries a command out is written once for each backend, in `memory/values.rs` and in
//! `redis/values.rs`.

pub(crate) mod batches;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use self::batches::{KeyBatch, SlotOf};
use super::memory::Apply;
use super::redis::WireCommand;
use super::{Backend, Store};
use crate::cache::Ttl;
use crate::command::{Command, Reply};
use crate::error::Result;

/// A command on the values of one slot.
pub(crate) trait ValueCommand {
    type Reply;

    /// Returns whether a second execution has the same effect and the same reply as the first, so
    /// that a command whose reply was lost can be sent again.
    fn is_repeatable(&self) -> bool {
        true
    }
}

/// Returns the value under a key.
pub(crate) struct Get {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for Get {
    type Reply = Option<Bytes>;
}

/// Returns the values under several keys of one slot, in order.
pub(crate) struct GetMany {
    pub(crate) keys: Vec<Vec<u8>>,
}

impl ValueCommand for GetMany {
    type Reply = Vec<Option<Bytes>>;
}

/// Writes a value. Returns whether the condition was met.
pub(crate) struct Set {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
    pub(crate) ttl: Ttl,
    pub(crate) condition: SetCondition,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetCondition {
    Always,
    IfMissing,
    IfPresent,
}

impl ValueCommand for Set {
    type Reply = bool;

    fn is_repeatable(&self) -> bool {
        // Repeated, it would find its own value.
        self.condition != SetCondition::IfMissing
    }
}

/// Removes the values under several keys of one slot. Returns their number, which is too low if
/// the command was repeated.
pub(crate) struct Delete {
    pub(crate) keys: Vec<Vec<u8>>,
}

impl ValueCommand for Delete {
    type Reply = u64;
}

/// Returns whether there is a value under a key.
pub(crate) struct Exists {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for Exists {
    type Reply = bool;
}

/// Sets the time to live of a value. Returns whether there is one.
pub(crate) struct Touch {
    pub(crate) key: Vec<u8>,
    pub(crate) ttl: Duration,
}

impl ValueCommand for Touch {
    type Reply = bool;
}

/// Removes the time to live of a value. Returns whether it had one, `false` also if the command was
/// repeated.
pub(crate) struct Persist {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for Persist {
    type Reply = bool;
}

/// Returns the remaining time to live of a value, `None` if there is no value.
pub(crate) struct TtlOf {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for TtlOf {
    type Reply = Option<Ttl>;
}

/// Adds to an integer and returns the sum.
pub(crate) struct Increment {
    pub(crate) key: Vec<u8>,
    pub(crate) by: i64,
    /// The time to live of a new value, `None` if a missing value stays missing. The reply is `None`
    /// then.
    pub(crate) if_missing: Option<Ttl>,
}

impl ValueCommand for Increment {
    type Reply = Option<i64>;

    fn is_repeatable(&self) -> bool {
        false
    }
}

impl ValueCommand for Command {
    type Reply = Reply;

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }
}

impl Store {
    /// Executes a command on values.
    pub(crate) async fn value<V: Apply + WireCommand>(&self, command: &V) -> Result<V::Reply> {
        match &self.inner.backend {
            Backend::Memory(memory) => command.apply(&mut memory.values(), Instant::now()),
            Backend::Redis(redis) => redis.value(command).await,
        }
    }

    /// Executes repeatable commands on values of any slots, without a round trip for each. Fails
    /// if one of them fails, after all others were tried.
    pub(crate) async fn values<V: Apply + WireCommand>(
        &self,
        commands: &[V],
    ) -> Result<Vec<V::Reply>> {
        match &self.inner.backend {
            Backend::Memory(memory) => {
                let apply = |command: &V| command.apply(&mut memory.values(), Instant::now());
                commands.iter().map(apply).collect()
            }
            Backend::Redis(redis) => redis.values(commands).await,
        }
    }

    /// Returns the values under keys of any slots, in order.
    pub(crate) async fn get_values(&self, keys: Vec<Vec<u8>>) -> Result<Vec<Option<Bytes>>> {
        let (positions, gets): (Vec<_>, Vec<_>) = batches::split(keys, self.slot_of())
            .into_iter()
            .map(
                |KeyBatch {
                     keys, positions, ..
                 }| (positions, GetMany { keys }),
            )
            .unzip();
        Ok(batches::merge(&positions, self.values(&gets).await?))
    }

    /// Removes the values under keys of any slots. Returns their number.
    pub(crate) async fn delete_values(&self, keys: Vec<Vec<u8>>) -> Result<u64> {
        let deletes = batches::split(keys, self.slot_of())
            .into_iter()
            .map(|KeyBatch { keys, .. }| Delete { keys })
            .collect::<Vec<_>>();
        Ok(self.values(&deletes).await?.into_iter().sum())
    }

    /// Returns how keys are assigned to slots, `None` if the store has no slots.
    pub(crate) fn slot_of(&self) -> Option<SlotOf> {
        match &self.inner.backend {
            Backend::Memory(_) => None,
            Backend::Redis(redis) => redis.slot_of(),
        }
    }
}
