//! Messages between the clients of a store: what is published on a topic reaches all that are subscribed
//! to it at that moment.
//!
//! Not guaranteed: that a message arrives. A subscriber that is slow or disconnected misses messages.

use std::fmt;

use bytes::Bytes;

use crate::error::{Error, Result};
use crate::store::{Messages, Store};

/// Maximum length of the name of a topic.
const MAX_TOPIC_BYTES: usize = 64;

/// The messages of a topic, from [`Store::subscribe`].
pub struct Subscription(Messages);

impl Store {
    /// Publishes a message to the subscribers of `topic`. Returns how many there are; if there are
    /// none, nothing is sent.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> lockstock::Result<()> {
    /// # let store = lockstock::Store::memory();
    /// let mut subscription = store.subscribe("prices").await?;
    /// assert_eq!(store.publish("prices", b"changed").await?, 1);
    /// assert_eq!(subscription.next().await.as_deref(), Some(&b"changed"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`is_invalid`](Error::is_invalid) unless the name of the topic consists of 1 to 64 small
    /// letters, digits and hyphens; [`is_unavailable`](Error::is_unavailable) if the store does not
    /// reply, or if the user of the URL may not publish.
    pub async fn publish(&self, topic: &str, message: impl AsRef<[u8]>) -> Result<usize> {
        self.send_message(&channel(topic)?, Some(message.as_ref()))
            .await
    }

    /// Returns the number of subscribers of `topic`.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub async fn subscribers(&self, topic: &str) -> Result<usize> {
        self.send_message(&channel(topic)?, None).await
    }

    /// Subscribes to `topic`. In Redis, that takes a connection of its own and the channel
    /// `lockstock:TOPIC`, in another database than 0 `lockstock:TOPIC@DATABASE`.
    ///
    /// # Errors
    ///
    /// As [`publish`](Self::publish).
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription> {
        Ok(Subscription(self.messages(&channel(topic)?).await?))
    }
}

impl Subscription {
    /// Waits for the next message. Returns `None` if the connection to the store broke: subscribe
    /// again.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await
    }

    /// Returns whether the store replies on the connection of the subscription. A network that drops
    /// packets is not noticed otherwise.
    pub async fn is_alive(&self) -> bool {
        self.0.is_alive().await
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Subscription")
    }
}

/// Returns the channel of a topic.
fn channel(topic: &str) -> Result<String> {
    let is_valid = (1..=MAX_TOPIC_BYTES).contains(&topic.len())
        && topic
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
    if !is_valid {
        return Err(Error::invalid(
            "the name of a topic must have 1 to 64 small letters, digits and hyphens",
        ));
    }
    Ok(format!("lockstock:{topic}"))
}
