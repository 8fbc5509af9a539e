//! Processing of a claimed request, and recording of its response.
//!
//! The claim is released when the record is written. If it cannot be written, the claim is kept,
//! which prevents a second effect for the rest of its lease.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, CONTENT_LOCATION};
use http::{HeaderName, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use tokio::time::sleep;
use tower_service::Service;
use tracing::{error, warn};

use super::claim::Claim;
use super::look_up::NextAction;
use super::{IdempotencyLayer, RECORDED_HEADERS, RecordedResponse, RequestKey, TRUE};
use crate::language::Language;
use crate::lock::{NothingWritten, OutcomeUnknown};
use crate::rejection::Rejection;
use crate::response_body::ResponseBody;

/// Pauses before a failed write of a record is retried.
const RETRY_DELAYS: [Duration; 2] = [Duration::from_millis(100), Duration::from_millis(400)];

const BODY_OMITTED: HeaderName = HeaderName::from_static("idempotent-body-omitted");

impl IdempotencyLayer {
    pub(super) async fn process<S, R, B>(
        self: Arc<Self>,
        mut inner: S,
        request: Request<R>,
        key: RequestKey,
        claim: Claim,
        language: Language,
    ) -> Result<Response<ResponseBody<B>>, S::Error>
    where
        S: Service<Request<R>, Response = Response<B>>,
        B: Body<Data = Bytes>,
    {
        let (parts, body) = match inner.call(request).await {
            Ok(response) => response.into_parts(),
            Err(error) => {
                claim.release().await;
                return Err(error);
            }
        };
        let is_recorded = (self.record_if)(&parts);
        let is_unknown = parts.extensions.get::<OutcomeUnknown>().is_some();
        let response = Response::from_parts(parts, body);
        if self.transactional {
            if is_recorded {
                // Released in the background: other requests find the record.
                drop(claim);
                return Ok(response.map(ResponseBody::inner));
            }
            claim.release().await;
            let mut response = self.recorded_or(&key, response, language).await;
            if is_unknown {
                // The record may be that of this request.
                response.extensions_mut().remove::<NothingWritten>();
            }
            return Ok(response);
        }
        if !is_recorded {
            if is_unknown {
                // The effect may have happened: prevent a second one for the rest of the lease.
                claim.keep().await;
            } else {
                claim.release().await;
            }
            return Ok(response.map(ResponseBody::inner));
        }
        let (response, record) = self.record(&key, response).await;
        if self.save(&key, &record).await {
            claim.release().await;
        } else {
            claim.keep().await;
        }
        Ok(response)
    }

    /// Returns what the record of the request implies, or `response` if there is none. For a response
    /// that is not a success: another request may have succeeded before this one had claimed the key, and
    /// the failure (a kept lock, a changed version) may be its effect. If that cannot be found out, a
    /// failure that looks final is not returned.
    async fn recorded_or<B: Body<Data = Bytes>>(
        &self,
        key: &RequestKey,
        response: Response<B>,
        language: Language,
    ) -> Response<ResponseBody<B>> {
        match self.recorded_action(key).await {
            Some(NextAction::Replay(record)) => record.replay(),
            Some(NextAction::Reject(Rejection::StoreUnavailable { .. }))
                if response.status().is_server_error() =>
            {
                response.map(ResponseBody::inner)
            }
            Some(NextAction::Reject(rejection)) => self.on_rejection.respond(rejection, language),
            _ => response.map(ResponseBody::inner),
        }
    }

    /// Returns the response and its record.
    async fn record<B: Body<Data = Bytes>>(
        &self,
        key: &RequestKey,
        response: Response<B>,
    ) -> (Response<ResponseBody<B>>, RecordedResponse) {
        let (parts, body) = response.into_parts();
        let mut record = RecordedResponse::new(key, parts.status, Bytes::new());
        for (name, value) in &parts.headers {
            if self.records_header(name) {
                record.headers.push((name.clone(), value.clone()));
            }
        }
        let body = match self.read_response(body).await {
            Ok(read) => {
                record.body = read.clone();
                ResponseBody::from(read)
            }
            Err(body) => {
                warn!(
                    id = key.id(),
                    limit = self.response_limit,
                    "recording a response without its body, which is over the limit or broke off"
                );
                record.headers.retain(|(name, _)| !describes_body(name));
                record.headers.push((BODY_OMITTED, TRUE));
                body
            }
        };
        (Response::from_parts(parts, body), record)
    }

    fn records_header(&self, name: &HeaderName) -> bool {
        let belongs_to_body = name.as_str().starts_with("content-") && *name != CONTENT_LENGTH;
        belongs_to_body || RECORDED_HEADERS.contains(name) || self.headers.contains(name)
    }

    /// Returns the whole body without its trailers; or the body to pass on, if it is over the limit or
    /// breaks off.
    async fn read_response<B: Body<Data = Bytes>>(
        &self,
        body: B,
    ) -> Result<Bytes, ResponseBody<B>> {
        if body.size_hint().lower() > self.response_limit as u64 {
            return Err(ResponseBody::inner(body));
        }
        let mut body = Box::pin(body);
        let mut frames = Vec::new();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            if let Ok(frame) = &frame {
                length += frame.data_ref().map_or(0, Bytes::len);
            }
            let is_broken = frame.is_err();
            frames.push(frame);
            if is_broken {
                return Err(ResponseBody::begun(frames, None));
            }
            if length > self.response_limit {
                return Err(ResponseBody::begun(frames, Some(body)));
            }
        }
        let mut data = frames
            .into_iter()
            .flatten()
            .filter_map(|frame| frame.into_data().ok());
        match (data.next(), data.next()) {
            (None, _) => Ok(Bytes::new()),
            (Some(only), None) => Ok(only),
            (Some(first), Some(second)) => {
                let mut whole = BytesMut::with_capacity(length);
                for data in [first, second].into_iter().chain(data) {
                    whole.extend_from_slice(&data);
                }
                Ok(whole.freeze())
            }
        }
    }

    /// Writes the record, and returns whether that succeeded. Retries, because the effect cannot be
    /// undone.
    async fn save(&self, key: &RequestKey, record: &RecordedResponse) -> bool {
        let mut delays = RETRY_DELAYS.iter();
        loop {
            let Err(error) = self.records.save(key, record).await else {
                return true;
            };
            let Some(delay) = delays.next() else {
                error!(id = key.id(), error, "the response could not be recorded");
                return false;
            };
            sleep(*delay).await;
        }
    }
}

/// Whether a header would be wrong in a response without its body.
fn describes_body(name: &HeaderName) -> bool {
    let is_content = name.as_str().starts_with("content-") && *name != CONTENT_LOCATION;
    is_content || matches!(name.as_str(), "digest" | "repr-digest")
}
