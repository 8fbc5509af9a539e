//! Comparison of two responses as a client sees them.

use serde_json::Value;

use crate::wire::Response;

/// An aspect in which two responses can differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aspect {
    Status,
    ContentType,
    Allow,
    Vary,
    Location,
    Etag,
    RetryAfter,
    Challenge,
    Body,
    /// Equal as JSON, but with the fields in another order.
    Order,
    /// A guarantee of every Lockstock response is broken: see [`broken_promises`].
    Promises,
}

/// Returns the aspects in which the responses differ.
pub(crate) fn differing(django: &Response, lockstock: &Response) -> Vec<Aspect> {
    let same = |name| django.header(name) == lockstock.header(name);
    let has = |response: &Response, name| response.header(name).is_some();
    let [mut value, mut other] = [django, lockstock].map(content);
    normalize(&mut value);
    normalize(&mut other);
    let checks = [
        (Aspect::Status, django.status == lockstock.status),
        (
            Aspect::ContentType,
            django.media_type() == lockstock.media_type(),
        ),
        (
            Aspect::Allow,
            list(django, "allow") == list(lockstock, "allow"),
        ),
        // Lockstock may vary by more headers, such as the language.
        (
            Aspect::Vary,
            list(django, "vary")
                .iter()
                .all(|name| list(lockstock, "vary").contains(name)),
        ),
        (Aspect::Location, same("location")),
        (Aspect::Etag, same("etag")),
        (
            Aspect::RetryAfter,
            has(django, "retry-after") == has(lockstock, "retry-after"),
        ),
        (Aspect::Challenge, same("www-authenticate")),
        (Aspect::Body, value == other),
        (
            Aspect::Order,
            value != other || field_names(django) == field_names(lockstock),
        ),
        (Aspect::Promises, broken_promises(lockstock).is_empty()),
    ];
    let differ = checks.into_iter().filter(|(_, agree)| !agree);
    differ.map(|(aspect, _)| aspect).collect()
}

/// Returns the guarantees of every Lockstock response that this one breaks.
pub(crate) fn broken_promises(response: &Response) -> Vec<&'static str> {
    let promises = [
        (response.status < 500, "no request causes a server error"),
        (
            response.body.is_empty() || response.json().is_some(),
            "the body is JSON",
        ),
        (
            response.header("x-request-id").is_some(),
            "the response has a request id",
        ),
    ];
    let broken = promises.into_iter().filter(|(kept, _)| !kept);
    broken.map(|(_, promise)| promise).collect()
}

/// Returns whether the body is this JSON, or empty if `expected` is empty. A member "…" matches
/// any others.
pub(crate) fn has_body(response: &Response, expected: &str) -> bool {
    if expected.is_empty() {
        return response.body.is_empty();
    }
    let mut expected = serde_json::from_str(expected).expect("the table holds JSON");
    normalize(&mut expected);
    let mut actual = content(response);
    normalize(&mut actual);
    matches(&expected, &actual)
}

fn matches(expected: &Value, actual: &Value) -> bool {
    let (Value::Object(expected), Value::Object(actual)) = (expected, actual) else {
        return expected == actual;
    };
    let mut named = expected.iter().filter(|(name, _)| *name != "…");
    named.all(|(name, value)| {
        actual
            .get(name)
            .is_some_and(|actual| matches(value, actual))
    }) && (expected.contains_key("…") || expected.len() == actual.len())
}

/// Returns the body as JSON, or a placeholder if it is empty or not JSON.
fn content(response: &Response) -> Value {
    response
        .json()
        .unwrap_or_else(|| match response.body.len() {
            0 => "<nothing>".into(),
            _ => "<not JSON>".into(),
        })
}

/// Returns the items of a list header, sorted and in lower case.
fn list(response: &Response, name: &str) -> Vec<String> {
    let value = response
        .header(name)
        .unwrap_or_default()
        .to_ascii_lowercase();
    let mut items: Vec<_> = value
        .split(',')
        .map(|item| item.trim().to_owned())
        .collect();
    items.retain(|item| !item.is_empty());
    items.sort();
    items
}

/// Replaces values that cannot agree and need not.
fn normalize(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(normalize),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (&**name, &*field) {
                    // The servers have two clocks. Any other text is compared.
                    ("created_at" | "updated_at", Value::String(text)) if is_time(text) => {
                        *field = "<time>".into();
                    }
                    // Each parser has its own wording and offsets.
                    ("detail", Value::String(text)) => {
                        if let Some((what, _)) = text.split_once(" parse error - ") {
                            *field = format!("{what} parse error - …").into();
                        }
                    }
                    _ => normalize(field),
                }
            }
        }
        _ => {}
    }
}

/// Returns whether the text has the form `2026-01-31T23:59:59.123456Z`, the fraction optional.
fn is_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    ["0000-00-00T00:00:00.000000Z", "0000-00-00T00:00:00Z"].contains(&&*shape)
}

/// Returns the field names in the order in which they are sent.
fn field_names(response: &Response) -> Vec<String> {
    let mut names = Vec::new();
    let Ok(mut rest) = str::from_utf8(&response.body) else {
        return names;
    };
    while let Some(start) = rest.find('"') {
        let text = &rest[start + 1..];
        let mut escaped = false;
        let end = text.find(|c| {
            let closes = c == '"' && !escaped;
            escaped = c == '\\' && !escaped;
            closes
        });
        let Some(end) = end else { break };
        rest = &text[end + 1..];
        if rest.starts_with(':') {
            names.push(text[..end].to_owned());
        }
    }
    names
}
