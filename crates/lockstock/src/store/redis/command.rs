//! Commands of Redis for which this crate has no method.

use redis::{Cmd, RedisResult, ToRedisArgs, Value};

use super::values::WireCommand;
use crate::command::{Command, Reply};

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
            Value::BigNumber(number) => {
                // Bytes or a `BigInt`: another crate may enable redis' feature `num-bigint`.
                let digits = number.to_redis_args().concat();
                Reply::Text(String::from_utf8_lossy(&digits).into_owned())
            }
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
