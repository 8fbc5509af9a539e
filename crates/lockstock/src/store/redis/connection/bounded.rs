//! A bound on what a server can make an asynchronous connection store.
//!
//! The redis crate reads the replies, and accepts one of any length. So their framing is followed on
//! their way there: a reply that costs too much to read ends the connection before its data arrive.
//!
//! Guarantees: each reply and each push message has the whole limit, however many are on their way.
//!
//! Not guaranteed: a limit for the replies to several commands, each of which may be large. The data
//! of one string are in memory twice when it is complete.
//!
//! A read looks at the lines of the replies, not at their data. It copies and allocates nothing, except for
//! a line that arrives in two pieces.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use redis::{PushInfo, PushKind, Value};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tracing::debug;

use super::direct::{Framing, Reading, ReplyError};

/// The maximum size of all subscriptions that a server confirms on one connection. The redis crate
/// stores each, and those of all slots of a Cluster take 3 MiB.
const MAX_SUBSCRIPTION_BYTES: usize = 64 * 1024 * 1024;
/// What a subscription costs in addition to the name of its channel, which is stored twice.
const SUBSCRIPTION_BYTES: usize = 128;

/// The subscriptions that a server has confirmed. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Confirmed {
    bytes: Arc<AtomicUsize>,
}

impl Confirmed {
    /// Counts a push message.
    pub(super) fn count(&self, push: &PushInfo) {
        let adds = matches!(
            push.kind,
            PushKind::Subscribe | PushKind::PSubscribe | PushKind::SSubscribe
        );
        if let (true, Some(Value::BulkString(channel))) = (adds, push.data.first()) {
            let bytes = 2 * channel.len() + SUBSCRIPTION_BYTES;
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn is_too_large(&self) -> bool {
        self.bytes.load(Ordering::Relaxed) > MAX_SUBSCRIPTION_BYTES
    }
}

/// A stream whose reads fail once the server has sent too much.
pub(super) struct Bounded<S> {
    stream: S,
    framing: Framing,
    confirmed: Confirmed,
}

impl<S> Bounded<S> {
    pub(super) fn new(stream: S, confirmed: Confirmed) -> Self {
        Self {
            stream,
            framing: Framing::new(Reading::REDIS_CRATE),
            confirmed,
        }
    }

    fn check(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        if self.confirmed.is_too_large() {
            return Err(malformed("it confirms too many subscriptions"));
        }
        loop {
            match self.framing.advance(bytes) {
                Ok(Some(length)) => bytes = &bytes[length..],
                Ok(None) => return Ok(()),
                Err(ReplyError::Malformed(reason)) => return Err(malformed(reason)),
                Err(ReplyError::Io(error)) => return Err(error),
            }
        }
    }
}

fn malformed(reason: &str) -> io::Error {
    debug!(
        reason,
        "a connection to Redis is closed: the reply is malformed"
    );
    let reason = format!("the reply is malformed: {reason}");
    io::Error::new(ErrorKind::InvalidData, reason)
}

impl<S: AsyncRead + Unpin> AsyncRead for Bounded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let checked = self.check(&buffer.filled()[before..]);
        if checked.is_err() {
            buffer.set_filled(before);
        }
        Poll::Ready(checked)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bounded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn nothing_is_read_behind_what_is_malformed() {
        let bytes = b"+OK\r\n:1\r\n$536870912\r\nxxx";
        let mut stream = Bounded::new(&bytes[..], Confirmed::default());
        // The length has not ended.
        let mut read = [0; 18];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!(read, bytes[..18]);
        let error = stream.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
    }

    #[tokio::test]
    async fn subscriptions_are_counted_with_their_names() {
        let confirmed = Confirmed::default();
        let mut stream = Bounded::new(tokio::io::repeat(b'+'), confirmed.clone());
        let mut push = PushInfo {
            kind: PushKind::Message,
            data: vec![Value::BulkString(vec![b'x'; MAX_SUBSCRIPTION_BYTES / 8])],
        };
        for _ in 0..10 {
            confirmed.count(&push);
        }
        push.kind = PushKind::SSubscribe;
        for _ in 0..3 {
            confirmed.count(&push);
        }
        stream.read_u8().await.unwrap();
        confirmed.count(&push);
        let error = stream.read_u8().await.unwrap_err();
        assert!(error.to_string().contains("subscriptions"), "{error}");
    }
}
