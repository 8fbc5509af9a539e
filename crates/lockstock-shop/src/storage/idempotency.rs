//! Idempotency keys, and the responses recorded under them.

use std::sync::Arc;
use std::time::Duration;

/// How long a refusal under a key is kept: longer than any try of the key can take.
pub(super) const REFUSAL_RETENTION: Duration = Duration::from_secs(24 * 3600);

/// The idempotency key of a request that takes effect once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdempotencyKey {
    /// The caller. Each caller has its own keys.
    pub caller: Arc<str>,
    /// The key that the caller sent.
    pub key: Arc<str>,
}

/// The idempotency of a write: its key, and the response to record under the key.
#[derive(Debug)]
pub struct IdempotentWrite<T> {
    /// The key of the write.
    pub key: IdempotencyKey,
    /// The fingerprint of the request.
    pub fingerprint: [u8; 32],
    /// Returns the response to record, given the outcome; `None` if the write had no effect.
    pub response: fn(&T) -> Option<Vec<u8>>,
}

impl<T> Clone for IdempotentWrite<T> {
    fn clone(&self) -> Self {
        Self {
            key: self.key.clone(),
            ..*self
        }
    }
}

impl<T> IdempotentWrite<T> {
    /// Returns the record of the write, given its outcome.
    pub(super) fn record(&self, outcome: &T) -> Option<ResponseRecord> {
        (self.response)(outcome).map(|response| ResponseRecord {
            fingerprint: self.fingerprint,
            response,
        })
    }
}

/// The response recorded under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResponseRecord {
    /// The fingerprint of the request.
    pub fingerprint: [u8; 32],
    /// The response, as [`IdempotentWrite::response`] returned it.
    pub response: Vec<u8>,
}

impl ResponseRecord {
    /// Creates a record from a row. A fingerprint of a wrong length becomes one that no request has.
    pub(super) fn new(fingerprint: Vec<u8>, response: Vec<u8>) -> Self {
        Self {
            fingerprint: fingerprint.try_into().unwrap_or_default(),
            response,
        }
    }

    /// Reads a row of caller, key, fingerprint and response.
    pub(super) fn from_row(row: (String, String, Vec<u8>, Vec<u8>)) -> (IdempotencyKey, Self) {
        let (caller, key, fingerprint, response) = row;
        let key = IdempotencyKey {
            caller: caller.into(),
            key: key.into(),
        };
        (key, Self::new(fingerprint, response))
    }
}
