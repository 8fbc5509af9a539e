//! Answers that can be recorded and given again: a status, a few headers, a body of JSON.

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, StatusCode};
use lockstock_http::Record;
use serde::Serialize;

const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The answer that shows `body`.
pub(crate) fn shown(status: StatusCode, body: &impl Serialize) -> Record {
    Record {
        // Of which request is noted beside it.
        fingerprint: [0; 32],
        status,
        headers: vec![(CONTENT_TYPE, JSON)],
        // Our own shapes have nothing that JSON has not.
        body: serde_json::to_vec(body).unwrap_or_default().into(),
    }
}
