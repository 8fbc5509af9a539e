//! Messages to all clients that are subscribed to a topic, over a channel in Redis.

use std::borrow::Cow;

use tokio::time::Instant;

use super::connection::{ChannelMessages, Eval};
use super::{Redis, scripts};
use crate::error::Result;

impl Redis {
    /// Publishes a message, unless the channel has no subscribers. Returns how many it has. Without a
    /// message, only counts them.
    pub(in crate::store) async fn publish(
        &self,
        channel: &str,
        message: Option<&[u8]>,
    ) -> Result<usize> {
        let channel = &*self.channel_here(channel);
        let is_cluster = self.connection.slot_of().is_some();
        let command = |eval: Eval| {
            let mut cmd = eval.command(&scripts::PUBLISH);
            cmd.arg(1).arg(channel).arg(u8::from(is_cluster));
            if let Some(message) = message {
                cmd.arg(message);
            }
            cmd
        };
        let deadline = Instant::now() + self.timeout;
        let reply = self.connection.run(Eval::Sha, command, deadline).await?;
        Ok(reply.value)
    }

    /// Subscribes to a channel, on a connection of its own.
    pub(in crate::store) async fn subscribe(&self, channel: &str) -> Result<ChannelMessages> {
        self.connection
            .messages_of(&self.channel_here(channel))
            .await
    }

    /// Returns the name of a channel of this database. The databases of a server share its channels.
    fn channel_here<'a>(&self, channel: &'a str) -> Cow<'a, str> {
        match self.connection.database() {
            0 => channel.into(),
            database => format!("{channel}@{database}").into(),
        }
    }
}
