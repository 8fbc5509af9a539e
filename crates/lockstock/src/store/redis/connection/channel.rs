//! The messages of one channel, on a connection of their own.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{PushInfo, PushKind, Value};
use tokio::sync::mpsc;

use super::breaker::Breaker;
use super::managed::{CallError, Connector, ManagedConnection, PushHandler, Server};
use super::sentinel::Sentinels;

/// Number of messages that wait to be received. Further ones are dropped, because the connection must
/// not wait.
const MAX_UNREAD: usize = 256;

/// Receives the messages of one channel, as long as the connection lasts.
pub(crate) struct ChannelMessages {
    connection: Subscribed,
    unread: mpsc::Receiver<Bytes>,
}

enum Subscribed {
    ToServer(ManagedConnection<Server>),
    ToMaster(ManagedConnection<Sentinels>),
}

impl ChannelMessages {
    pub(super) async fn of_server(
        address: String,
        connector: Server,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let (connection, unread) = open(address, connector, timeout).await?;
        Ok(Self {
            connection: Subscribed::ToServer(connection),
            unread,
        })
    }

    pub(super) async fn of_master(
        address: String,
        connector: Sentinels,
        timeout: Duration,
    ) -> Result<Self, CallError> {
        let (connection, unread) = open(address, connector, timeout).await?;
        Ok(Self {
            connection: Subscribed::ToMaster(connection),
            unread,
        })
    }

    /// Waits for a message. Returns `None` if the connection is broken, or the channel has moved to
    /// another node.
    pub(in crate::store) async fn next(&mut self) -> Option<Bytes> {
        self.unread.recv().await
    }

    /// Returns whether the server replies on the connection.
    pub(in crate::store) async fn is_alive(&self) -> bool {
        match &self.connection {
            Subscribed::ToServer(connection) => connection.is_healthy().await,
            Subscribed::ToMaster(connection) => connection.is_healthy().await,
        }
    }
}

async fn open<C: Connector>(
    address: String,
    connector: C,
    timeout: Duration,
) -> Result<(ManagedConnection<C>, mpsc::Receiver<Bytes>), CallError> {
    let (sender, unread) = mpsc::channel(MAX_UNREAD);
    let inbox = Arc::new(Inbox(Mutex::new(Some(sender))));
    // Its own: without these messages all commands still work.
    let breaker = Arc::new(Breaker::new(address.clone()));
    let connection = ManagedConnection::new(address, connector, inbox, timeout, breaker);
    connection.get().await?;
    Ok((connection, unread))
}

/// Passes messages on until the connection breaks.
struct Inbox(Mutex<Option<mpsc::Sender<Bytes>>>);

impl PushHandler for Inbox {
    fn pushed(&self, push: &PushInfo) {
        match (&push.kind, &push.data[..]) {
            (PushKind::Message | PushKind::SMessage, [_, Value::BulkString(message)]) => {
                let sender = self.0.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sender) = &*sender {
                    let _ = sender.try_send(Bytes::copy_from_slice(message));
                }
            }
            // Never requested: the slot has moved away.
            (PushKind::SUnsubscribe, _) => self.disconnected(),
            _ => {}
        }
    }

    fn disconnected(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
