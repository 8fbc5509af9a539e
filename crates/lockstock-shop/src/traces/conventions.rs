//! Spans by the semantic conventions of OpenTelemetry (HTTP, 1.23 and later).

use opentelemetry::KeyValue;
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

/// Fields of the span in the log lines of a request, and the attributes that they become. Those
/// without a name are part of each span.
const LOG_FIELDS: [(&str, Option<&str>); 5] = [
    ("id", Some("lockstock.request_id")),
    ("method", Some(METHOD)),
    ("path", Some("url.path")),
    ("trace_id", None),
    ("span_id", None),
];

/// Names the parts of the span of a request as the conventions do. Called when it is sent, so that the
/// request need not wait for it.
pub(super) fn apply(span: &mut SpanData) {
    if span.name != REQUEST_SPAN {
        return;
    }
    span.span_kind = SpanKind::Server;
    span.attributes.retain_mut(|attribute| {
        let key = attribute.key.as_str();
        match LOG_FIELDS.iter().find(|(field, _)| *field == key) {
            Some((_, Some(name))) => {
                attribute.key = (*name).into();
                true
            }
            Some((_, None)) => false,
            None => true,
        }
    });
    let value = |name| {
        let mut attributes = span.attributes.iter();
        attributes.find(|KeyValue { key, .. }| key.as_str() == name)
    };
    if let (Some(method), Some(route)) = (value(METHOD), value(ROUTE)) {
        span.name = format!("{} {}", method.value, route.value).into();
    }
}
