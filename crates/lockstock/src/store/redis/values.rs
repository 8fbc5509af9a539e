//! Values with a time to live in Redis: plain `GET`, `SET … PX` and `DEL`.
//!
//! Each command is idempotent, so a command whose reply was lost is sent again.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue};
use tokio::time::Instant;

use super::Redis;
use super::connection::Eval;
use crate::error::Result;
use crate::lease::as_millis;

impl Redis {
    pub(in crate::store) async fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        let get = redis::cmd("GET").arg(key).to_owned();
        let value: Option<Vec<u8>> = self.command(get).await?;
        Ok(value.map(Bytes::from))
    }

    pub(in crate::store) async fn set(
        &self,
        key: &[u8],
        value: &[u8],
        ttl: Duration,
    ) -> Result<()> {
        let mut set = redis::cmd("SET");
        set.arg(key).arg(value).arg("PX").arg(as_millis(ttl));
        self.command(set).await
    }

    pub(in crate::store) async fn delete(&self, key: &[u8]) -> Result<()> {
        // The number of deleted keys is meaningless: the command may have been sent twice.
        let delete = redis::cmd("DEL").arg(key).to_owned();
        self.command::<u64>(delete).await.map(drop)
    }

    async fn command<T: FromRedisValue>(&self, command: Cmd) -> Result<T> {
        let deadline = Instant::now() + self.timeout;
        let command = |_: Eval| command.clone();
        let reply = self.connection.run(Eval::Sha, command, deadline).await?;
        Ok(reply.value)
    }
}
