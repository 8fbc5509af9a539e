//! Traces: the span of each request, with those of its lock and of its calls of the database, sent to a
//! collector over OTLP.
//!
//! Guarantees:
//! - no request waits for the collector: finished spans wait in a bounded queue, and those that do not
//!   fit, or that the collector does not take, are dropped and counted;
//! - no span contains a query string, a body, an idempotency key, a value of a statement or a header,
//!   beside those of the trace and the request id.
//!
//! Compiled only with the feature `otlp`. Without it, a request has no trace, and the options of traces
//! are an error.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod conventions;
#[cfg(feature = "otlp")]
mod export;
#[cfg(feature = "otlp")]
mod request;
#[cfg(feature = "otlp")]
mod sender;

use std::net::IpAddr;

#[cfg(not(feature = "otlp"))]
pub(crate) use self::absent::{RequestTrace, Traces};
#[cfg(feature = "otlp")]
pub(crate) use self::{export::Traces, request::RequestTrace};

/// Variables of OpenTelemetry that name a collector.
const ENDPOINT_VARIABLES: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];

/// Returns whether a variable of OpenTelemetry names a collector.
pub(crate) fn has_endpoint_variable() -> bool {
    let mut values = ENDPOINT_VARIABLES.iter().filter_map(std::env::var_os);
    values.any(|value| !value.is_empty())
}

/// Where spans go, and how many.
#[derive(Debug)]
pub(crate) struct TraceSettings {
    /// URL of the collector, without the path of traces. `None` if only the variables of
    /// OpenTelemetry name one.
    pub(crate) endpoint: Option<String>,
    /// Share of the traces that begin here and are sent. `None` for the choice of the variables of
    /// OpenTelemetry, which is all by default.
    pub(crate) sample: Option<f64>,
}

#[cfg(feature = "otlp")]
impl TraceSettings {
    /// Returns whether the option or a variable names a collector by an HTTPS URL.
    fn uses_https(&self) -> bool {
        let variables = ENDPOINT_VARIABLES
            .iter()
            .filter_map(|name| std::env::var(name).ok());
        let mut urls = self.endpoint.iter().cloned().chain(variables);
        urls.any(|url| url.starts_with("https:"))
    }
}

/// What a span of a request has from the start.
#[derive(Debug, Clone, Copy)]
#[cfg_attr(
    not(feature = "otlp"),
    expect(dead_code, reason = "only a build with traces reads it")
)]
pub(crate) struct RequestAttributes<'a> {
    /// The pattern of the URL, if there is one.
    pub(crate) route: Option<&'a str>,
    pub(crate) client: Option<IpAddr>,
    /// The name of the API key.
    pub(crate) caller: Option<&'a str>,
}
