//! Spans by the semantic conventions of OpenTelemetry (HTTP, 1.23 and later).

use opentelemetry::trace::SpanKind;
use opentelemetry_sdk::trace::SpanData;

use crate::logging::REQUEST_SPAN;

pub(super) const ROUTE: &str = "http.route";
pub(super) const CLIENT: &str = "client.address";
pub(super) const STATUS: &str = "http.response.status_code";
pub(super) const ERROR_TYPE: &str = "error.type";
pub(super) const CALLER: &str = "lockstock.caller";
pub(super) const ERROR_CODE: &str = "lockstock.error_code";
const METHOD: &str = "http.request.method";

const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE",
];

/// Fields of spans, and the attributes that they become. Those without a name are part of each span.
const FIELDS: [(&str, Option<&str>); 8] = [
    ("id", Some("lockstock.request_id")),
    ("method", Some(METHOD)),
    ("path", Some("url.path")),
    ("trace_id", None),
    ("span_id", None),
    ("lock", Some("lockstock.lock.name")),
    ("outcome", Some("lockstock.lock.outcome")),
    ("fence", Some("lockstock.lock.fence")),
];

/// Names the parts of a span as the conventions do. Called when it is sent: no request waits for it.
pub(super) fn apply(span: &mut SpanData) {
    span.attributes.retain_mut(|attribute| {
        let key = attribute.key.as_str();
        match FIELDS.iter().find(|(field, _)| *field == key) {
            Some((_, Some(name))) => {
                attribute.key = (*name).into();
                true
            }
            Some((_, None)) => false,
            None => true,
        }
    });
    if span.name != REQUEST_SPAN {
        return;
    }
    span.span_kind = SpanKind::Server;
    // Clients may make up methods without end.
    let mut methods = span.attributes.iter_mut();
    let method = methods.find(|attribute| attribute.key.as_str() == METHOD);
    let mut name = "HTTP".to_owned();
    if let Some(method) = method {
        if METHODS.contains(&&*method.value.as_str()) {
            name = method.value.to_string();
        } else {
            method.value = "_OTHER".into();
        }
    }
    let mut routes = span.attributes.iter();
    if let Some(route) = routes.find(|attribute| attribute.key.as_str() == ROUTE) {
        name = format!("{name} {}", route.value);
    }
    span.name = name.into();
}
