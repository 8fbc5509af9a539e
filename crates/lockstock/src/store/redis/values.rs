//! Commands on values in Redis: how each is written, and how its reply is read.
//!
//! A command that is not repeatable fails if its reply is lost. All others are sent again.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Value};
use tokio::time::Instant;

use super::Redis;
use crate::cache::Ttl;
use crate::error::{Error, Result};
use crate::lease::as_millis;
use crate::store::values::{
    Delete, Exists, Get, GetMany, Increment, Persist, Set, SetCondition, Touch, TtlOf, ValueCommand,
};

/// Adds to an integer, which gets a time to live if it is new.
const INCREMENT: &str = include_str!("scripts/increment.lua");

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
        let cmd = command.command();
        let value = self
            .connection
            .send(&cmd, command.is_repeatable(), deadline)
            .await
            .map_err(explain)?;
        V::reply(value).map_err(|error| explain(Error::redis(error)))
    }
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
