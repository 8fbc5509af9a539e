//! The export of spans.

use std::env;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tracing::{Level, warn};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::filter_fn;

use super::sender::{Client, Outcome, SEND_TIMEOUT, processor};
use super::{ENDPOINT_VARIABLES, TraceSettings};
use crate::logging::SpanLayer;

/// How long the last spans may take when the server stops. Part of `TimeoutStopSec` in
/// `deploy/lockstock.service`.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

const SERVICE_NAME: &str = "service.name";
/// The name that the SDK gives a service without one.
const UNKNOWN_SERVICE: &str = "unknown_service";

/// A running export of spans.
pub(crate) struct Traces {
    provider: SdkTracerProvider,
}

impl Traces {
    /// Starts the export, if an option or a variable of OpenTelemetry names a collector. The layer
    /// makes spans of OpenTelemetry from those of this server.
    ///
    /// # Errors
    ///
    /// If a variable of OpenTelemetry is invalid.
    pub(crate) fn start(settings: &TraceSettings) -> anyhow::Result<Option<(Self, SpanLayer)>> {
        let is_set = |name: &&str| env::var_os(name).is_some_and(|value| !value.is_empty());
        if settings.endpoint.is_none() && !ENDPOINT_VARIABLES.iter().any(|name| is_set(name)) {
            return Ok(None);
        }
        let outcome = Arc::new(Outcome::default());
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(SEND_TIMEOUT)
            .with_http_client(Client::new(outcome.clone())?);
        if let Some(endpoint) = &settings.endpoint {
            let endpoint = endpoint.trim_end_matches('/');
            exporter = exporter.with_endpoint(format!("{endpoint}/v1/traces"));
        }
        let exporter = exporter.build().context("cannot send traces")?;
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource())
            .with_span_processor(processor(exporter, outcome));
        if let Some(share) = settings.sample {
            let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(share)));
            provider = provider.with_sampler(sampler);
        }
        let provider = provider.build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("lockstock"))
            .with_context_activation(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false);
        let of_this_server =
            filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("lockstock"));
        let layer = layer.with_filter(of_this_server.with_max_level_hint(Level::DEBUG));
        Ok(Some((Self { provider }, layer.boxed())))
    }

    /// Sends the spans that wait, within [`FLUSH_TIMEOUT`].
    pub(crate) async fn flush(self) {
        let shutdown = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        match tokio::task::spawn_blocking(shutdown).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "the last spans were not sent"),
            Err(error) => warn!(%error, "the last spans were not sent"),
        }
    }
}

/// Describes this process: the variables of OpenTelemetry come first.
fn resource() -> Resource {
    let detected = Resource::builder().build();
    let name = detected.get(&SERVICE_NAME.into());
    let is_named = name.is_some_and(|name| !name.as_str().starts_with(UNKNOWN_SERVICE));
    let mut resource = Resource::builder();
    if !is_named {
        resource = resource.with_service_name("lockstock");
    }
    let version = env!("CARGO_PKG_VERSION");
    resource
        .with_attribute(KeyValue::new("service.version", version))
        .build()
}
