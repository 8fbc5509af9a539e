//! Request bodies that no handler reads to their end.
//!
//! A response is sent as soon as it is decided, by the head if possible. If the connection were
//! closed at that moment, a client that is still sending would find it broken and never read the
//! response. The rest of the body is therefore read and discarded in the background.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::drf::body::BodyLimits;

/// How much of a body is discarded.
const MAX_DISCARDED_BYTES: usize = 1 << 20;

/// Returns a body whose rest is discarded when it is dropped. A client that waits for
/// `100 Continue` sends nothing after another response.
pub(super) fn discard(body: Body, expects_continue: bool, limits: BodyLimits) -> Body {
    if body.is_end_stream() || expects_continue {
        return body;
    }
    Body::new(Discarded {
        rest: Some(body),
        limits,
    })
}

struct Discarded {
    /// `None` after the end.
    rest: Option<Body>,
    limits: BodyLimits,
}

impl HttpBody for Discarded {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let Some(rest) = &mut self.rest else {
            return Poll::Ready(None);
        };
        let polled = Pin::new(rest).poll_frame(context);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            self.rest = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.as_ref().is_none_or(HttpBody::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.rest
            .as_ref()
            .map_or(SizeHint::with_exact(0), HttpBody::size_hint)
    }
}

impl Drop for Discarded {
    fn drop(&mut self) {
        let rest = self.rest.take().filter(|rest| !rest.is_end_stream());
        if let (Some(rest), Ok(runtime)) = (rest, Handle::try_current()) {
            let discard = timeout(self.limits.timeout, read_to_end(rest));
            runtime.spawn(async { drop(discard.await) });
        }
    }
}

async fn read_to_end(mut body: Body) {
    let mut discarded = 0;
    while let Some(Ok(frame)) = body.frame().await {
        discarded += frame.data_ref().map_or(0, Bytes::len);
        if discarded > MAX_DISCARDED_BYTES {
            return;
        }
    }
}
