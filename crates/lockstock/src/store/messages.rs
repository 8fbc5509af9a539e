//! Publishing and receiving messages, by backend.

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::redis::ChannelMessages;
use super::{Backend, Store};
use crate::error::Result;

/// The messages of a channel.
pub(crate) enum Messages {
    Memory(broadcast::Receiver<Bytes>),
    Redis(ChannelMessages),
}

impl Store {
    pub(crate) async fn send_message(
        &self,
        channel: &str,
        message: Option<&[u8]>,
    ) -> Result<usize> {
        match &self.inner.backend {
            Backend::Memory(memory) => Ok(memory.topics().publish(channel, message)),
            Backend::Redis(redis) => redis.publish(channel, message).await,
            Backend::Direct(direct) => direct.link()?.publish(channel, message).await,
        }
    }

    pub(crate) async fn messages(&self, channel: &str) -> Result<Messages> {
        Ok(match &self.inner.backend {
            Backend::Memory(memory) => Messages::Memory(memory.topics().subscribe(channel)),
            Backend::Redis(redis) => Messages::Redis(redis.subscribe(channel).await?),
            Backend::Direct(direct) => Messages::Redis(direct.link()?.subscribe(channel).await?),
        })
    }
}

impl Messages {
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        match self {
            Self::Memory(receiver) => loop {
                match receiver.recv().await {
                    Ok(message) => return Some(message),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            },
            Self::Redis(messages) => messages.next().await,
        }
    }

    pub(crate) async fn is_alive(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            Self::Redis(messages) => messages.is_alive().await,
        }
    }
}
