//! A master of the Cluster: a connection for scripts, and, while somebody waits for a lock of
//! its slots, one for what it pushes.
//!
//! Two, because Redis says `sunsubscribe` unasked when a slot moves away, and the redis crate
//! takes that for the answer to whatever was asked last: from then on each answer on that
//! connection goes to the wrong question. Where nothing but subscribing is asked, one at a
//! time, it can be told.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Client, Cmd, ConnectionInfo, PushInfo, PushKind, Value};
use tokio::sync::Mutex as AsyncMutex;

use super::super::managed::{CallError, IgnorePushes, ManagedConnection, PushHandler, Server};
use super::super::url::at;
use crate::error::Result;
use crate::store::redis::notifications::Notifications;

pub(super) struct Node {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) link: ManagedConnection<Server>,
    pushes: ManagedConnection<Server>,
    heard: Arc<Subscriptions>,
    /// Whose turn it is to subscribe.
    turn: AsyncMutex<()>,
}

/// The channels that the node has said it pushes.
struct Subscriptions {
    channels: Mutex<HashSet<Vec<u8>>>,
    wakes: Notifications,
}

impl Node {
    /// Connects to nothing yet.
    pub(super) fn new(
        info: &ConnectionInfo,
        host: &str,
        port: u16,
        wakes: Notifications,
        limit: Duration,
    ) -> Result<Arc<Self>> {
        let client = Client::open(at(info, host, port))?;
        let server = || Server {
            client: client.clone(),
            channel: None,
        };
        let heard = Arc::new(Subscriptions {
            channels: Mutex::default(),
            wakes,
        });
        let place = format!("{host}:{port}");
        Ok(Arc::new(Self {
            link: ManagedConnection::new(place.clone(), server(), Arc::new(IgnorePushes), limit),
            pushes: ManagedConnection::new(place, server(), heard.clone(), limit),
            host: host.to_owned(),
            port,
            heard,
            turn: AsyncMutex::new(()),
        }))
    }

    pub(super) fn is_at(&self, host: &str, port: u16) -> bool {
        self.host == host && self.port == port
    }

    /// Sends a command; with `asking` it is carried out although the slot is not this node's
    /// yet.
    pub(super) async fn send(&self, command: &Cmd, asking: bool) -> Result<Value, CallError> {
        let mut line = self.link.line().await?;
        let connection = &mut line.connection;
        let said = if asking {
            let mut both = redis::pipe();
            both.cmd("ASKING").ignore().add_command(command.clone());
            both.query_async::<(Value,)>(connection)
                .await
                .map(|(value,)| value)
        } else {
            command.query_async(connection).await
        };
        said.map_err(|error| {
            // Of two commands, what the one that matters was answered.
            let error = match error.clone().into_server_errors().as_deref() {
                Some([.., (_, of_one)]) => of_one.clone().into(),
                _ => error,
            };
            self.link.trouble(&line, error)
        })
    }

    /// Makes sure that this node pushes to `channel`, and that we hear it.
    pub(super) async fn listen(&self, channel: &str) -> Result<(), CallError> {
        if self.hears(channel) {
            return Ok(());
        }
        let _turn = self.turn.lock().await;
        if self.hears(channel) {
            return Ok(());
        }
        let mut line = self.pushes.line().await?;
        let subscribe = redis::cmd("SSUBSCRIBE").arg(channel).to_owned();
        let said = subscribe.query_async::<Value>(&mut line.connection).await;
        if let Err(error) = said {
            return Err(self.pushes.trouble(&line, error));
        }
        if !self.hears(channel) {
            // Something that came unasked was taken for the answer. The next question would
            // be given the one to this.
            self.pushes.close(&line);
            return Err(CallError::Unreachable(
                "a slot is on the move there".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn hears(&self, channel: &str) -> bool {
        self.heard.channels().contains(channel.as_bytes())
    }

    /// Whether somebody waits for what this node pushes.
    pub(super) fn is_heard(&self) -> bool {
        !self.heard.channels().is_empty()
    }

    /// Looks whether the connection for what is pushed leads anywhere, and gives it up if not
    /// so.
    pub(super) async fn check(&self) {
        if self.is_heard() {
            let _turn = self.turn.lock().await;
            if !self.pushes.answers().await {
                self.pushes.give_up();
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
            // We never ask for it: the slot has moved away.
            PushKind::SUnsubscribe => {
                self.channels().remove(channel);
                self.wakes.disconnected();
            }
            _ => self.wakes.pushed(push),
        }
    }

    fn lost(&self) {
        self.channels().clear();
        self.wakes.disconnected();
    }
}
