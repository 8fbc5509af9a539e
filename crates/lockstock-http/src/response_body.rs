//! Body of the responses of a layer: the body of the inner service, or one that the layer wrote.
//!
//! A type of its own, so that a layer works with any response body of the inner service and does
//! not have to convert its own bytes into that type.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

pin_project! {
    /// Body of a response: of the inner service, of a rejection, or of a recorded response.
    pub struct ResponseBody<B>
    where
        B: Body,
    {
        #[pin]
        content: Content<B>,
    }
}

pin_project! {
    #[project = ContentProjection]
    enum Content<B>
    where
        B: Body,
    {
        Inner {
            #[pin]
            body: B,
        },
        Bytes { bytes: Option<Bytes> },
        Begun {
            read: VecDeque<Result<Frame<Bytes>, B::Error>>,
            rest: Option<Pin<Box<B>>>,
        },
    }
}

impl<B: Body<Data = Bytes>> ResponseBody<B> {
    /// Wraps the body of the inner service.
    pub(crate) fn inner(body: B) -> Self {
        let content = Content::Inner { body };
        Self { content }
    }

    /// Creates a body from the frames that a layer has read, and from the rest that it has not.
    pub(crate) fn begun(
        read: impl IntoIterator<Item = Result<Frame<Bytes>, B::Error>>,
        rest: Option<Pin<Box<B>>>,
    ) -> Self {
        let read = read.into_iter().collect();
        let content = Content::Begun { read, rest };
        Self { content }
    }
}

impl<B: Body> From<Bytes> for ResponseBody<B> {
    fn from(bytes: Bytes) -> Self {
        let bytes = Some(bytes).filter(|bytes| !bytes.is_empty());
        let content = Content::Bytes { bytes };
        Self { content }
    }
}

impl<B: Body> fmt::Debug for ResponseBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseBody").finish_non_exhaustive()
    }
}

impl<B: Body<Data = Bytes>> Body for ResponseBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().content.project() {
            ContentProjection::Inner { body } => body.poll_frame(context),
            ContentProjection::Bytes { bytes } => {
                Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes))))
            }
            ContentProjection::Begun { read, rest } => match (read.pop_front(), rest) {
                (Some(frame), _) => Poll::Ready(Some(frame)),
                (None, Some(rest)) => rest.as_mut().poll_frame(context),
                (None, None) => Poll::Ready(None),
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Inner { body } => body.is_end_stream(),
            Content::Bytes { bytes } => bytes.is_none(),
            Content::Begun { read, rest } => {
                read.is_empty() && rest.as_ref().is_none_or(|rest| rest.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Inner { body } => body.size_hint(),
            Content::Bytes { bytes } => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            // Without a length, so that a client cannot take the part for the whole.
            Content::Begun { read, .. } if read.iter().any(Result::is_err) => SizeHint::new(),
            Content::Begun { read, rest } => {
                let data = read
                    .iter()
                    .filter_map(|frame| frame.as_ref().ok()?.data_ref());
                let read: u64 = data.map(|data| data.len() as u64).sum();
                let rest = rest
                    .as_ref()
                    .map_or(SizeHint::with_exact(0), |rest| rest.size_hint());
                let mut hint = SizeHint::new();
                hint.set_lower(read + rest.lower());
                if let Some(upper) = rest.upper() {
                    hint.set_upper(read + upper);
                }
                hint
            }
        }
    }
}
