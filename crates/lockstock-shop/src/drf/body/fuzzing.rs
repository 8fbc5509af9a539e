//! What the fuzz target `bodies` checks of any body.

use axum::http::HeaderValue;
use form_urlencoded::Serializer;
use futures_util::FutureExt;

use super::*;

/// Parses a body in the format that the first line of the input names, and panics unless the same
/// fields, written again, are parsed to the same fields. Returns them.
pub(crate) fn check(input: &[u8]) -> Option<Fields> {
    let at = input.iter().position(|byte| *byte == b'\n');
    let (content_type, body) = input.split_at(at.unwrap_or(input.len()));
    let body = body.get(1..).unwrap_or_default();
    let fields = parse(HeaderValue::from_bytes(content_type).ok()?, body)?;
    let size: usize = fields
        .0
        .iter()
        .map(|(name, value)| name.len() + length(value))
        .sum();
    assert!(size <= body.len(), "the fields are no larger than the body");

    let (inputs, others): (Vec<_>, Vec<_>) = fields
        .0
        .iter()
        .partition(|(_, value)| matches!(value, FieldValue::Input(_)));
    let form = inputs
        .iter()
        .fold(Serializer::new(String::new()), |mut form, (name, value)| {
            if let FieldValue::Input(text) = value {
                form.append_pair(name, text);
            }
            form
        })
        .finish();
    let form_type = HeaderValue::from_static("application/x-www-form-urlencoded");
    assert_same(&inputs, parse(form_type, form.as_bytes()));
    let members = others.iter().map(|(name, value)| {
        let name = serde_json::Value::from(name.as_str());
        let value = match value {
            FieldValue::Null => "null".to_owned(),
            FieldValue::Number(number) => number.clone(),
            FieldValue::Text(text) | FieldValue::Input(text) => {
                serde_json::Value::from(text.as_str()).to_string()
            }
            FieldValue::Other => "[]".to_owned(),
        };
        format!("{name}: {value}")
    });
    let json = format!("{{{}}}", members.collect::<Vec<_>>().join(", "));
    let json_type = HeaderValue::from_static("application/json");
    assert_same(&others, parse(json_type, json.as_bytes()));
    Some(fields)
}

fn parse(content_type: HeaderValue, body: &[u8]) -> Option<Fields> {
    let headers = HeaderMap::from_iter([(CONTENT_TYPE, content_type)]);
    let parsed = Fields::parse(&headers, Bytes::copy_from_slice(body)).now_or_never();
    parsed.expect("the whole body is in memory").ok()
}

fn length(value: &FieldValue) -> usize {
    match value {
        FieldValue::Number(text) | FieldValue::Text(text) | FieldValue::Input(text) => text.len(),
        FieldValue::Null | FieldValue::Other => 0,
    }
}

fn assert_same(fields: &[(&String, &FieldValue)], parsed: Option<Fields>) {
    let parsed = parsed.expect("what was written is parsed");
    assert_eq!(parsed.0.len(), fields.len());
    for (name, value) in fields {
        assert_eq!(
            format!("{:?}", parsed.get(name)),
            format!("{:?}", Some(value))
        );
    }
}
