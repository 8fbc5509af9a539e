//! The body of a request: read within limits of size and time, then parsed as JSON, as a form
//! or as multipart, depending on its `Content-Type`.
//!
//! As in DRF, an empty body is an empty form, independent of its type.

use std::borrow::Cow;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Display;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;
use crate::error::sentences::{self, Sentence};

/// Limits on reading a body.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    pub(crate) timeout: Duration,
}

/// How much of a body that is too large is read and discarded, so that the client can finish
/// sending it and read the response.
const DISCARDED_BYTES: usize = 1 << 20;

impl<S> FromRequest<S> for Fields
where
    BodyLimits: FromRef<S>,
    S: Sync,
{
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        parse_body(BodyLimits::from_ref(state), &parts.headers, body).await
    }
}

/// Reads the body and parses its fields.
pub(crate) async fn parse_body(
    limits: BodyLimits,
    headers: &HeaderMap,
    body: Body,
) -> Result<Fields, ApiError> {
    let bytes = read(headers, body, limits).await?;
    Fields::parse(headers, bytes).await
}

/// Reads the body. Called before a lock is acquired, so that a slow client blocks no other.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let content_length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let deadline = Instant::now() + limits.timeout;
    let mut read = Vec::with_capacity(content_length.unwrap_or_default().min(limits.max_bytes));
    let mut discarded = 0;
    loop {
        let frame = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| ApiError::body_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request(sentences::BODY_ENDED_EARLY))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if discarded == 0 && read.len() + data.len() <= limits.max_bytes {
            read.extend_from_slice(data);
        } else {
            discarded += data.len();
        }
        if discarded > DISCARDED_BYTES {
            break;
        }
    }
    if discarded > 0 {
        return Err(ApiError::body_too_large(limits.max_bytes));
    }
    Ok(read.into())
}

/// The fields of a body.
#[derive(Debug, Default)]
pub(crate) struct Fields(HashMap<String, FieldValue>);

/// The value of one field.
#[derive(Debug)]
pub(crate) enum FieldValue {
    Null,
    /// A JSON number, unparsed.
    Number(String),
    /// A JSON string.
    Text(String),
    /// The value of a form field, which is always text.
    Input(String),
    /// Neither text nor a number: a boolean, a list, an object, an uploaded file.
    Other,
}

impl Fields {
    /// Parses `bytes` as their `Content-Type` demands.
    pub(crate) async fn parse(headers: &HeaderMap, bytes: Bytes) -> Result<Self, ApiError> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let content_type = headers
            .get(CONTENT_TYPE)
            .map(|value| latin1(value.as_bytes()))
            .unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/json" => json_fields(&bytes),
            "application/x-www-form-urlencoded" => Ok(form_fields(&bytes)),
            "multipart/form-data" => multipart_fields(&content_type, bytes).await,
            _ => Err(ApiError::unsupported_media_type(&content_type)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Option<&FieldValue> {
        self.0.get(name)
    }
}

fn json_fields(bytes: &[u8]) -> Result<Fields, ApiError> {
    let text = str::from_utf8(bytes).map_err(|error| malformed_json(&error))?;
    // Not a `Value`, which takes an object with a private key of serde_json for a number or for
    // raw JSON, and fails at a depth of 128 even in fields that are ignored.
    let json: &RawValue = serde_json::from_str(text).map_err(|error| malformed_json(&error))?;
    // The names of Python's types, as in DRF's message.
    let kind = match json.get().as_bytes() {
        [b'{', ..] => return object_fields(json).map_err(|error| malformed_json(&error)),
        [b'n', ..] => return Err(not_an_object("No data provided".into())),
        [b't' | b'f', ..] => "bool",
        [b'"', ..] => "str",
        [b'[', ..] => "list",
        _ if is_float(json.get()) => "float",
        _ => "int",
    };
    Err(not_an_object(sentences::not_an_object(kind)))
}

fn object_fields(object: &RawValue) -> serde_json::Result<Fields> {
    // If a name is repeated, the last value counts, as in Python.
    let members: HashMap<String, &RawValue> = serde_json::from_str(object.get())?;
    let fields = members.into_iter().map(|(name, value)| {
        let value = match value.get().as_bytes() {
            [b'n', ..] => FieldValue::Null,
            [b'"', ..] => FieldValue::Text(serde_json::from_str(value.get())?),
            [b'-' | b'0'..=b'9', ..] => FieldValue::Number(value.get().to_owned()),
            _ => FieldValue::Other,
        };
        Ok((name, value))
    });
    fields.collect::<serde_json::Result<_>>().map(Fields)
}

fn malformed_json(error: &dyn Display) -> ApiError {
    ApiError::bad_request(format!("JSON parse error - {error}"))
}

/// Returns whether Python parses a JSON number to a float: if it has a fraction or an exponent.
pub(crate) fn is_float(number: &str) -> bool {
    number.contains(['.', 'e', 'E'])
}

fn not_an_object(message: Sentence) -> ApiError {
    ApiError::invalid(vec![("non_field_errors".to_owned(), vec![message])])
}

/// Decodes Latin-1, in which every byte is a character.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn form_fields(bytes: &[u8]) -> Fields {
    // Bytes that are not percent-encoded are read as UTF-8 or, if that is invalid, as Latin-1.
    let text = str::from_utf8(bytes).map_or_else(|_| latin1(bytes).into(), Cow::Borrowed);
    // If a name is repeated, the last value counts, as in a QueryDict.
    let fields = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), FieldValue::Input(value.into_owned())));
    Fields(fields.collect())
}

async fn multipart_fields(content_type: &str, bytes: Bytes) -> Result<Fields, ApiError> {
    let malformed = |error: &dyn Display| {
        ApiError::bad_request(format!("Multipart form parse error - {error}"))
    };
    let boundary = multer::parse_boundary(content_type)
        .map_err(|_| malformed(&"Invalid boundary in multipart: None"))?;
    let body = stream::once(async { Ok::<_, Infallible>(bytes) });
    let mut parts = multer::Multipart::new(body, boundary);
    let mut fields = HashMap::new();
    while let Some(part) = parts
        .next_field()
        .await
        .map_err(|error| malformed(&error))?
    {
        let Some(name) = part.name().map(str::to_owned) else {
            continue;
        };
        let is_file = part.file_name().is_some_and(|file| !file.is_empty());
        let content = part.bytes().await.map_err(|error| malformed(&error))?;
        if is_file {
            fields.insert(name, FieldValue::Other);
        } else if !matches!(fields.get(&name), Some(FieldValue::Other)) {
            let text = String::from_utf8_lossy(&content).into_owned();
            fields.insert(name, FieldValue::Input(text));
        }
    }
    Ok(Fields(fields))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(json: &str) -> FieldValue {
        let mut fields = json_fields(json.as_bytes()).expect("an object");
        fields.0.remove("a").expect("it has the field")
    }

    #[test]
    fn numbers_are_kept_unparsed() {
        for number in ["9", "-0", "9.50", "1e400", "123456789012345678901234567890"] {
            let value = field(&format!(r#"{{"a": {number}}}"#));
            assert!(matches!(value, FieldValue::Number(kept) if kept == number));
        }
    }

    #[test]
    fn an_object_is_an_object_whatever_its_keys() {
        // Private keys of serde_json.
        for key in ["Number", "RawValue"] {
            let object = format!(r#"{{"$serde_json::private::{key}": "9"}}"#);
            assert!(matches!(
                field(&format!(r#"{{"a": {object}}}"#)),
                FieldValue::Other
            ));
            assert!(json_fields(object.as_bytes()).is_ok(), "{object}");
        }
    }

    #[test]
    fn deep_nesting_does_not_overflow_the_stack() {
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
        assert!(matches!(field(&deep), FieldValue::Other));
        assert!(json_fields("[".repeat(60_000).as_bytes()).is_err());
        assert!(json_fields(r#"{"a":"#.repeat(10_000).as_bytes()).is_err());
    }
}
