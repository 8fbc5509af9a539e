//! Commands of Redis for which this crate has no method.

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use redis::Arg;

/// A command of Redis, for [`Store::execute`](crate::Store::execute).
///
/// ```
/// # use lockstock::Command;
/// let members = Command::new("SMEMBERS").arg("colours").repeatable();
/// # let _ = members;
/// ```
#[derive(Clone)]
pub struct Command {
    pub(crate) cmd: redis::Cmd,
    pub(crate) is_repeatable: bool,
}

impl Command {
    /// Creates a command. The first argument is its key, except that `EVAL` and `EVALSHA` have the
    /// key third.
    pub fn new(name: &str) -> Self {
        Self {
            cmd: redis::cmd(name),
            is_repeatable: false,
        }
    }

    /// Appends an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<[u8]>) -> Self {
        self.cmd.arg(arg.as_ref());
        self
    }

    /// Declares that a second execution has the same effect and reply as the first. If the reply is
    /// lost, the command is sent again instead of failing.
    #[must_use]
    pub fn repeatable(mut self) -> Self {
        self.is_repeatable = true;
        self
    }

    /// Returns whether the command may be sent again: see [`repeatable`](Self::repeatable).
    pub fn is_repeatable(&self) -> bool {
        self.is_repeatable
    }

    /// Returns the name, for what records calls.
    pub fn name(&self) -> Cow<'_, str> {
        match self.cmd.args_iter().next() {
            Some(Arg::Simple(name)) => String::from_utf8_lossy(name),
            _ => Cow::Borrowed(""),
        }
    }

    /// Returns the key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        first_key(&self.cmd)
    }

    /// Returns whether it removes every value.
    pub(crate) fn is_flush(&self) -> bool {
        let name = self.cmd.args_iter().next();
        matches!(name, Some(Arg::Simple(b"FLUSHDB" | b"FLUSHALL")))
    }

    /// Returns whether it is known to write nothing.
    pub(crate) fn is_get(&self) -> bool {
        let name = self.cmd.args_iter().next();
        matches!(name, Some(Arg::Simple(b"GET")))
    }
}

/// Returns the first key of a command, `None` if it has no arguments.
pub(crate) fn first_key(cmd: &redis::Cmd) -> Option<&[u8]> {
    let mut words = cmd.args_iter();
    let before = match words.next() {
        Some(Arg::Simple(b"EVALSHA" | b"EVAL")) => 2,
        _ => 0,
    };
    match words.nth(before) {
        Some(Arg::Simple(key)) => Some(key),
        _ => None,
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the arguments, which may be secret.
        f.debug_struct("Command")
            .field("repeatable", &self.is_repeatable)
            .finish_non_exhaustive()
    }
}

/// The reply to a [`Command`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// Nothing.
    Nil,
    /// An integer.
    Integer(i64),
    /// A floating-point number.
    Double(f64),
    /// A truth value.
    Boolean(bool),
    /// Bytes, as most values are.
    Bytes(Bytes),
    /// A text of the server, such as `OK`.
    Text(String),
    /// Several replies. A set, too.
    Array(Vec<Reply>),
    /// Pairs of replies.
    Map(Vec<(Reply, Reply)>),
    /// An error among the replies of an array.
    Error(String),
}
