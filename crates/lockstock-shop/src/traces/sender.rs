//! The way of spans to the collector: a bounded queue, batches, and requests of HTTP.

use std::env;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use axum::body::Bytes;
use axum::http;
use http_body_util::{BodyExt, Limited};
use metrics::counter;
use opentelemetry::Context;
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::SpanExporter as OtlpExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor,
};
use tokio::runtime::Handle;
use tracing::{info, warn};

use super::conventions;
use crate::http_client;

/// Spans that may wait for the collector, unless `OTEL_BSP_MAX_QUEUE_SIZE` is set. A span has about a
/// kilobyte.
const MAX_QUEUED: usize = 8192;
/// Maximum time of one request to the collector, and of its repetitions.
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(10);
/// A collector replies with a few bytes.
const MAX_REPLY_BYTES: usize = 64 * 1024;

/// Returns the processor of spans that end.
pub(super) fn processor(exporter: OtlpExporter, outcome: Arc<Outcome>) -> impl SpanProcessor {
    let queued = Arc::new(AtomicUsize::new(0));
    let max_queued = env::var("OTEL_BSP_MAX_QUEUE_SIZE").ok();
    let max_queued = max_queued.and_then(|number| number.parse().ok());
    let max_queued = max_queued
        .filter(|number| *number > 0)
        .unwrap_or(MAX_QUEUED);
    let config = BatchConfigBuilder::default().with_max_queue_size(max_queued);
    let exporter = Exporter {
        inner: exporter,
        queued: queued.clone(),
        outcome: outcome.clone(),
    };
    Processor {
        inner: BatchSpanProcessor::builder(exporter)
            .with_batch_config(config.build())
            .build(),
        queued,
        max_queued,
        outcome,
    }
}

/// The batches of the SDK, which does not count the spans that it drops.
#[derive(Debug)]
struct Processor {
    inner: BatchSpanProcessor,
    queued: Arc<AtomicUsize>,
    max_queued: usize,
    outcome: Arc<Outcome>,
}

impl SpanProcessor for Processor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.queued.fetch_add(1, Ordering::Relaxed) >= self.max_queued {
            self.queued.fetch_sub(1, Ordering::Relaxed);
            self.outcome.queue_full();
        } else {
            self.inner.on_end(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[derive(Debug)]
struct Exporter {
    inner: OtlpExporter,
    queued: Arc<AtomicUsize>,
    outcome: Arc<Outcome>,
}

impl SpanExporter for Exporter {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        self.queued.fetch_sub(count, Ordering::Relaxed);
        batch.iter_mut().for_each(conventions::apply);
        let result = self.inner.export(batch).await;
        match result {
            Ok(()) => self.outcome.exported(count),
            Err(_) => self.outcome.failed(count),
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// What becomes of spans: counted, and a change logged.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    is_failing: AtomicBool,
    has_overflowed: AtomicBool,
    /// Why the last request failed.
    reason: Mutex<String>,
}

impl Outcome {
    fn exported(&self, count: usize) {
        counter!("lockstock_spans_exported_total").increment(count as u64);
        if self.is_failing.swap(false, Ordering::Relaxed) {
            info!("the collector takes spans again");
        }
    }

    fn failed(&self, count: usize) {
        dropped("export_failed", count);
        if !self.is_failing.swap(true, Ordering::Relaxed) {
            let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
            warn!(
                reason = *reason,
                "the collector does not take spans: they are dropped until it does"
            );
        }
    }

    fn queue_full(&self) {
        dropped("queue_full", 1);
        if !self.has_overflowed.swap(true, Ordering::Relaxed) {
            warn!(
                "more spans end than the collector takes: the rest is dropped, and \
                 lockstock_spans_dropped_total counts them"
            );
        }
    }

    fn set_reason(&self, reason: String) {
        *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = reason;
    }
}

fn dropped(reason: &'static str, count: usize) {
    counter!("lockstock_spans_dropped_total", "reason" => reason).increment(count as u64);
}

/// Sends requests from the thread of the batches, on the runtime of the server.
#[derive(Debug)]
pub(super) struct Client {
    http: reqwest::Client,
    runtime: Handle,
    outcome: Arc<Outcome>,
}

impl Client {
    pub(super) fn new(outcome: Arc<Outcome>, uses_https: bool) -> reqwest::Result<Self> {
        let http = http_client::builder(uses_https).timeout(SEND_TIMEOUT);
        Ok(Self {
            http: http.build()?,
            runtime: Handle::current(),
            outcome,
        })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(
        &self,
        request: http::Request<Bytes>,
    ) -> Result<http::Response<Bytes>, HttpError> {
        let http = self.http.clone();
        let sent = self.runtime.spawn(async move {
            let response = http.execute(request.try_into()?).await;
            // A variable of OpenTelemetry may have put a password into the URL.
            let response = response.map_err(reqwest::Error::without_url)?;
            let (parts, body) = http::Response::from(response).into_parts();
            let body = Limited::new(body, MAX_REPLY_BYTES).collect().await;
            let body = body.map_err(anyhow::Error::from_boxed)?.to_bytes();
            anyhow::Ok(http::Response::from_parts(parts, body))
        });
        let result = sent.await.map_err(anyhow::Error::from).flatten();
        match &result {
            Ok(response) if response.status().is_success() => {}
            Ok(response) => self
                .outcome
                .set_reason(format!("HTTP status {}", response.status())),
            Err(error) => self.outcome.set_reason(format!("{error:#}")),
        }
        result.map_err(Into::into)
    }
}
