//! The body of a request: read within a limit of size and of time, then taken apart as
//! JSON, as a form or as multipart, whatever its `Content-Type` says.
//!
//! An empty body is an empty form, whatever its type: so DRF has it.

use std::borrow::Cow;
use std::collections::HashMap;
use std::time::Duration;

use axum::body::Body;
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use futures_util::stream;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, timeout_at};

use crate::refusal::Refusal;

/// How much of a body is read, and for how long.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    pub(crate) time: Duration,
}

/// How much of a body that is too large is read on and thrown away, so that the client
/// hears of it instead of a broken connection.
const DISCARDED_BYTES: usize = 1 << 20;

/// Reads the body. Called before any lock is taken: a slow client holds up nobody.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    limits: BodyLimits,
) -> Result<Bytes, Refusal> {
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    let deadline = Instant::now() + limits.time;
    let mut read = Vec::with_capacity(announced.unwrap_or_default().min(limits.bytes));
    let mut discarded = 0;
    loop {
        let frame = timeout_at(deadline, body.frame())
            .await
            .map_err(|_| Refusal::slow_body())?;
        let Some(frame) = frame else { break };
        let frame = frame.map_err(|_| Refusal::bad_request("The request's body broke off."))?;
        let Some(data) = frame.data_ref() else {
            continue;
        };
        if discarded == 0 && read.len() + data.len() <= limits.bytes {
            read.extend_from_slice(data);
        } else {
            discarded += data.len();
        }
        if discarded > DISCARDED_BYTES {
            break;
        }
    }
    if discarded > 0 {
        return Err(Refusal::body_too_large(limits.bytes));
    }
    Ok(read.into())
}

/// The fields that a body names.
#[derive(Debug)]
pub(crate) enum Fields {
    Json(Map<String, Value>),
    Form(HashMap<String, FormValue>),
}

#[derive(Debug)]
pub(crate) enum FormValue {
    Text(String),
    File,
}

/// What a body says about one field.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Given<'a> {
    /// Nothing.
    Absent,
    /// A value in JSON.
    Json(&'a Value),
    /// A text in a form, where everything is text.
    Text(&'a str),
    /// An uploaded file.
    File,
}

impl Fields {
    /// Takes `bytes` apart as their `Content-Type` says.
    pub(crate) async fn parse(headers: &HeaderMap, bytes: Bytes) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            return Ok(Self::Form(HashMap::new()));
        }
        let content_type = headers
            .get(CONTENT_TYPE)
            .map(|value| latin1(value.as_bytes()))
            .unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        match media_type.to_ascii_lowercase().as_str() {
            "application/json" => json_fields(&bytes),
            "application/x-www-form-urlencoded" => Ok(Self::Form(form_fields(&bytes))),
            "multipart/form-data" => multipart_fields(&content_type, bytes).await.map(Self::Form),
            _ => Err(Refusal::media_type(&content_type)),
        }
    }

    pub(crate) fn get(&self, name: &str) -> Given<'_> {
        match self {
            Self::Json(fields) => fields.get(name).map_or(Given::Absent, Given::Json),
            Self::Form(fields) => match fields.get(name) {
                Some(FormValue::Text(text)) => Given::Text(text),
                Some(FormValue::File) => Given::File,
                None => Given::Absent,
            },
        }
    }
}

fn json_fields(bytes: &[u8]) -> Result<Fields, Refusal> {
    let found = match serde_json::from_slice(bytes) {
        Ok(Value::Object(fields)) => return Ok(Fields::Json(fields)),
        Ok(Value::Null) => return Err(not_an_object("No data provided".to_owned())),
        // Python's names of the types, which DRF shows.
        Ok(Value::Bool(_)) => "bool",
        Ok(Value::String(_)) => "str",
        Ok(Value::Array(_)) => "list",
        Ok(Value::Number(number)) if is_float(&number) => "float",
        Ok(Value::Number(_)) => "int",
        Err(error) => {
            return Err(Refusal::bad_request(format!("JSON parse error - {error}")));
        }
    };
    Err(not_an_object(format!(
        "Invalid data. Expected a dictionary, but got {found}."
    )))
}

/// Written with a fraction or an exponent: Python reads that as a float.
pub(crate) fn is_float(number: &serde_json::Number) -> bool {
    number.as_str().contains(['.', 'e', 'E'])
}

fn not_an_object(why: String) -> Refusal {
    Refusal::invalid(Map::from_iter([(
        "non_field_errors".to_owned(),
        json!([why]),
    )]))
}

/// Every byte is a character of Latin-1.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

fn form_fields(bytes: &[u8]) -> HashMap<String, FormValue> {
    // Bytes that should have been percent-encoded are read as UTF-8 or, if they are none, as
    // Latin-1.
    let text = str::from_utf8(bytes).map_or_else(|_| latin1(bytes).into(), Cow::Borrowed);
    // Collecting lets the last one win, as a QueryDict does.
    form_urlencoded::parse(text.as_bytes())
        .map(|(name, value)| (name.into_owned(), FormValue::Text(value.into_owned())))
        .collect()
}

async fn multipart_fields(
    content_type: &str,
    bytes: Bytes,
) -> Result<HashMap<String, FormValue>, Refusal> {
    let broken = |why: &dyn std::fmt::Display| {
        Refusal::bad_request(format!("Multipart form parse error - {why}"))
    };
    let boundary = multer::parse_boundary(content_type)
        .map_err(|_| broken(&"Invalid boundary in multipart: None"))?;
    let whole = stream::once(async { Ok::<_, std::convert::Infallible>(bytes) });
    let mut parts = multer::Multipart::new(whole, boundary);
    let mut fields = HashMap::new();
    while let Some(part) = parts.next_field().await.map_err(|error| broken(&error))? {
        let Some(name) = part.name().map(str::to_owned) else {
            continue;
        };
        let is_file = part.file_name().is_some_and(|file| !file.is_empty());
        let content = part.bytes().await.map_err(|error| broken(&error))?;
        if is_file {
            fields.insert(name, FormValue::File);
        } else if !matches!(fields.get(&name), Some(FormValue::File)) {
            let text = String::from_utf8_lossy(&content).into_owned();
            fields.insert(name, FormValue::Text(text));
        }
    }
    Ok(fields)
}
