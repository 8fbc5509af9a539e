//! A connection on which the server tracks what was read, and pushes an invalidation when it
//! changes (`CLIENT TRACKING`, in RESP3).
//!
//! A connection of its own: on the one of the locks, the server would have to remember the keys of
//! every command.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{FromRedisValue, PushInfo, PushKind, RedisResult, Value};
use tokio::time::{Instant, timeout};
use tracing::warn;

use super::attempt::admitted;
use super::breaker::Breaker;
use super::managed::{Admission, CallError, Connector, ManagedConnection, PushHandler};
use crate::error::{Error, Result};
use crate::store::near::{NearTables, Remaining, Written};

/// The pause after an attempt to connect has failed, in which values are read without copies.
const RETRY_DELAY: Duration = Duration::from_secs(1);

pub(super) struct TrackedConnection<C: Connector> {
    managed: ManagedConnection<C>,
    /// std's mutex: held for a look at the time.
    retry_at: Mutex<Option<Instant>>,
    has_warned: AtomicBool,
}

/// What was read on a tracked connection.
pub(in crate::store) enum TrackedRead {
    /// The value and its remaining life.
    Value(Option<Bytes>, Remaining),
    /// The value, which was changing meanwhile.
    Changing(Option<Bytes>),
    /// There is no tracked connection, or its server has no answer for this key: the value has to
    /// be read on another one.
    Nothing,
}

/// How to find out whether the server still sends the invalidations of what was read.
pub(super) enum Probe {
    /// It replies.
    Alive,
    /// It replies, and is a master.
    Master,
    /// It replies, and serves the slot of this key.
    Serves(String),
}

impl<C: Connector> TrackedConnection<C> {
    /// Opens no connection yet. The connector has to switch the tracking on.
    pub(super) fn new(
        address: String,
        connector: C,
        tables: Arc<NearTables>,
        timeout: Duration,
        breaker: Arc<Breaker>,
    ) -> Self {
        let handler = Arc::new(Invalidations(tables));
        Self {
            managed: ManagedConnection::new(address, connector, handler, timeout, breaker),
            retry_at: Mutex::new(None),
            has_warned: AtomicBool::new(false),
        }
    }

    pub(super) fn managed(&self) -> &ManagedConnection<C> {
        &self.managed
    }

    /// Reads the value under `key` with its remaining life.
    ///
    /// Two commands in one round trip. If the value is overwritten between them, the invalidation
    /// arrives before the second reply.
    pub(super) async fn read(&self, key: &[u8], deadline: Instant) -> Result<TrackedRead> {
        if self.is_paused() {
            return Ok(TrackedRead::Nothing);
        }
        let mut pair = redis::pipe();
        pair.cmd("GET").arg(key).cmd("PTTL").arg(key);
        pair.ignore_errors();
        let call = async |sent_at: &mut Option<Instant>| {
            // In a part of the time, so that some is left to read on another connection.
            let opening = timeout(
                deadline.duration_since(Instant::now()) / 2,
                self.managed.get(),
            );
            let not_in_time = |_| Err(CallError::Unreachable("no connection in time".to_owned()));
            let mut open = opening.await.unwrap_or_else(not_in_time)?;
            *sent_at = Some(Instant::now());
            let replies: RedisResult<(RedisResult<Value>, RedisResult<Value>)> =
                pair.query_async(&mut open.connection).await;
            replies.map_err(|error| self.managed.classify(&open, error))
        };
        match admitted(&self.managed, Admission::UnlessSilent, deadline, call).await {
            Ok((Ok(value), Ok(pttl))) => {
                self.has_warned.store(false, Ordering::Relaxed);
                parse(value, pttl).map_err(Error::redis)
            }
            // A slot that has moved, a server that is still loading, a value of another type: the
            // other connection follows it or reports it.
            Ok(_) | Err(CallError::Rejected(_) | CallError::Broken(_)) => Ok(TrackedRead::Nothing),
            Err(CallError::Unreachable(reason)) => {
                self.pause(&reason);
                Ok(TrackedRead::Nothing)
            }
            Err(error @ (CallError::TimedOut | CallError::Refused(_))) => {
                Err(self.managed.error(error))
            }
        }
    }

    /// Closes the connection, which empties the tables, unless the server replies to the probe
    /// within `limit`. `None`: the server has nothing that could have been read.
    pub(super) async fn probe(&self, probe: Option<&Probe>, limit: Duration) {
        let Some(mut open) = self.managed.open_connection() else {
            return;
        };
        let connection = &mut open.connection;
        let is_healthy = async {
            match probe {
                None => false,
                Some(Probe::Alive) => redis::cmd("PING")
                    .query_async::<()>(connection)
                    .await
                    .is_ok(),
                Some(Probe::Serves(key)) => {
                    let pttl = redis::cmd("PTTL").arg(key).take();
                    pttl.query_async::<i64>(connection).await.is_ok()
                }
                Some(Probe::Master) => {
                    let role = redis::cmd("ROLE")
                        .query_async::<Vec<Value>>(connection)
                        .await;
                    matches!(role.as_deref(), Ok([Value::BulkString(role), ..]) if role == b"master")
                }
            }
        };
        if !matches!(timeout(limit, is_healthy).await, Ok(true)) {
            self.managed.close(&open);
        }
    }

    fn is_paused(&self) -> bool {
        let retry_at = self.retry_at.lock().unwrap_or_else(PoisonError::into_inner);
        retry_at.is_some_and(|retry_at| Instant::now() < retry_at)
    }

    fn pause(&self, reason: &str) {
        *self.retry_at.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Instant::now() + RETRY_DELAY);
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            warn!(
                reason,
                "near caches are off: Redis cannot be asked to track what is read. Every read goes \
                 to Redis"
            );
        }
    }
}

fn parse(value: Value, pttl: Value) -> RedisResult<TrackedRead> {
    let value: Option<Bytes> = redis::from_redis_value(value)?;
    let pttl = i64::from_redis_value(pttl)?;
    Ok(match (&value, pttl) {
        (Some(_), -1) | (None, -2) => TrackedRead::Value(value, None),
        (Some(_), 0..) => {
            let remaining = Duration::from_millis(pttl.unsigned_abs());
            TrackedRead::Value(value, Some(remaining))
        }
        // Expired or created between the two commands.
        _ => TrackedRead::Changing(value),
    })
}

/// Forwards the invalidations of a connection to the near caches.
struct Invalidations(Arc<NearTables>);

impl PushHandler for Invalidations {
    fn pushed(&self, push: &PushInfo) {
        if push.kind != PushKind::Invalidate {
            return;
        }
        match push.data.first() {
            Some(Value::Array(keys)) => {
                for key in keys {
                    match key {
                        Value::BulkString(key) => self.0.invalidate(Written::Key(key)),
                        _ => self.0.clear(),
                    }
                }
            }
            // The database was flushed.
            _ => self.0.clear(),
        }
    }

    fn disconnected(&self) {
        self.0.clear();
    }
}
