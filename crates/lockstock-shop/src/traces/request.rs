//! The span of a request.

use axum::http::{HeaderMap, HeaderName, StatusCode};
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::Span;
use tracing::field::display;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Registry;
use tracing_subscriber::registry::LookupSpan;

use super::{RequestAttributes, conventions};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The span of a request that is sent to the collector, if it is.
pub(crate) struct RequestTrace(Option<Context>);

impl RequestTrace {
    /// Makes `span` part of the trace that the headers of its request name, or of a new one, and puts
    /// the ids into the log lines of the request.
    pub(crate) fn begin(
        span: &Span,
        headers: &HeaderMap,
        attributes: RequestAttributes<'_>,
    ) -> Self {
        let parent = remote_parent(headers);
        let has_parent = parent.is_some();
        if let Some(parent) = parent {
            // Fails without traces.
            let _ = span.set_parent(parent);
        }
        let context = span.context();
        let ids = context.span().span_context().clone();
        if !ids.is_valid() {
            return Self(None);
        }
        // The id of a trace that begins here and is not sent leads nowhere.
        if ids.is_sampled() || has_parent {
            span.record("trace_id", display(ids.trace_id()));
            span.record("span_id", display(ids.span_id()));
        }
        if !context.span().is_recording() {
            mark_unsampled(span);
            return Self(None);
        }
        let RequestAttributes {
            route,
            client,
            caller,
        } = attributes;
        let set = |name, value| context.span().set_attribute(KeyValue::new(name, value));
        if let Some(route) = route {
            set(conventions::ROUTE, route.to_owned());
        }
        if let Some(client) = client {
            set(conventions::CLIENT, client.to_string());
        }
        if let Some(caller) = caller {
            set(conventions::CALLER, caller.to_owned());
        }
        Self(Some(context))
    }

    /// Ends the span. `code` is that of the error in the response.
    pub(crate) fn end(self, status: StatusCode, code: Option<&'static str>) {
        let Self(Some(context)) = self else { return };
        let span = context.span();
        let number = i64::from(status.as_u16());
        span.set_attribute(KeyValue::new(conventions::STATUS, number));
        if let Some(code) = code {
            span.set_attribute(KeyValue::new(conventions::ERROR_CODE, code));
        }
        // A 4xx is an error of the client, and not of this server.
        if status.is_server_error() {
            let kind = code.map_or_else(|| status.as_str().to_owned(), str::to_owned);
            span.set_attribute(KeyValue::new(conventions::ERROR_TYPE, kind));
            span.set_status(Status::error(""));
        }
        // Now: a release of the lock in the background may keep the span of the log open.
        span.end();
    }
}

/// In the span of a request that is not sent: it needs no further spans.
pub(super) struct Unsampled;

fn mark_unsampled(span: &Span) {
    span.with_subscriber(|(id, subscriber)| {
        let registry = subscriber.downcast_ref::<Registry>();
        if let Some(span) = registry.and_then(|registry| registry.span(id)) {
            span.extensions_mut().insert(Unsampled);
        }
    });
}

/// Returns the span that has sent the request (W3C Trace Context). Headers that are malformed are
/// ignored.
fn remote_parent(headers: &HeaderMap) -> Option<Context> {
    let mut values = headers.get_all(TRACEPARENT).iter();
    let value = values.next()?.to_str().ok()?;
    // The propagator also accepts shorter numbers.
    let lengths = value.split('-').take(4).map(str::len);
    if values.next().is_some() || !lengths.eq([2, 32, 16, 2]) {
        return None;
    }
    let context = TraceContextPropagator::new()
        .extract_with_context(&Context::new(), &HeaderExtractor(headers));
    context.has_active_span().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parent(values: &[&str]) -> Option<(String, String, bool)> {
        let headers = values
            .iter()
            .map(|value| (TRACEPARENT, value.parse().unwrap()));
        let context = remote_parent(&headers.collect())?;
        let ids = context.span().span_context().clone();
        assert!(ids.is_remote());
        Some((
            ids.trace_id().to_string(),
            ids.span_id().to_string(),
            ids.is_sampled(),
        ))
    }

    #[test]
    fn a_parent_has_a_version_two_ids_and_flags() {
        for (value, is_sampled) in [
            (format!("00-{TRACE}-{SPAN}-01"), true),
            (format!("00-{TRACE}-{SPAN}-00"), false),
            // A later version may have more fields.
            (format!("cc-{TRACE}-{SPAN}-01-more"), true),
        ] {
            let expected = Some((TRACE.to_owned(), SPAN.to_owned(), is_sampled));
            assert_eq!(parent(&[&value]), expected, "{value}");
        }
    }

    #[test]
    fn a_malformed_or_repeated_parent_is_ignored() {
        let valid = format!("00-{TRACE}-{SPAN}-01");
        let none = "0".repeat(32);
        for value in [
            "",
            "00",
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{TRACE}-{SPAN}-01-more"),
            &format!("00-{TRACE}-{SPAN}"),
            &format!("00-{none}-{SPAN}-01"),
            &format!("00-{TRACE}-{}-01", &none[..16]),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{}-{SPAN}-01", &TRACE[1..]),
            &format!("00-{}x-{SPAN}-01", &TRACE[1..]),
            &format!("0-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(parent(&[value]), None, "{value}");
        }
        assert_eq!(parent(&[&valid, &valid]), None);
        assert_eq!(parent(&[]), None);
    }
}
