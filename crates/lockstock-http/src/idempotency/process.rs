//! Processing of a claimed request, and recording of its response.
//!
//! The claim is released when the record is written. If it cannot be written, the claim is kept,
//! which prevents a second effect for the rest of its lease.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Limited};
use tokio::time::sleep;
use tower_service::Service;
use tracing::{error, warn};

use super::claim::Claim;
use super::{IdempotencyLayer, NextAction, RecordedResponse, RequestKey, TRUE};
use crate::BoxError;
use crate::lock::OutcomeUnknown;

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
    ) -> Result<Response<B>, S::Error>
    where
        S: Service<Request<R>, Response = Response<B>>,
        B: Body<Data: Send, Error: Into<BoxError>> + From<Bytes>,
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
            claim.release().await;
            if is_recorded {
                return Ok(response);
            }
            return Ok(self.recorded_or(&key, response).await);
        }
        if !is_recorded {
            if is_unknown {
                // The effect may have happened: prevent a second one for the rest of the lease.
                claim.keep().await;
            } else {
                claim.release().await;
            }
            return Ok(response);
        }
        let (response, record) = self.record(&key, response).await;
        if self.save(&key, &record).await {
            claim.release().await;
        } else {
            claim.keep().await;
        }
        Ok(response)
    }

    /// Returns the recorded response, or `response` if there is none. For a response that is not a
    /// success: another request may have succeeded after this one had looked for a record and before
    /// it had claimed the key, and the failure (a kept lock, a changed version) may be its effect.
    async fn recorded_or<B: From<Bytes>>(
        &self,
        key: &RequestKey,
        response: Response<B>,
    ) -> Response<B> {
        match self.recorded_action(key).await {
            Some(NextAction::Replay(record)) => record.replay(),
            _ => response,
        }
    }

    /// Returns the response and its record.
    async fn record<B>(
        &self,
        key: &RequestKey,
        response: Response<B>,
    ) -> (Response<B>, RecordedResponse)
    where
        B: Body<Data: Send, Error: Into<BoxError>> + From<Bytes>,
    {
        let (mut parts, body) = response.into_parts();
        let mut record = RecordedResponse::new(key, parts.status, Bytes::new());
        for name in &*self.headers {
            for value in parts.headers.get_all(name) {
                record.headers.push((name.clone(), value.clone()));
            }
        }
        let omit = |record: &mut RecordedResponse| {
            warn!(id = key.id(), "recording a response without its body");
            record.headers.retain(|(name, _)| *name != CONTENT_TYPE);
            record.headers.push((BODY_OMITTED, TRUE));
        };
        if body.size_hint().lower() > self.response_limit as u64 {
            omit(&mut record);
            return (Response::from_parts(parts, body), record);
        }
        match Limited::new(body, self.response_limit).collect().await {
            Ok(collected) => {
                record.body = collected.to_bytes();
                let body = B::from(record.body.clone());
                (Response::from_parts(parts, body), record)
            }
            // The part that was read is gone, and the effect stands: the first response equals the
            // replayed ones.
            Err(_) => {
                omit(&mut record);
                parts = record.clone().into_response::<Bytes>().into_parts().0;
                let body = B::from(Bytes::new());
                (Response::from_parts(parts, body), record)
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
