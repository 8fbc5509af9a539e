//! When two answers are the same to a client.

use serde_json::Value;

use crate::wire::Answer;

/// What two answers can differ in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Aspect {
    Status,
    ContentType,
    Allow,
    Vary,
    Location,
    Etag,
    RetryAfter,
    Body,
    /// Equal as JSON, but the fields come in another order.
    Order,
    /// Ours breaks what it promises whatever Django does: see [`broken_promises`].
    Promises,
}

/// Everything the two differ in, and whether ours is one of ours at all.
pub(crate) fn differing(theirs: &Answer, ours: &Answer) -> Vec<Aspect> {
    let same = |name| theirs.header(name) == ours.header(name);
    let given = |answer: &Answer, name| answer.header(name).is_some();
    let [mut value, mut other] = [theirs, ours].map(content);
    plain(&mut value);
    plain(&mut other);
    let checks = [
        (Aspect::Status, theirs.status == ours.status),
        (
            Aspect::ContentType,
            theirs.media_type() == ours.media_type(),
        ),
        (Aspect::Allow, list(theirs, "allow") == list(ours, "allow")),
        // Ours may depend on more, such as the language.
        (
            Aspect::Vary,
            list(theirs, "vary")
                .iter()
                .all(|name| list(ours, "vary").contains(name)),
        ),
        (Aspect::Location, same("location")),
        (Aspect::Etag, same("etag")),
        (
            Aspect::RetryAfter,
            given(theirs, "retry-after") == given(ours, "retry-after"),
        ),
        (Aspect::Body, value == other),
        (Aspect::Order, value != other || keys(theirs) == keys(ours)),
        (Aspect::Promises, broken_promises(ours).is_empty()),
    ];
    let differ = checks.into_iter().filter(|(_, agree)| !agree);
    differ.map(|(aspect, _)| aspect).collect()
}

/// What every answer of ours promises and this one does not keep.
pub(crate) fn broken_promises(ours: &Answer) -> Vec<&'static str> {
    let promises = [
        (ours.status < 500, "the request is not our fault"),
        (ours.body.is_empty() || ours.json().is_some(), "it is JSON"),
        (ours.header("x-request-id").is_some(), "it has an id"),
    ];
    let broken = promises.into_iter().filter(|(kept, _)| !kept);
    broken.map(|(_, promise)| promise).collect()
}

/// Whether the answer's body is this JSON, or empty if `expected` is. A member called "…"
/// stands for any others.
pub(crate) fn says(answer: &Answer, expected: &str) -> bool {
    if expected.is_empty() {
        return answer.body.is_empty();
    }
    let mut expected = serde_json::from_str(expected).expect("the table holds JSON");
    plain(&mut expected);
    let mut said = content(answer);
    plain(&mut said);
    covers(&expected, &said)
}

fn covers(expected: &Value, said: &Value) -> bool {
    let (Value::Object(expected), Value::Object(said)) = (expected, said) else {
        return expected == said;
    };
    let mut named = expected.iter().filter(|(name, _)| *name != "…");
    named.all(|(name, value)| said.get(name).is_some_and(|said| covers(value, said)))
        && (expected.contains_key("…") || expected.len() == said.len())
}

/// The body as JSON; what is none, an HTML page or nothing, is a string that says so.
fn content(answer: &Answer) -> Value {
    answer.json().unwrap_or_else(|| match answer.body.len() {
        0 => "<nothing>".into(),
        _ => "<not JSON>".into(),
    })
}

/// A header that is a list, in one order and one case.
fn list(answer: &Answer, name: &str) -> Vec<String> {
    let value = answer.header(name).unwrap_or_default().to_ascii_lowercase();
    let mut items: Vec<_> = value
        .split(',')
        .map(|item| item.trim().to_owned())
        .collect();
    items.retain(|item| !item.is_empty());
    items.sort();
    items
}

/// Takes out what cannot agree and need not.
fn plain(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(plain),
        Value::Object(fields) => {
            for (name, field) in fields {
                match (&**name, &*field) {
                    // Two clocks. Something that is no time stays, and differs.
                    ("created_at" | "updated_at", Value::String(text)) if is_time(text) => {
                        *field = "<time>".into();
                    }
                    // How each parser words it, and whose offsets they are, is its own affair.
                    ("detail", Value::String(text)) => {
                        if let Some((what, _)) = text.split_once(" parse error - ") {
                            *field = format!("{what} parse error - …").into();
                        }
                    }
                    _ => plain(field),
                }
            }
        }
        _ => {}
    }
}

/// `2026-01-31T23:59:59.123456Z`, or without the fraction when there is none.
fn is_time(text: &str) -> bool {
    let shape: String = text
        .chars()
        .map(|c| if c.is_ascii_digit() { '0' } else { c })
        .collect();
    ["0000-00-00T00:00:00.000000Z", "0000-00-00T00:00:00Z"].contains(&&*shape)
}

/// The field names in the order in which they are sent, or an empty list for what is no JSON.
fn keys(answer: &Answer) -> Vec<String> {
    let mut keys = Vec::new();
    let Ok(mut rest) = str::from_utf8(&answer.body) else {
        return keys;
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
            keys.push(text[..end].to_owned());
        }
    }
    keys
}
