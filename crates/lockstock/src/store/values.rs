//! Commands on values, for [`Cache`](crate::Cache): what each one needs and what it returns. How a
//! backend carries a command out is written once for each backend, in `memory/values.rs` and in
//! `redis/values.rs`.

pub(crate) mod batches;

use std::time::Duration;

use bytes::Bytes;

use super::near::Written;
use crate::cache::Ttl;
use crate::command::{Command, Reply};

/// A command on the values of one slot.
pub(crate) trait ValueCommand {
    type Reply;

    /// Returns the keys whose values may be different afterwards: near caches forget them.
    fn writes(&self) -> Written<'_>;

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

    fn writes(&self) -> Written<'_> {
        Written::Nothing
    }
}

/// Returns the values under several keys of one slot, in order.
pub(crate) struct GetMany {
    pub(crate) keys: Vec<Vec<u8>>,
}

impl ValueCommand for GetMany {
    type Reply = Vec<Option<Bytes>>;

    fn writes(&self) -> Written<'_> {
        Written::Nothing
    }
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

    fn writes(&self) -> Written<'_> {
        Written::Key(&self.key)
    }

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

    fn writes(&self) -> Written<'_> {
        Written::Keys(&self.keys)
    }
}

/// Removes the value under a key if it is still this one. Returns whether it was.
pub(crate) struct DeleteIfEqual {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Bytes,
}

impl ValueCommand for DeleteIfEqual {
    type Reply = bool;

    fn writes(&self) -> Written<'_> {
        Written::Key(&self.key)
    }
}

/// Returns whether there is a value under a key.
pub(crate) struct Exists {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for Exists {
    type Reply = bool;

    fn writes(&self) -> Written<'_> {
        Written::Nothing
    }
}

/// Sets the time to live of a value. Returns whether there is one.
pub(crate) struct Touch {
    pub(crate) key: Vec<u8>,
    pub(crate) ttl: Duration,
}

impl ValueCommand for Touch {
    type Reply = bool;

    fn writes(&self) -> Written<'_> {
        Written::Key(&self.key)
    }
}

/// Removes the time to live of a value. Returns whether it had one, `false` also if the command was
/// repeated.
pub(crate) struct Persist {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for Persist {
    type Reply = bool;

    fn writes(&self) -> Written<'_> {
        Written::Key(&self.key)
    }
}

/// Returns the remaining time to live of a value, `None` if there is no value.
pub(crate) struct TtlOf {
    pub(crate) key: Vec<u8>,
}

impl ValueCommand for TtlOf {
    type Reply = Option<Ttl>;

    fn writes(&self) -> Written<'_> {
        Written::Nothing
    }
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

    fn writes(&self) -> Written<'_> {
        Written::Key(&self.key)
    }

    fn is_repeatable(&self) -> bool {
        false
    }
}

impl ValueCommand for Command {
    type Reply = Reply;

    fn writes(&self) -> Written<'_> {
        if self.is_flush() {
            return Written::Everything;
        }
        if self.is_get() {
            return Written::Nothing;
        }
        // Whether another one writes is not known here.
        self.key().map_or(Written::Nothing, Written::Key)
    }

    fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }
}
