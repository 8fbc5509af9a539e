//! A script call with operations, and the replies to them.

use redis::{Cmd, FromRedisValue, Value};
use tokio::time::Instant;

use super::connection::{Eval, LuaScript, SlotContext};
use super::operation::Operation;
use crate::error::{Error, Result, explain_operation};
use crate::key::Keys;

/// Reply to one operation.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) value: Value,
    /// The server's clock.
    pub(super) server_time_us: i64,
    /// When the call that Redis replied to was sent, or shortly before.
    pub(super) sent_at: Instant,
    /// An earlier call may have been executed too.
    pub(super) repeated: bool,
}

/// Returns the call of operations in the order of their ranks: see `scripts/prelude.lua` and
/// `scripts/acquire_release.lua`.
pub(super) fn script_call<'a>(
    script: &LuaScript,
    slot: &SlotContext,
    operations: impl ExactSizeIterator<Item = (&'a Keys, Operation)> + Clone,
    eval: Eval,
) -> Cmd {
    let of_rank = |rank| {
        let operations = operations.clone();
        operations
            .filter(|(_, operation)| operation.rank() == rank)
            .count()
    };
    let mut cmd = eval.command(script);
    cmd.arg(1 + 2 * operations.len()).arg(&*slot.clock);
    for (keys, _) in operations.clone() {
        cmd.arg(&keys.holder).arg(&keys.queue);
    }
    cmd.arg(&*slot.channels)
        .arg(&*slot.client_id)
        .arg(of_rank(0))
        .arg(of_rank(1));
    for (_, operation) in operations {
        operation.write(&mut cmd);
    }
    cmd
}

/// Returns the reply to each operation of a call.
pub(super) fn replies(
    values: Vec<Value>,
    sent_at: Instant,
    repeated: bool,
) -> impl Iterator<Item = Result<Reply>> {
    let mut values = values.into_iter();
    let server_time_us = match values.next() {
        Some(Value::Int(time_us)) => time_us,
        _ => 0,
    };
    values.map(move |value| match failure(&value) {
        Some(reason) => Err(Error::store_failed(explain_operation(&reason))),
        None => Ok(Reply {
            value,
            server_time_us,
            sent_at,
            repeated,
        }),
    })
}

/// Returns the reason if the operation failed.
fn failure(value: &Value) -> Option<String> {
    let Value::Array(parts) = value else {
        return None;
    };
    match &parts[..] {
        [Value::BulkString(failed), reason] if failed == b"failed" => {
            Some(String::from_redis_value_ref(reason).unwrap_or_default())
        }
        _ => None,
    }
}
