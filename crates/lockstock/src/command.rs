//! Commands of Redis for which this crate has no method.

use std::fmt;

use bytes::Bytes;
use redis::Arg;

use crate::error::{Error, Result};
use crate::store::Store;

/// A command of Redis, for [`Store::execute`].
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

    /// Returns the key.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        let mut words = self.cmd.args_iter();
        let before = match words.next() {
            Some(Arg::Simple(b"EVALSHA" | b"EVAL")) => 2,
            _ => 0,
        };
        match words.nth(before) {
            Some(Arg::Simple(key)) => Some(key),
            _ => None,
        }
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

impl Store {
    /// Executes a command of Redis for which this crate has no method, on the server that has its
    /// first key.
    ///
    /// Not for commands that change the state of the connection, block, or subscribe: all callers
    /// of this store share the connection.
    ///
    /// ```no_run
    /// # use lockstock::{Command, Reply, Store};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// let store = Store::connect("redis://127.0.0.1:6379").await?;
    /// let added = store.execute(&Command::new("SADD").arg("colours").arg("red")).await?;
    /// assert_eq!(added, Reply::Integer(1));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if the store fails or rejects the command,
    /// [`is_malformed`](crate::Error::is_malformed) if the value under the key is of another type,
    /// [`is_invalid`](crate::Error::is_invalid) for a memory store.
    pub async fn execute(&self, command: &Command) -> Result<Reply> {
        self.value(command).await
    }

    /// Returns all keys in the store that match a pattern of Redis, of whatever program and type, as
    /// [`Cache::keys`](crate::Cache::keys) finds those of one cache.
    ///
    /// # Errors
    ///
    /// [`is_unavailable`](crate::Error::is_unavailable) if a server fails or does not reply.
    pub async fn scan_keys(&self, pattern: impl AsRef<[u8]>) -> Result<Vec<Vec<u8>>> {
        let (mut scan, mut keys) = (self.scan(b"", pattern.as_ref()), Vec::new());
        while let Some(page) = scan.next_page().await? {
            keys.extend(page);
        }
        Ok(keys)
    }

    /// Executes several [repeatable](Command::repeatable) commands, without a round trip for each.
    ///
    /// # Errors
    ///
    /// As [`execute`](Self::execute), if one of them fails, after all others were tried;
    /// [`is_invalid`](crate::Error::is_invalid) if one is not repeatable.
    pub async fn execute_all(&self, commands: &[Command]) -> Result<Vec<Reply>> {
        if !commands.iter().all(|command| command.is_repeatable) {
            return Err(Error::invalid(
                "only repeatable commands can be executed together",
            ));
        }
        self.values(commands).await
    }
}
