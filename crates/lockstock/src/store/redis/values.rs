//! Commands on values in Redis: how each is written, and how its reply is read.
//!
//! A command that is not repeatable fails if its reply is lost. All others are sent again.

use std::iter::Peekable;
use std::time::Duration;

use bytes::Bytes;
use redis::{Arg, Cmd, FromRedisValue, RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::Redis;
use crate::cache::Ttl;
use crate::command::{Command, Reply};
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
        let cmd = command.command();
        let value = self
            .connection
            .send(&cmd, command.is_repeatable(), deadline)
            .await
            .map_err(explain)?;
        V::reply(value).map_err(|error| explain(Error::redis(error)))
    }

    /// Executes repeatable commands, in pipelines. Fails with the first failure, after all others
    /// were tried: an unavailable node of a Cluster does not keep the others from their part.
    pub(in crate::store) async fn values<V: WireCommand>(
        &self,
        commands: &[V],
    ) -> Result<Vec<V::Reply>> {
        debug_assert!(commands.iter().all(ValueCommand::is_repeatable));
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
fn pipeline(commands: &mut Peekable<impl Iterator<Item = Cmd>>) -> Vec<Cmd> {
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
    let is_about_the_value = |error: &RedisError| match (error.code(), error.detail()) {
        (Some("WRONGTYPE"), _) => true,
        (Some("ERR"), Some(detail)) => {
            detail.contains("not an integer") || detail.contains("would overflow")
        }
        _ => false,
    };
    match error.redis_source() {
        Some(source) if is_about_the_value(source) => Error::malformed(format!(
            "the value in the cache does not fit the command: {error}"
        )),
        _ => error,
    }
}

impl WireCommand for Get {
    fn command(&self) -> Cmd {
        redis::cmd("GET").arg(&self.key).take()
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
        let mut set = redis::cmd("SET");
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

impl WireCommand for Command {
    fn command(&self) -> Cmd {
        self.cmd.clone()
    }

    fn reply(value: Value) -> RedisResult<Reply> {
        Ok(match value {
            Value::Nil => Reply::Nil,
            Value::Int(number) => Reply::Integer(number),
            Value::Double(number) => Reply::Double(number),
            Value::Boolean(value) => Reply::Boolean(value),
            Value::BulkString(bytes) => Reply::Bytes(bytes.into()),
            Value::Okay => Reply::Text("OK".to_owned()),
            Value::SimpleString(text) | Value::VerbatimString { text, .. } => Reply::Text(text),
            Value::BigNumber(digits) => Reply::Text(String::from_utf8_lossy(&digits).into_owned()),
            Value::Array(items) | Value::Set(items) | Value::Push { data: items, .. } => {
                Reply::Array(
                    items
                        .into_iter()
                        .map(Self::reply)
                        .collect::<RedisResult<_>>()?,
                )
            }
            Value::Map(pairs) => Reply::Map(
                pairs
                    .into_iter()
                    .map(|(key, value)| Ok((Self::reply(key)?, Self::reply(value)?)))
                    .collect::<RedisResult<_>>()?,
            ),
            Value::Attribute { data, .. } => Self::reply(*data)?,
            Value::ServerError(error) => Reply::Error(error.to_string()),
            _ => {
                return Err((
                    redis::ErrorKind::UnexpectedReturnType,
                    "an unknown kind of reply",
                )
                    .into());
            }
        })
    }
}

fn parse<T: FromRedisValue>(value: Value) -> RedisResult<T> {
    Ok(redis::from_redis_value(value)?)
}
