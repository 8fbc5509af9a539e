//! The body of a request: read within a limit of size and of time, then taken apart as
//! JSON, as a form or as multipart, whatever its `Content-Type` says.
//!
//! An empty body is an empty form, whatever its type: so DRF has it.

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
use serde_json::{Map, json};
use tokio::time::{Instant, timeout_at};

use crate::error::ApiError;

/// How much of a body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) max_bytes: usize,
    pub(crate) timeout: Duration,
}

/// How much of a body that is too large is read on and thrown away, so that the client
/// hears of it instead of a broken connection.
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

/// Reads the body. Called before any lock is taken: a slow client holds up nobody.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limits: BodyLimits,
) -> Result<Bytes, ApiError> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let deadline = Instant::now() + limits.timeout;
    let mut read = Vec::with_capacity(announced.unwrap_or_default().min(limits.max_bytes));
    let mut discarded = 0;
    loop {
        let frame = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| ApiError::body_timeout())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| ApiError::bad_request("The request's body broke off."))?;
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

/// What a body says about its fields.
#[derive(Debug, Default)]
pub(crate) struct Fields(HashMap<String, FieldValue>);

/// What a body says about one field.
#[derive(Debug)]
pub(crate) enum FieldValue {
    Null,
    /// A number in JSON, as it is written there.
    Number(String),
    /// A text in JSON.
    Text(String),
    /// What was typed into a form, where everything is text.
    Input(String),
    /// Neither a text nor a number: `true`, a list, an object, an uploaded file.
    Other,
}

impl Fields {
    /// Takes `bytes` apart as their `Content-Type` says.
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
    let text = str::from_utf8(bytes).map_err(|error| broken_json(&error))?;
    // Not a `Value`: that one takes an object with a certain key for a number or for JSON
    // within JSON, and stops at 128 levels, even in what nobody reads.
    let whole: &RawValue = serde_json::from_str(text).map_err(|error| broken_json(&error))?;
    // Python's names of the types, which DRF shows.
    let found = match whole.get().as_bytes() {
        [b'{', ..] => return object_fields(whole).map_err(|error| broken_json(&error)),
        [b'n', ..] => return Err(not_an_object("No data provided".to_owned())),
        [b't' | b'f', ..] => "bool",
        [b'"', ..] => "str",
        [b'[', ..] => "list",
        _ if is_float(whole.get()) => "float",
        _ => "int",
    };
    Err(not_an_object(format!(
        "Invalid data. Expected a dictionary, but got {found}."
    )))
}

fn object_fields(object: &RawValue) -> serde_json::Result<Fields> {
    // Of a repeated name the last one stays, as in Python.
    let members: HashMap<String, &RawValue> = serde_json::from_str(object.get())?;
    let fields = members.into_iter().map(|(name, value)| {
        let given = match value.get().as_bytes() {
            [b'n', ..] => FieldValue::Null,
            [b'"', ..] => FieldValue::Text(serde_json::from_str(value.get())?),
            [b'-' | b'0'..=b'9', ..] => FieldValue::Number(value.get().to_owned()),
            _ => FieldValue::Other,
        };
        Ok((name, given))
    });
    fields.collect::<serde_json::Result<_>>().map(Fields)
}

fn broken_json(why: &dyn Display) -> ApiError {
    ApiError::bad_request(format!("JSON parse error - {why}"))
}

/// Written with a fraction or an exponent: Python reads that as a float.
pub(crate) fn is_float(number: &str) -> bool {
    number.contains(['.', 'e', 'E'])
}

fn not_an_object(why: String) -> ApiError {
    ApiError::invalid(Map::from_iter([(
        "non_field_errors".to_owned(),
        json!([why]),
    )]))
}

/// Every byte is a character of Latin-1.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn form_fields(bytes: &[u8]) -> Fields {
    // Bytes that should have been percent-encoded are read as UTF-8 or, if they are none, as
    // Latin-1.
    let text = str::from_utf8(bytes).map_or_else(|_| latin1(bytes).into(), Cow::Borrowed);
    // Collecting lets the last one win, as a QueryDict does.
    let fields = form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), FieldValue::Input(value.into_owned())));
    Fields(fields.collect())
}

async fn multipart_fields(content_type: &str, bytes: Bytes) -> Result<Fields, ApiError> {
    let broken =
        |why: &dyn Display| ApiError::bad_request(format!("Multipart form parse error - {why}"));
    let boundary = multer::parse_boundary(content_type)
        .map_err(|_| broken(&"Invalid boundary in multipart: None"))?;
    let whole = stream::once(async { Ok::<_, Infallible>(bytes) });
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = HashMap::new();
    while let Some(part) = parts.next_field().await.map_err(|error| broken(&error))? {
        let Some(name) = part.name().map(str::to_owned) else {
            continue;
        };
        let is_file = part.file_name().is_some_and(|file| !file.is_empty());
        let content = part.bytes().await.map_err(|error| broken(&error))?;
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
    fn numbers_are_kept_as_they_are_written() {
        for number in ["9", "-0", "9.50", "1e400", "123456789012345678901234567890"] {
            let given = field(&format!(r#"{{"a": {number}}}"#));
            assert!(matches!(given, FieldValue::Number(kept) if kept == number));
        }
    }

    #[test]
    fn an_object_is_never_mistaken_for_what_its_keys_say() {
        // What serde_json uses among its own.
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
    fn depth_is_no_danger() {
        let deep = format!(r#"{{"a": {}{}}}"#, "[".repeat(30_000), "]".repeat(30_000));
        assert!(matches!(field(&deep), FieldValue::Other));
        assert!(json_fields("[".repeat(60_000).as_bytes()).is_err());
        assert!(json_fields(r#"{"a":"#.repeat(10_000).as_bytes()).is_err());
    }
}
