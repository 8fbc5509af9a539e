//! The export of spans.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use tokio::task::spawn_blocking;
use tracing::subscriber::Interest;
use tracing::{Level, Metadata, warn};
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::Context;
use tracing_subscriber::{Layer, Registry};

use super::request::Unsampled;
use super::sender::{Client, Outcome, SEND_TIMEOUT, processor};
use super::{TraceSettings, has_endpoint_variable};
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
        if settings.endpoint.is_none() && !has_endpoint_variable() {
            return Ok(None);
        }
        let outcome = Arc::new(Outcome::default());
        let mut exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_timeout(SEND_TIMEOUT)
            .with_http_client(Client::new(outcome.clone(), settings.uses_https())?);
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
        let filter = dynamic_filter_fn(|metadata, context: &Context<'_, Registry>| {
            is_of_this_server(metadata) && !is_unsampled(context)
        });
        let filter = filter
            .with_callsite_filter(|metadata| match is_of_this_server(metadata) {
                true => Interest::sometimes(),
                false => Interest::never(),
            })
            .with_max_level_hint(Level::DEBUG);
        Ok(Some((Self { provider }, layer.with_filter(filter).boxed())))
    }

    /// Sends the spans that wait, within [`FLUSH_TIMEOUT`].
    pub(crate) async fn flush(self) {
        let shutdown = move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT);
        let result = spawn_blocking(shutdown).await.map_err(anyhow::Error::from);
        if let Err(error) = result.and_then(|result| Ok(result?)) {
            warn!(%error, "the last spans were not sent");
        }
    }
}

fn is_of_this_server(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target().starts_with("lockstock")
}

/// Returns whether a new span would be a part of a request that is not sent.
fn is_unsampled(context: &Context<'_, Registry>) -> bool {
    let span = context.lookup_current();
    span.is_some_and(|span| span.extensions().get::<Unsampled>().is_some())
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
