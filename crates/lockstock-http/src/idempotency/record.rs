//! Recorded responses and their encoding.
//!
//! Guarantees: [`RecordedResponse::from_bytes`] reads what [`RecordedResponse::to_bytes`] has
//! written, and fails for other bytes, including truncated records.
//!
//! The encoding is one version byte and then the fields in the
//! [format of postcard](https://postcard.jamesmunns.com/wire-format):
//!
//! ```text
//! 1               version
//! 32 bytes        fingerprint of the request
//! varint          status
//! varint          number of headers; for each: length and bytes of the name, of the value
//! varint, bytes   body
//! ```

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode};
use serde::{Deserialize, Serialize, Serializer};

use super::RequestKey;
use crate::lock::NothingWritten;

const VERSION: u8 = 1;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Response to a request with an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedResponse {
    /// Content of the request: [`RequestKey::fingerprint`].
    pub fingerprint: [u8; 32],
    /// Status of the response.
    pub status: StatusCode,
    /// Recorded headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whole body.
    pub body: Bytes,
}

/// Error for bytes that are not a [`RecordedResponse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes are not a recorded response, or have an unknown version")
    }
}

impl std::error::Error for Malformed {}

impl RecordedResponse {
    /// Creates a response to the request of `key`, without headers.
    pub fn new(key: &RequestKey, status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            fingerprint: key.fingerprint,
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Encodes the response. The encoding is compact and the same on every machine.
    ///
    /// ```
    /// use http::{HeaderValue, StatusCode, header::LOCATION};
    /// use lockstock_http::{RecordedResponse, RequestKey};
    ///
    /// # let key = RequestKey { caller: String::new(), key: "k".to_owned(), fingerprint: [7; 32] };
    /// let record = RecordedResponse::new(&key, StatusCode::CREATED, r#"{"id": 1}"#)
    ///     .header(LOCATION, HeaderValue::from_static("/payments/1/"));
    /// assert_eq!(RecordedResponse::from_bytes(record.to_bytes()), Ok(record));
    /// ```
    pub fn to_bytes(&self) -> Bytes {
        let headers = self.headers.iter();
        let fields = Fields {
            fingerprint: self.fingerprint,
            status: self.status.as_u16(),
            headers: headers
                .map(|(name, value)| (Slice(name.as_str().as_bytes()), Slice(value.as_bytes())))
                .collect(),
            body: Slice(&self.body),
        };
        let mut bytes = Vec::with_capacity(128 + self.body.len());
        bytes.push(VERSION);
        postcard::to_extend(&fields, bytes)
            .expect("every field has a known length")
            .into()
    }

    /// Decodes what [`to_bytes`](Self::to_bytes) has written.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for other bytes.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Malformed> {
        decode(&bytes.into()).ok_or(Malformed)
    }

    /// Converts into the response to a repeated request, with `Idempotent-Replayed: true` and the
    /// extension [`NothingWritten`]. For handlers whose transaction finds that the same request has used
    /// the key before: compare the [fingerprint](Self::fingerprint) first.
    pub fn replay<B: From<Bytes>>(self) -> Response<B> {
        let mut response = self.into_response();
        let replayed = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, replayed);
        response.extensions_mut().insert(NothingWritten);
        response
    }

    /// Converts into the response to the first request.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

/// Encoded fields behind the version byte.
#[derive(Serialize, Deserialize)]
struct Fields<'a> {
    fingerprint: [u8; 32],
    status: u16,
    #[serde(borrow)]
    headers: Vec<(Slice<'a>, Slice<'a>)>,
    body: Slice<'a>,
}

/// Bytes that serde handles at once and not one by one.
#[derive(Deserialize)]
struct Slice<'a>(&'a [u8]);

impl Serialize for Slice<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

fn decode(bytes: &Bytes) -> Option<RecordedResponse> {
    let (&VERSION, fields) = bytes.split_first()? else {
        return None;
    };
    let (fields, trailing) = postcard::take_from_bytes::<Fields>(fields).ok()?;
    if !trailing.is_empty() {
        return None;
    }
    let header = |(name, value): (Slice, Slice)| {
        let name = HeaderName::from_bytes(name.0).ok()?;
        let value = HeaderValue::from_maybe_shared(bytes.slice_ref(value.0)).ok()?;
        Some((name, value))
    };
    Some(RecordedResponse {
        fingerprint: fields.fingerprint,
        status: StatusCode::from_u16(fields.status).ok()?,
        headers: fields
            .headers
            .into_iter()
            .map(header)
            .collect::<Option<_>>()?,
        body: bytes.slice_ref(fields.body.0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(body: Vec<u8>) -> RecordedResponse {
        RecordedResponse {
            fingerprint: [0xab; 32],
            status: StatusCode::CREATED,
            headers: vec![
                (http::header::ETAG, HeaderValue::from_static("\"1\"")),
                (
                    HeaderName::from_static("x-odd"),
                    HeaderValue::from_bytes(b"\xff").unwrap(),
                ),
            ],
            body: body.into(),
        }
    }

    /// Databases contain such bytes.
    #[test]
    fn the_encoding_does_not_change() {
        let body = "b".repeat(130);
        let mut bytes = vec![1];
        bytes.extend([0xab; 32]);
        // 201 in two bytes, and two headers.
        bytes.extend(b"\xc9\x01\x02\x04etag\x03\"1\"\x05x-odd\x01\xff");
        bytes.extend(b"\x82\x01");
        bytes.extend(body.as_bytes());
        let record = record(body.into_bytes());
        assert_eq!(record.to_bytes(), bytes);
        assert_eq!(RecordedResponse::from_bytes(bytes), Ok(record));
    }

    #[test]
    fn the_announced_number_of_headers_is_not_trusted() {
        // Version, fingerprint, status 200, then 2^62 headers.
        let mut bytes = vec![1; 33];
        bytes.extend(b"\xc8\x01\x80\x80\x80\x80\x80\x80\x80\x80\x40");
        assert_eq!(RecordedResponse::from_bytes(bytes), Err(Malformed));
    }

    #[test]
    fn an_encoded_response_is_decoded() {
        for length in [0, 1, 127, 128, 16_384, 70_000] {
            let record = record(vec![b'x'; length]);
            assert_eq!(RecordedResponse::from_bytes(record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn truncated_or_foreign_bytes_are_malformed() {
        let whole = record(b"body".to_vec()).to_bytes();
        for length in 0..whole.len() {
            assert_eq!(
                RecordedResponse::from_bytes(whole.slice(..length)),
                Err(Malformed),
                "{length}"
            );
        }
        let more = [&whole[..], b"x"].concat();
        assert_eq!(RecordedResponse::from_bytes(more), Err(Malformed));
        for foreign in [
            &b""[..],
            b"\x02",
            b"{\"status\": 201}",
            &[0xff; 100],
            &[1; 34],
        ] {
            assert_eq!(
                RecordedResponse::from_bytes(foreign.to_vec()),
                Err(Malformed)
            );
        }
        // No change of a single byte causes a panic.
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                let _ = RecordedResponse::from_bytes(changed);
            }
        }
    }
}
