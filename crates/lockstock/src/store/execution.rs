//! Commands of Redis for which this crate has no method, executed on a store.

use super::Store;
use crate::command::{Command, Reply};
use crate::error::{Error, Result};

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
