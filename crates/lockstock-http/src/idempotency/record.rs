//! What a request was answered, to be answered again.
//!
//! Guarantees: bytes that [`RecordedResponse::to_bytes`] has written are read as the same record; any
//! others are an error, truncated ones included.
//!
//! ```text
//! 1               version
//! 32 bytes        fingerprint of the request
//! number          status
//! number          how many headers; of each: text name, text value
//! text            body
//! ```
//!
//! A number is in LEB128, seven bits a byte, the lowest first. A text is its length and its
//! bytes.

use bytes::{Buf, Bytes};
use http::{HeaderName, HeaderValue, Response, StatusCode};

use super::RequestKey;

const VERSION: u8 = 1;

const REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The answer to a request with an `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedResponse {
    /// Which request it answers: [`RequestKey::fingerprint`].
    pub fingerprint: [u8; 32],
    /// The status of the answer.
    pub status: StatusCode,
    /// Those headers that are answered again.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The whole body.
    pub body: Bytes,
}

/// Bytes that are no [`RecordedResponse`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("the bytes are no record of an answer, or one of another version")
    }
}

impl std::error::Error for Malformed {}

impl RecordedResponse {
    /// The answer to the request of that key, without headers.
    pub fn new(key: &RequestKey, status: StatusCode, body: impl Into<Bytes>) -> Self {
        Self {
            fingerprint: key.fingerprint,
            status,
            headers: Vec::new(),
            body: body.into(),
        }
    }

    /// Adds a header that is answered again.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The record as it is kept: compact, and the same on every machine.
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
        let mut bytes = Vec::with_capacity(128 + self.body.len());
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.fingerprint);
        put_number(&mut bytes, usize::from(self.status.as_u16()));
        put_number(&mut bytes, self.headers.len());
        for (name, value) in &self.headers {
            put_text(&mut bytes, name.as_str().as_bytes());
            put_text(&mut bytes, value.as_bytes());
        }
        put_text(&mut bytes, &self.body);
        bytes.into()
    }

    /// Reads what [`to_bytes`](Self::to_bytes) has written.
    ///
    /// # Errors
    ///
    /// [`Malformed`] for anything else.
    pub fn from_bytes(bytes: impl Into<Bytes>) -> Result<Self, Malformed> {
        let bytes = &mut bytes.into();
        read(bytes).filter(|_| bytes.is_empty()).ok_or(Malformed)
    }

    /// The same answer again, with `Idempotent-Replayed: true`. For handlers that find in their
    /// transaction that the key was used meanwhile, by the same request: compare the
    /// [fingerprint](Self::fingerprint).
    pub fn replay<B: From<Bytes>>(self) -> Response<B> {
        let mut response = self.into_response();
        let again = HeaderValue::from_static("true");
        response.headers_mut().insert(REPLAYED, again);
        response
    }

    /// The answer that it is a record of. What is shown once can be made from what is recorded.
    pub fn into_response<B: From<Bytes>>(self) -> Response<B> {
        let mut response = Response::new(B::from(self.body));
        *response.status_mut() = self.status;
        for (name, value) in self.headers {
            response.headers_mut().append(name, value);
        }
        response
    }
}

fn put_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

fn put_text(bytes: &mut Vec<u8>, text: &[u8]) {
    put_number(bytes, text.len());
    bytes.extend_from_slice(text);
}

fn read(bytes: &mut Bytes) -> Option<RecordedResponse> {
    if bytes.try_get_u8().ok()? != VERSION {
        return None;
    }
    let mut fingerprint = [0; 32];
    bytes.try_copy_to_slice(&mut fingerprint).ok()?;
    let status = u16::try_from(number(bytes)?).ok()?;
    let status = StatusCode::from_u16(status).ok()?;
    // No room is made for as many as are announced: they may be a lie.
    let mut headers = Vec::new();
    for _ in 0..number(bytes)? {
        let name = HeaderName::from_bytes(&text(bytes)?).ok()?;
        let value = HeaderValue::from_maybe_shared(text(bytes)?).ok()?;
        headers.push((name, value));
    }
    Some(RecordedResponse {
        fingerprint,
        status,
        headers,
        body: text(bytes)?,
    })
}

fn number(bytes: &mut Bytes) -> Option<usize> {
    let mut number = 0;
    // More than 2^63 nobody has written.
    for shift in (0..63).step_by(7) {
        let byte = bytes.try_get_u8().ok()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return usize::try_from(number).ok();
        }
    }
    None
}

fn text(bytes: &mut Bytes) -> Option<Bytes> {
    let length = number(bytes)?;
    (length <= bytes.len()).then(|| bytes.split_to(length))
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

    #[test]
    fn what_was_written_is_read() {
        for length in [0, 1, 127, 128, 16_384, 70_000] {
            let record = record(vec![b'x'; length]);
            assert_eq!(RecordedResponse::from_bytes(record.to_bytes()), Ok(record));
        }
    }

    #[test]
    fn truncated_or_foreign_bytes_are_an_error() {
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
        // Each byte changed to anything: read or not, never a panic.
        for at in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.to_vec();
                changed[at] = byte;
                let _ = RecordedResponse::from_bytes(changed);
            }
        }
    }
}
