//! The body of a request: read within limits of size and time, then parsed as JSON, as a form
//! or as multipart, depending on its `Content-Type`.
//!
//! What the head of a request decides (a media type, a charset or a coding that is not read, a
//! missing boundary, an announced length over the limit) is rejected before the body is polled: a client that
//! sent `Expect: 100-continue` then gets no `100 Continue`. Text is UTF-8, in each of the three
//! formats; anything else is rejected, and never stored as replacement characters.
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
use axum::http::header::{CONTENT_ENCODING, CONTENT_TYPE, TRANSFER_ENCODING};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use percent_encoding::percent_decode;
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

/// What a body is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyUse {
    /// Its fields, so that its media type matters.
    Fields,
    /// Nothing but the fingerprint of the request.
    Ignored,
}

/// The format of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum MediaType {
    Json,
    Form,
    Multipart,
}

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
    let bytes = read(headers, body, BodyUse::Fields, limits).await?;
    Fields::parse(headers, bytes).await
}

/// Reads the body. Called before a lock is acquired, so that a slow client blocks no other.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    body_use: BodyUse,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    if body.is_end_stream() {
        return Ok(Bytes::new());
    }
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    check_head(headers, announced, body_use, limits)?;
    let deadline = Instant::now() + limits.timeout;
    let mut read = Vec::with_capacity(announced);
    loop {
        let frame = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| ApiError::body_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request(sentences::BODY_ENDED_EARLY))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if read.len() + data.len() > limits.max_bytes {
            return Err(ApiError::body_too_large(limits.max_bytes));
        }
        read.extend_from_slice(data);
    }
    Ok(read.into())
}

/// Rejects a body that will not be read.
fn check_head(
    headers: &HeaderMap,
    announced: usize,
    body_use: BodyUse,
    limits: BodyLimits,
) -> Result<(), ApiError> {
    check_content_coding(headers)?;
    check_transfer_coding(headers)?;
    if announced > limits.max_bytes {
        return Err(ApiError::body_too_large(limits.max_bytes));
    }
    if body_use == BodyUse::Ignored {
        return Ok(());
    }
    let content_type = content_type(headers);
    match MediaType::of(&content_type)? {
        MediaType::Json | MediaType::Form => Ok(()),
        MediaType::Multipart => boundary(&content_type).map(drop),
    }
}

fn check_content_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    for value in headers.get_all(CONTENT_ENCODING) {
        let encoding = latin1(value.as_bytes());
        let mut codings = encoding.split(',').map(str::trim);
        if !codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case("identity")) {
            return Err(ApiError::unsupported_content_encoding(&encoding));
        }
    }
    Ok(())
}

/// Fails unless `chunked` is the only transfer coding: the HTTP library decodes it, and no other
/// one before it.
fn check_transfer_coding(headers: &HeaderMap) -> Result<(), ApiError> {
    let values = headers.get_all(TRANSFER_ENCODING).iter();
    let values = values.map(|value| latin1(value.as_bytes()));
    let codings = values.collect::<Vec<_>>().join(", ");
    match codings.is_empty() || codings.trim().eq_ignore_ascii_case("chunked") {
        true => Ok(()),
        false => Err(ApiError::unsupported_content_encoding(&codings)),
    }
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE);
    value
        .map(|value| latin1(value.as_bytes()))
        .unwrap_or_default()
}

impl MediaType {
    /// Returns the format that a `Content-Type` names. Fails if it or its charset is not read.
    fn of(content_type: &str) -> Result<Self, ApiError> {
        let unsupported = || ApiError::unsupported_media_type(content_type);
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let media_type = match media_type.to_ascii_lowercase().as_str() {
            "application/json" => Self::Json,
            "application/x-www-form-urlencoded" => Self::Form,
            "multipart/form-data" => Self::Multipart,
            _ => return Err(unsupported()),
        };
        match is_utf8(content_type) {
            true => Ok(media_type),
            false => Err(unsupported()),
        }
    }
}

/// Whether the charset in a `Content-Type`, if it has one, is UTF-8 or its subset ASCII.
fn is_utf8(content_type: &str) -> bool {
    let parameters = content_type.split(';').skip(1);
    let charsets = parameters.filter_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    });
    charsets.into_iter().all(is_utf8_name)
}

fn is_utf8_name(charset: &str) -> bool {
    let names = ["", "utf-8", "utf8", "us-ascii", "ascii"];
    names.iter().any(|name| charset.eq_ignore_ascii_case(name))
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
        let content_type = content_type(headers);
        match MediaType::of(&content_type)? {
            MediaType::Json => json_fields(&bytes),
            MediaType::Form => form_fields(&bytes),
            MediaType::Multipart => multipart_fields(&content_type, bytes).await,
        }
    }

    /// Parses a JSON object.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, ApiError> {
        json_fields(bytes)
    }

    /// Returns fields with these values, which are those of a form.
    pub(crate) fn from_inputs(inputs: impl IntoIterator<Item = (String, String)>) -> Self {
        let inputs = inputs.into_iter();
        let fields = inputs.map(|(name, text)| (name, FieldValue::Input(text)));
        Self(fields.collect())
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
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

fn form_fields(bytes: &[u8]) -> Result<Fields, ApiError> {
    let decode = |text: &[u8]| {
        let spaced: Vec<_> = text
            .iter()
            .map(|byte| if *byte == b'+' { b' ' } else { *byte })
            .collect();
        let decoded = percent_decode(&spaced).decode_utf8().map(Cow::into_owned);
        decoded.map_err(|_| ApiError::bad_request("Form parse error - the text is not UTF-8"))
    };
    let mut fields = HashMap::new();
    for field in bytes.split(|byte| *byte == b'&') {
        if field.is_empty() {
            continue;
        }
        let mut halves = field.splitn(2, |byte| *byte == b'=');
        let name = decode(halves.next().unwrap_or_default())?;
        let value = decode(halves.next().unwrap_or_default())?;
        check_charset_field(&name, &value)?;
        // If a name is repeated, the last value counts, as in a QueryDict.
        fields.insert(name, FieldValue::Input(value));
    }
    Ok(Fields(fields))
}

/// Fails if a form declares another charset in its field `_charset_` (RFC 7578, section 4.6).
fn check_charset_field(name: &str, value: &str) -> Result<(), ApiError> {
    if name != "_charset_" || is_utf8_name(value) {
        return Ok(());
    }
    Err(ApiError::unsupported_media_type(value))
}

fn boundary(content_type: &str) -> Result<String, ApiError> {
    multer::parse_boundary(content_type)
        .map_err(|_| malformed_multipart(&"Invalid boundary in multipart: None"))
}

fn malformed_multipart(error: &dyn Display) -> ApiError {
    ApiError::bad_request(format!("Multipart form parse error - {error}"))
}

async fn multipart_fields(content_type: &str, bytes: Bytes) -> Result<Fields, ApiError> {
    let malformed = malformed_multipart;
    let boundary = boundary(content_type)?;
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
        if !is_file {
            check_part_head(part.headers())?;
        }
        let content = part.bytes().await.map_err(|error| malformed(&error))?;
        if is_file {
            fields.insert(name, FieldValue::Other);
            continue;
        }
        let text = str::from_utf8(&content).map_err(|_| malformed(&"the text is not UTF-8"))?;
        check_charset_field(&name, text)?;
        if !matches!(fields.get(&name), Some(FieldValue::Other)) {
            fields.insert(name, FieldValue::Input(text.to_owned()));
        }
    }
    Ok(Fields(fields))
}

/// Fails if the text of a part is in another charset, or encoded.
fn check_part_head(headers: &HeaderMap) -> Result<(), ApiError> {
    let content_type = content_type(headers);
    if !is_utf8(&content_type) {
        return Err(ApiError::unsupported_media_type(&content_type));
    }
    check_content_coding(headers)?;
    for value in headers.get_all("content-transfer-encoding") {
        let encoding = latin1(value.as_bytes());
        let is_plain = |plain: &&str| encoding.trim().eq_ignore_ascii_case(plain);
        if !["7bit", "8bit", "binary"].iter().any(is_plain) {
            return Err(ApiError::unsupported_content_encoding(&encoding));
        }
    }
    Ok(())
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;

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
