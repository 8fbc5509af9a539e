//! Values for callers that bring a thread: over a blocking connection, or over the asynchronous one
//! where the blocking one does not suffice.
//!
//! The asynchronous connection is asked if a server is not reached, redirects, or cannot serve the
//! command at the moment: it knows the topology and its changes. What it finds out, the next call
//! takes as the server of its blocking connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::{Cmd, ServerErrorKind, Value};
use tracing::debug;

use super::Redis;
use super::connection::SingleTarget;
use super::connection::direct::{DirectError, Limits, OnInterrupt, Pool};
use super::values::{WireCommand, explain};
use crate::error::{Error, Result};
use crate::runtime;

pub(in crate::store) struct DirectRedis {
    /// The only server, `None` if there are sentinels or a Cluster to find it.
    single: Option<Arc<Pool>>,
    timeout: Duration,
    on_interrupt: Option<OnInterrupt>,
}

impl DirectRedis {
    /// Opens no connection yet.
    pub(in crate::store) fn new(
        single: Option<&SingleTarget>,
        timeout: Duration,
        on_interrupt: Option<OnInterrupt>,
    ) -> Self {
        Self {
            single: single.map(|target| Arc::new(target.pool())),
            timeout,
            on_interrupt,
        }
    }

    /// Executes a command on values. `link` returns the asynchronous connections, and is called only
    /// if they are needed.
    pub(in crate::store) fn value<V: WireCommand>(
        &self,
        command: &V,
        link: impl Fn() -> Result<Arc<Redis>>,
    ) -> Result<V::Reply> {
        let value = self.send(&command.command(), command.is_repeatable(), link)?;
        V::reply(value).map_err(|error| explain(Error::redis(error)))
    }

    fn send(
        &self,
        command: &Cmd,
        is_repeatable: bool,
        link: impl Fn() -> Result<Arc<Redis>>,
    ) -> Result<Value> {
        let deadline = Instant::now() + self.timeout;
        let pool = match &self.single {
            Some(pool) => Some(pool.clone()),
            None => link()?.connection.direct(command),
        };
        if let Some(pool) = pool.as_ref().filter(|pool| !pool.is_bypassed()) {
            let limits = Limits {
                deadline,
                on_interrupt: self.on_interrupt.clone(),
            };
            match pool.call(command, is_repeatable, &limits) {
                Ok(Value::ServerError(error)) if is_for_the_link(error.kind()) => {
                    if error.kind() == Some(ServerErrorKind::ReadOnly) {
                        // The name of the server may lead to another one by now.
                        pool.close_idle();
                    }
                }
                Ok(reply) => {
                    let reply = reply.extract_error();
                    return reply.map_err(|error| explain(Error::redis(error)));
                }
                Err(DirectError::Unreachable(reason)) => {
                    debug!(reason, "no blocking connection");
                    pool.set_bypassed(true);
                }
                // The next call opens another connection.
                Err(DirectError::Broken { reason, .. }) => {
                    return Err(Error::store_failed(reason));
                }
                Err(DirectError::TimedOut) => {
                    pool.set_bypassed(true);
                    return Err(Error::timed_out(self.timeout));
                }
                Err(DirectError::Interrupted(reason)) => return Err(Error::interrupted(reason)),
            }
        }
        let link = link()?;
        let reply = runtime::wait(link.send(command, is_repeatable, deadline.into()))?;
        if let Some(pool) = pool {
            pool.set_bypassed(false);
        }
        Ok(reply)
    }
}

/// Returns whether the asynchronous connection may succeed, or knows what to advise.
fn is_for_the_link(kind: Option<ServerErrorKind>) -> bool {
    matches!(
        kind,
        Some(
            ServerErrorKind::Ask
                | ServerErrorKind::BusyLoading
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::Moved
                | ServerErrorKind::NoScript
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::TryAgain
        )
    )
}
