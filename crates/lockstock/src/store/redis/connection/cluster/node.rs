//! A master of a Cluster: a connection for commands; while there are waiters in its slots, a
//! connection for subscriptions; and a tracked connection for near caches.
//!
//! A connection for subscriptions, because a node sends an unsolicited `sunsubscribe` when a slot moves away,
//! and the redis crate takes it for the reply to the oldest pending command: from then on each
//! reply on that connection is assigned to the wrong command. Other clients have the same
//! problem, see <https://github.com/valkey-io/valkey/issues/1066> and
//! <https://github.com/redis/rueidis/issues/691>. On a connection that only sends `SSUBSCRIBE`,
//! one at a time, the mistake can be detected.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, PushInfo, PushKind, RedisResult, Value};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::Instant;

use super::super::breaker::Breaker;
use super::super::direct::{Pool, Target};
use super::super::managed::{
    Admission, CallError, IgnorePushes, ManagedConnection, OpenConnection, Purpose, PushHandler,
    Server,
};
use super::super::tracked::TrackedConnection;
use super::super::url::with_address;
use crate::store::near::NearTables;
use crate::store::redis::notifications::Notifications;

pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) commands: ManagedConnection<Server>,
    /// For values that are copied.
    pub(super) tracked: TrackedConnection<Server>,
    pushes: ManagedConnection<Server>,
    /// For callers that bring a thread.
    pub(super) direct: Arc<Pool>,
    subscriptions: Arc<Subscriptions>,
    /// Held by the only call on `pushes`.
    pushes_in_use: AsyncMutex<()>,
}

/// The channels whose subscription the node has confirmed.
struct Subscriptions {
    channels: Mutex<HashSet<Vec<u8>>>,
    notifications: Notifications,
}

impl Node {
    /// Opens no connection yet.
    pub(super) fn new(
        servers: &Target,
        host: &str,
        port: u16,
        notifications: Notifications,
        near: Arc<NearTables>,
        timeout: Duration,
    ) -> Arc<Self> {
        let target = Target {
            info: with_address(&servers.info, host, port),
            tls: servers.tls.clone(),
        };
        let server = |purpose| Server {
            target: target.clone(),
            purpose,
        };
        let subscriptions = Arc::new(Subscriptions {
            channels: Mutex::default(),
            notifications,
        });
        let address = format!("{host}:{port}");
        let breaker = Arc::new(Breaker::new(address.clone()));
        let ignore = Arc::new(IgnorePushes);
        Arc::new(Self {
            commands: ManagedConnection::new(
                address.clone(),
                server(Purpose::Commands),
                ignore,
                timeout,
                breaker.clone(),
            ),
            tracked: TrackedConnection::new(
                address.clone(),
                server(Purpose::Tracking),
                near,
                timeout,
                breaker.clone(),
            ),
            pushes: ManagedConnection::new(
                address,
                server(Purpose::Subscriptions),
                subscriptions.clone(),
                timeout,
                breaker,
            ),
            direct: Arc::new(Pool::new(target)),
            host: host.to_owned(),
            port,
            subscriptions,
            pushes_in_use: AsyncMutex::new(()),
        })
    }

    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port == port
    }

    /// Sends a command.
    pub(super) async fn send(
        &self,
        command: &Cmd,
        admission: Admission,
    ) -> Result<Value, CallError> {
        self.call(admission, async |open| {
            command.query_async(&mut open.connection).await
        })
        .await
    }

    /// Sends a command together with those of other callers.
    pub(super) async fn gather(
        &self,
        command: &Cmd,
        admission: Admission,
    ) -> Result<Value, CallError> {
        self.call(admission, async |open| open.gather(command).await)
            .await
    }

    /// Sends a command that the node runs although the slot is still being imported.
    pub(super) async fn ask(
        &self,
        command: &Cmd,
        admission: Admission,
    ) -> Result<Value, CallError> {
        let mut both = redis::pipe();
        both.cmd("ASKING").ignore().add_command(command.clone());
        self.call(admission, async |open| {
            let replies = both.query_async::<(Value,)>(&mut open.connection).await;
            // The error of a pipeline contains those of its commands: take that of `command`.
            replies.map(|(value,)| value).map_err(|error| {
                match error.clone().into_server_errors().as_deref() {
                    Some([.., (_, last)]) => last.clone().into(),
                    _ => error,
                }
            })
        })
        .await
    }

    async fn call(
        &self,
        admission: Admission,
        call: impl AsyncFnOnce(&mut OpenConnection<()>) -> RedisResult<Value>,
    ) -> Result<Value, CallError> {
        let permit = self.commands.admit(admission)?;
        let result = match self.commands.get().await {
            Ok(mut open) => {
                let reply = call(&mut open).await;
                reply.map_err(|error| self.commands.classify(&open, error))
            }
            Err(error) => Err(error),
        };
        self.commands.conclude(permit, &result);
        result
    }

    /// Ensures that this node pushes the messages of `channel`.
    pub(super) async fn ensure_subscribed(&self, channel: &str) -> Result<(), CallError> {
        if self.is_subscribed(channel) {
            return Ok(());
        }
        // Of the connection for commands: the server is the same.
        let permit = self.commands.admit(Admission::UnlessSilent)?;
        let _in_use = self.pushes_in_use.lock().await;
        if self.is_subscribed(channel) {
            return Ok(());
        }
        let mut open = self.pushes.get().await?;
        let subscribe = redis::cmd("SSUBSCRIBE").arg(channel).to_owned();
        let reply = subscribe.query_async::<Value>(&mut open.connection).await;
        let reply = reply.map_err(|error| self.pushes.classify(&open, error));
        self.commands.conclude(permit, &reply);
        reply?;
        if !self.is_subscribed(channel) {
            // An unsolicited message was taken for the reply, and the next command would get
            // the reply to this one.
            self.pushes.close(&open);
            return Err(CallError::Unreachable(
                "the node is moving slots".to_owned(),
            ));
        }
        Ok(())
    }

    /// Records that there has been no reply to a call since `sent_at`.
    pub(super) fn timed_out(&self, sent_at: Instant) {
        self.commands.suspect(sent_at);
    }

    /// Records that [`ensure_subscribed`](Self::ensure_subscribed) has not returned since `begun`.
    pub(super) fn subscribe_timed_out(&self, begun: Instant) {
        self.timed_out(begun);
        self.pushes.check_health();
    }

    fn is_subscribed(&self, channel: &str) -> bool {
        self.subscriptions.channels().contains(channel.as_bytes())
    }

    pub(super) fn has_subscriptions(&self) -> bool {
        !self.subscriptions.channels().is_empty()
    }

    /// Checks that the connection for subscriptions is alive, and drops it if it is not.
    pub(super) async fn check_subscriptions(&self) {
        if self.has_subscriptions() {
            let _in_use = self.pushes_in_use.lock().await;
            if !self.pushes.is_healthy().await {
                self.pushes.close_current();
            }
        }
    }
}

impl Subscriptions {
    fn channels(&self) -> MutexGuard<'_, HashSet<Vec<u8>>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl PushHandler for Subscriptions {
    fn pushed(&self, push: &PushInfo) {
        let channel = match push.data.first() {
            Some(Value::BulkString(channel)) => channel,
            _ => return,
        };
        match push.kind {
            PushKind::SSubscribe => {
                self.channels().insert(channel.clone());
            }
            // Never requested: the slot has moved away.
            PushKind::SUnsubscribe => {
                self.channels().remove(channel);
                self.notifications.disconnected();
            }
            _ => self.notifications.pushed(push),
        }
    }

    fn disconnected(&self) {
        self.channels().clear();
        self.notifications.disconnected();
    }
}
