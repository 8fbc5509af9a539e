//! Messages to all subscribers of a topic in this process.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::sync::broadcast;

/// Number of messages that wait for a subscriber. One that is slower misses the oldest.
const MAX_UNREAD: usize = 256;

#[derive(Default)]
pub(in crate::store) struct Topics(HashMap<String, broadcast::Sender<Bytes>>);

impl Topics {
    /// Publishes a message, if there is one. Returns the number of subscribers.
    pub(in crate::store) fn publish(&mut self, channel: &str, message: Option<&[u8]>) -> usize {
        let Some(sender) = self.0.get(channel) else {
            return 0;
        };
        let count = sender.receiver_count();
        if count == 0 {
            self.0.remove(channel);
        } else if let Some(message) = message {
            let _ = sender.send(Bytes::copy_from_slice(message));
        }
        count
    }

    pub(in crate::store) fn subscribe(&mut self, channel: &str) -> broadcast::Receiver<Bytes> {
        let sender = self.0.entry(channel.to_owned());
        let sender = sender.or_insert_with(|| broadcast::Sender::new(MAX_UNREAD));
        sender.subscribe()
    }
}
