//! Traces in a build without the feature `otlp`.

use axum::http::{HeaderMap, StatusCode};
use tracing::Span;

use super::{RequestAttributes, TraceSettings};
use crate::logging::SpanLayer;

/// The export of spans, which this build does not have.
pub(crate) enum Traces {}

impl Traces {
    /// Returns `None`.
    ///
    /// # Errors
    ///
    /// If an option asks for traces.
    pub(crate) fn start(settings: &TraceSettings) -> anyhow::Result<Option<(Self, SpanLayer)>> {
        anyhow::ensure!(
            settings.endpoint.is_none() && settings.sample.is_none(),
            "this build cannot send traces: build it with `--features otlp`, use a released binary, or \
             remove --otlp-endpoint and --otlp-sample"
        );
        Ok(None)
    }

    /// Never called.
    pub(crate) async fn flush(self) {
        match self {}
    }
}

/// The trace of a request, which this build does not have.
pub(crate) struct RequestTrace;

impl RequestTrace {
    /// Does nothing.
    pub(crate) fn begin(_: &Span, _: &HeaderMap, _: RequestAttributes<'_>) -> Self {
        Self
    }

    /// Does nothing.
    pub(crate) fn end(self, _: StatusCode, _: Option<&'static str>) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_of_traces_is_an_error_that_names_the_feature() {
        let start = |endpoint: Option<&str>, sample| {
            let endpoint = endpoint.map(str::to_owned);
            Traces::start(&TraceSettings { endpoint, sample })
        };
        assert!(matches!(start(None, None), Ok(None)));
        for (endpoint, sample) in [(Some("http://127.0.0.1:4318"), None), (None, Some(0.5))] {
            let Err(error) = start(endpoint, sample) else {
                panic!("traces without the feature");
            };
            assert!(error.to_string().contains("--features otlp"), "{error}");
        }
    }
}
