//! Commands on values in Redis: how each is written, and how its reply is read.
//!
//! A command that is not repeatable fails if its reply is lost. All others are sent again.

use std::iter::Peekable;
use std::time::Duration;

use bytes::Bytes;
use redis::{Arg, Cmd, FromRedisValue, RedisResult, Value};
use tokio::time::Instant;

use super::Redis;
use crate::cache::Ttl;
use crate::error::{Error, Result};
use crate::lease::as_millis;
use crate::store::values::batches::SlotOf;
use crate::store::values::{
    Delete, Exists, Get, GetMany, Increment, Persist, Set, SetCondition, Touch, TtlOf, ValueCommand,
};

/// Adds to an integer, which gets a time to live if it is new.
const INCREMENT: &str = include_str!("scripts/increment.lua");

/// The maximum number of words of the commands of a pipeline: about a thousand values.
const MAX_PIPELINE_WORDS: usize = 5000;
/// The maximum size of a pipeline, unless it has only one command.
const MAX_PIPELINE_BYTES: usize = 1024 * 1024;
/// The length of the options of `SET`: a time to live in milliseconds, and a condition.
const MAX_OPTION_BYTES: usize = 2 + 20 + 2;

/// A command as Redis knows it.
pub(crate) trait WireCommand: ValueCommand {
    /// Returns the command. Its first key determines the slot.
    fn command(&self) -> Cmd;

    /// Reads the reply, which is not an error.
    fn reply(value: Value) -> RedisResult<Self::Reply>;
}

impl Redis {
    pub(in crate::store) async fn value<V: WireCommand>(&self, command: &V) -> Result<V::Reply> {
        let deadline = Instant::now() + self.timeout;
        let _overwriting = self.near.overwrite(command.writes());
        self.value_until(command, deadline).await
    }

    pub(super) async fn value_until<V: WireCommand>(
        &self,
        command: &V,
        deadline: Instant,
    ) -> Result<V::Reply> {
        let cmd = command.command();
        let value = self.send(&cmd, command.is_repeatable(), deadline).await?;
        V::reply(value).map_err(|error| explain(Error::redis(error)))
    }

    pub(super) async fn send(
        &self,
        command: &Cmd,
        is_repeatable: bool,
        deadline: Instant,
    ) -> Result<Value> {
        let reply = self.connection.send(command, is_repeatable, deadline);
        reply.await.map_err(explain)
    }

    pub(super) async fn send_all(
        &self,
        commands: Vec<Cmd>,
        deadline: Instant,
    ) -> Vec<Result<Value>> {
        let replies = self.connection.send_all(commands, deadline).await;
        replies
            .into_iter()
            .map(|reply| reply.map_err(explain))
            .collect()
    }

    /// Executes repeatable commands, in pipelines. Fails with the first failure, after all others
    /// were tried: an unavailable node of a Cluster does not keep the others from their part.
    pub(in crate::store) async fn values<V: WireCommand>(
        &self,
        commands: &[V],
    ) -> Result<Vec<V::Reply>> {
        debug_assert!(commands.iter().all(ValueCommand::is_repeatable));
        let _overwriting: Vec<_> = commands
            .iter()
            .map(|command| self.near.overwrite(command.writes()))
            .collect();
        let mut commands = commands.iter().map(WireCommand::command).peekable();
        let mut replies = Vec::with_capacity(commands.len());
        let mut failure = None;
        // From the first failure on, all further pipelines together have the time of one.
        let mut gives_up_at = None::<Instant>;
        while commands.peek().is_some() {
            let deadline = Instant::now() + self.timeout;
            let deadline = gives_up_at.map_or(deadline, |at| at.min(deadline));
            for reply in self
                .connection
                .send_all(pipeline(&mut commands), deadline)
                .await
            {
                let reply = reply.and_then(|reply| V::reply(reply).map_err(Error::redis));
                match reply {
                    Ok(reply) => replies.push(reply),
                    Err(error) => {
                        gives_up_at.get_or_insert_with(|| Instant::now() + self.timeout);
                        failure.get_or_insert(error);
                    }
                }
            }
        }
        match failure {
            Some(error) => Err(explain(error)),
            None => Ok(replies),
        }
    }

    pub(in crate::store) fn slot_of(&self) -> Option<SlotOf> {
        self.connection.slot_of()
    }
}

/// Takes the commands of the next pipeline: as many as delay the locks, which use the same
/// connection, only for a moment.
pub(super) fn pipeline(commands: &mut Peekable<impl Iterator<Item = Cmd>>) -> Vec<Cmd> {
    let mut pipeline = Vec::new();
    let (mut words, mut bytes) = (0, 0);
    while let Some(command) = commands.next_if(|next| {
        words += next.args_iter().len();
        bytes += size(next);
        pipeline.is_empty() || words <= MAX_PIPELINE_WORDS && bytes <= MAX_PIPELINE_BYTES
    }) {
        pipeline.push(command);
    }
    pipeline
}

fn size(command: &Cmd) -> usize {
    let sizes = command.args_iter().map(|word| match word {
        Arg::Simple(word) => word.len(),
        _ => 0,
    });
    sizes.sum()
}

/// Distinguishes a value that the command does not fit from a failure of the store.
pub(in crate::store) fn explain(error: Error) -> Error {
    let reason = error.redis_source().and_then(|source| {
        // Before Redis 7 the error of a command in a script is within that of the script.
        let (code, detail) = (source.code()?, source.detail().unwrap_or_default());
        if code == "WRONGTYPE" || detail.contains("WRONGTYPE") {
            Some("Redis has something else than a string under the key (WRONGTYPE)")
        } else if detail.contains("not an integer") {
            Some("the value in the cache is no integer of 64 bits")
        } else if detail.contains("would overflow") {
            Some("the sum is no integer of 64 bits")
        } else {
            None
        }
    });
    reason.map_or(error, Error::malformed)
}

impl WireCommand for Get {
    fn command(&self) -> Cmd {
        let mut get = sized("GET", 1, self.key.len());
        get.arg(&self.key);
        get
    }

    fn reply(value: Value) -> RedisResult<Option<Bytes>> {
        parse(value)
    }
}

impl WireCommand for GetMany {
    fn command(&self) -> Cmd {
        redis::cmd("MGET").arg(&self.keys).take()
    }

    fn reply(value: Value) -> RedisResult<Vec<Option<Bytes>>> {
        parse(value)
    }
}

impl WireCommand for Set {
    fn command(&self) -> Cmd {
        let mut set = sized("SET", 5, self.key.len() + self.value.len());
        set.arg(&self.key).arg(&self.value[..]);
        if let Ttl::After(ttl) = self.ttl {
            set.arg("PX").arg(as_millis(ttl));
        }
        match self.condition {
            SetCondition::Always => {}
            SetCondition::IfMissing => {
                set.arg("NX");
            }
            SetCondition::IfPresent => {
                set.arg("XX");
            }
        }
        set
    }

    fn reply(value: Value) -> RedisResult<bool> {
        Ok(value != Value::Nil)
    }
}

impl WireCommand for Delete {
    fn command(&self) -> Cmd {
        redis::cmd("UNLINK").arg(&self.keys).take()
    }

    fn reply(value: Value) -> RedisResult<u64> {
        parse(value)
    }
}

impl WireCommand for Exists {
    fn command(&self) -> Cmd {
        redis::cmd("EXISTS").arg(&self.key).take()
    }

    fn reply(value: Value) -> RedisResult<bool> {
        parse(value)
    }
}

impl WireCommand for Touch {
    fn command(&self) -> Cmd {
        let ttl = as_millis(self.ttl);
        redis::cmd("PEXPIRE").arg(&self.key).arg(ttl).take()
    }

    fn reply(value: Value) -> RedisResult<bool> {
        parse(value)
    }
}

impl WireCommand for Persist {
    fn command(&self) -> Cmd {
        redis::cmd("PERSIST").arg(&self.key).take()
    }

    fn reply(value: Value) -> RedisResult<bool> {
        parse(value)
    }
}

impl WireCommand for TtlOf {
    fn command(&self) -> Cmd {
        redis::cmd("PTTL").arg(&self.key).take()
    }

    fn reply(value: Value) -> RedisResult<Option<Ttl>> {
        Ok(match parse::<i64>(value)? {
            -1 => Some(Ttl::Never),
            millis => u64::try_from(millis)
                .ok()
                .map(|millis| Ttl::After(Duration::from_millis(millis))),
        })
    }
}

impl WireCommand for Increment {
    fn command(&self) -> Cmd {
        let ttl_ms = match self.if_missing {
            Some(Ttl::After(ttl)) => as_millis(ttl).to_string(),
            Some(Ttl::Never) => "never".to_owned(),
            None => "missing".to_owned(),
        };
        // The whole text, which is short: a caller on a blocking socket has no second way.
        let mut eval = redis::cmd("EVAL");
        eval.arg(INCREMENT).arg(1).arg(&self.key);
        eval.arg(self.by).arg(ttl_ms);
        eval
    }

    fn reply(value: Value) -> RedisResult<Option<i64>> {
        parse(value)
    }
}

/// Returns a command with room for its arguments: growing costs several allocations for each call.
fn sized(name: &str, arguments: usize, bytes: usize) -> Cmd {
    let mut cmd = Cmd::with_capacity(arguments + 1, name.len() + bytes + MAX_OPTION_BYTES);
    cmd.arg(name);
    cmd
}

fn parse<T: FromRedisValue>(value: Value) -> RedisResult<T> {
    Ok(redis::from_redis_value(value)?)
}
