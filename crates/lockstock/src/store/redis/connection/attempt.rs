//! One command until its reply: what is sent again, for how long, and what the circuit breaker of the
//! server learns from it.

use std::borrow::Cow;

use redis::{Cmd, FromRedisValue, ServerErrorKind};
use tokio::time::{Instant, timeout_at};

use super::managed::{Admission, CallError, Connector, ManagedConnection};
use super::{Eval, NO_SCRIPT, ScriptReply};
use crate::error::Result;

/// How a command is sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempt {
    /// How it refers to its script at first.
    pub(super) eval: Eval,
    pub(super) admission: Admission,
    /// Whether it may run twice.
    pub(super) is_repeatable: bool,
    /// Whether it may be sent together with others. Scripts are: see `batch.rs`.
    pub(super) is_gathered: bool,
    pub(super) deadline: Instant,
}

/// Sends a command, again where that is allowed, until it has a reply.
pub(super) async fn attempt<'a, T: FromRedisValue>(
    managed: &ManagedConnection<impl Connector>,
    settings: Attempt,
    command: impl Fn(Eval) -> Cow<'a, Cmd>,
) -> Result<ScriptReply<T>> {
    let calls = async |last_sent_at: &mut Option<Instant>| {
        let (mut repeated, mut was_read_only) = (false, false);
        let mut cmd = command(settings.eval);
        loop {
            let mut open = managed.get().await?;
            let sent_at = Instant::now();
            *last_sent_at = Some(sent_at);
            let reply = match settings.is_gathered {
                true => open.gather(&cmd).await,
                false => cmd.query_async(&mut open.connection).await,
            };
            let error = match reply {
                Ok(value) => {
                    return Ok(ScriptReply {
                        value,
                        sent_at,
                        repeated,
                    });
                }
                Err(error) => error,
            };
            match managed.classify(&open, error) {
                // The server has not seen the script yet, or has restarted.
                CallError::Rejected(error) if error.kind() == NO_SCRIPT => {
                    cmd = command(Eval::Source)
                }
                // The connection may have been dead for hours, so a new one deserves a try.
                CallError::Broken(_) if settings.is_repeatable && !repeated => repeated = true,
                // The server is a replica now. The new master has the same address.
                CallError::Rejected(error)
                    if error.kind() == ServerErrorKind::ReadOnly.into() && !was_read_only =>
                {
                    was_read_only = true;
                    managed.close(&open);
                }
                error => return Err(error),
            }
        }
    };
    in_time(managed, settings.admission, settings.deadline, calls).await
}

/// Makes calls until `deadline`, unless the server is known not to reply. `calls` notes when it sends
/// one.
pub(super) async fn in_time<T>(
    managed: &ManagedConnection<impl Connector>,
    admission: Admission,
    deadline: Instant,
    calls: impl AsyncFnOnce(&mut Option<Instant>) -> Result<T, CallError>,
) -> Result<T> {
    let result = admitted(managed, admission, deadline, calls).await;
    result.map_err(|error| managed.error(error))
}

/// As [`in_time`], for a caller that distinguishes the errors.
pub(super) async fn admitted<T>(
    managed: &ManagedConnection<impl Connector>,
    admission: Admission,
    deadline: Instant,
    calls: impl AsyncFnOnce(&mut Option<Instant>) -> Result<T, CallError>,
) -> Result<T, CallError> {
    let permit = managed.admit(admission)?;
    let mut sent_at = None;
    match timeout_at(deadline, calls(&mut sent_at)).await {
        Ok(result) => {
            managed.conclude(permit, &result);
            result
        }
        Err(_) => {
            managed.timed_out(permit, sent_at);
            Err(CallError::TimedOut)
        }
    }
}
