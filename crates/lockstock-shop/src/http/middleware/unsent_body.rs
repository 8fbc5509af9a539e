//! Response bodies that a client does not read.
//!
//! A response is in memory until it is sent. A client of HTTP/2 decides when each of its hundred
//! requests is: it could keep a hundred lists of products for as long as its connection is open.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, mem};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::ready;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{Instrument, Span, debug};

/// The size of a body that may stay in memory for as long as its connection.
const MAX_UNTIMED_BYTES: u64 = 64 * 1024;
/// How much of a body is passed on at once, because what was passed on counts as read.
const PIECE_BYTES: usize = 16 * 1024;

/// Drops the body of a response as soon as none of it was read for `timeout`, and with it the stream or
/// the connection. Small bodies are kept, and those whose length is unknown, which are not in memory as a
/// whole.
pub(super) fn drop_unread(response: Response, timeout: Duration, span: Span) -> Response {
    let is_large = |size| size > MAX_UNTIMED_BYTES;
    if !response.body().size_hint().exact().is_some_and(is_large) {
        return response;
    }
    response.map(|body| {
        let unsent = Arc::new(Mutex::new(Unsent {
            piece: Bytes::new(),
            rest: Some(body),
            was_read: false,
        }));
        let watch = watch(unsent.clone(), timeout).instrument(span);
        Body::new(Watched {
            unsent,
            watch: tokio::spawn(watch),
        })
    })
}

/// What is left of a body.
struct Unsent {
    piece: Bytes,
    /// `None` after the timeout.
    rest: Option<Body>,
    /// Whether some of it was read since the last look.
    was_read: bool,
}

struct Watched {
    unsent: Arc<Mutex<Unsent>>,
    watch: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

async fn watch(unsent: Arc<Mutex<Unsent>>, timeout: Duration) {
    loop {
        sleep(timeout).await;
        let mut unsent = lock(&unsent);
        if !mem::take(&mut unsent.was_read) {
            debug!("the client reads no more of the response: dropped");
            (unsent.piece, unsent.rest) = (Bytes::new(), None);
            return;
        }
    }
}

fn lock(unsent: &Mutex<Unsent>) -> MutexGuard<'_, Unsent> {
    unsent.lock().unwrap_or_else(PoisonError::into_inner)
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut unsent = lock(&self.unsent);
        let unsent = &mut *unsent;
        unsent.was_read = true;
        let Some(rest) = &mut unsent.rest else {
            let dropped = io::Error::from(io::ErrorKind::TimedOut);
            return Poll::Ready(Some(Err(axum::Error::new(dropped))));
        };
        if unsent.piece.is_empty() {
            let frame = match ready!(Pin::new(rest).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => unsent.piece = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let at = unsent.piece.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(unsent.piece.split_to(at)))))
    }

    fn size_hint(&self) -> SizeHint {
        let unsent = lock(&self.unsent);
        let rest = unsent
            .rest
            .as_ref()
            .and_then(|rest| rest.size_hint().exact());
        let piece = unsent.piece.len() as u64;
        SizeHint::with_exact(piece + rest.unwrap_or_default())
    }
}
