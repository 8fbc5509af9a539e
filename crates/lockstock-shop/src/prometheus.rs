//! The Prometheus recorder and the descriptions of all metrics.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;

use crate::storage::Storage;

const BUCKETS_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

const BUCKETS_JOBS: &[f64] = &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0];

/// The metrics of this process.
pub(crate) struct Metrics {
    recorder: PrometheusHandle,
    process: Collector,
}

impl Metrics {
    /// Installs the recorder of this process.
    pub(crate) fn install() -> anyhow::Result<Self> {
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS_SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_jobs".to_owned()), BUCKETS_JOBS)?
            .install_recorder()?;
        describe();
        let process = Collector::default();
        process.describe();
        gauge!("lockstock_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
        Ok(Self { recorder, process })
    }

    /// Returns the metrics in the text format of Prometheus.
    pub(crate) fn render(&self, storage: &dyn Storage) -> String {
        self.process.collect();
        let connections = storage.connections();
        for (state, count) in [("in_use", connections.in_use), ("idle", connections.idle)] {
            gauge!("lockstock_database_connections", "state" => state).set(count as f64);
        }
        gauge!("lockstock_database_connections_max").set(connections.max as f64);
        self.recorder.render()
    }

    /// Merges the samples of the histograms. Called regularly, so that they do not collect.
    pub(crate) fn run_upkeep(&self) {
        self.recorder.run_upkeep();
    }
}

fn describe() {
    describe_gauge!(
        "lockstock_build_info",
        "Always 1; the label is the version of the server"
    );
    describe_gauge!(
        "lockstock_database_connections",
        "Connections to the database, in use and idle"
    );
    describe_gauge!(
        "lockstock_database_connections_max",
        "Maximum number of connections in use"
    );
    describe_histogram!(
        "lockstock_batch_jobs",
        "Calls that were carried out together in one batch"
    );
    describe_counter!(
        "lockstock_orders_total",
        "Purchases and reservations by their outcome"
    );
    describe_counter!("lockstock_units_sold_total", "Units sold");
    describe_counter!("lockstock_units_reserved_total", "Units set aside");
    describe_counter!("lockstock_http_requests_total", "Responses sent");
    describe_histogram!(
        "lockstock_http_request_seconds",
        "Time from a request to its response"
    );
    describe_gauge!(
        "lockstock_http_requests_in_flight",
        "API requests in progress"
    );
    describe_counter!(
        "lockstock_key_requests_total",
        "Responses sent to each API key"
    );
    describe_counter!(
        "lockstock_key_reloads_total",
        "Times that the file of API keys was read again"
    );
    describe_counter!(
        "lockstock_rate_limited_total",
        "Requests over the rate limit of their caller"
    );
    describe_gauge!(
        "lockstock_backend_up",
        "1 while a write to the backend would succeed, otherwise 0"
    );
    describe_counter!("lockstock_lock_held_total", "Attempts that acquired a lock");
    describe_counter!(
        "lockstock_lock_busy_total",
        "Attempts that found a lock busy"
    );
    describe_counter!(
        "lockstock_lock_lost_total",
        "Locks lost before they were released"
    );
    describe_histogram!(
        "lockstock_lock_wait_seconds",
        "Time from an attempt to its outcome"
    );
    describe_histogram!(
        "lockstock_lock_hold_seconds",
        "Time from held to released or kept"
    );
    describe_counter!(
        "lockstock_forced_releases_total",
        "Locks that were taken away from their holders over the API"
    );
    describe_gauge!("lockstock_watchers", "Open streams of live events");
    describe_counter!(
        "lockstock_fenced_writes_total",
        "Writes rejected because their lock was lost"
    );
    describe_counter!(
        "lockstock_lock_handovers_total",
        "How waiters acquired a lock in Redis"
    );
    describe_counter!(
        "lockstock_spans_exported_total",
        "Spans of traces that the collector has taken"
    );
    describe_counter!(
        "lockstock_spans_dropped_total",
        "Spans of traces that were not sent"
    );
    // Present from the start: an alert on a missing counter never fires, and a rate needs the
    // value before the first event.
    for counter in [
        "lockstock_lock_held_total",
        "lockstock_lock_busy_total",
        "lockstock_lock_lost_total",
        "lockstock_fenced_writes_total",
        "lockstock_forced_releases_total",
        "lockstock_units_sold_total",
        "lockstock_units_reserved_total",
    ] {
        counter!(counter).absolute(0);
    }
    gauge!("lockstock_watchers").set(0.0);
    for result in ["succeeded", "failed"] {
        counter!("lockstock_key_reloads_total", "result" => result).absolute(0);
    }
    for policy in ["key", "address"] {
        counter!("lockstock_rate_limited_total", "policy" => policy).absolute(0);
    }
    if cfg!(feature = "otlp") {
        counter!("lockstock_spans_exported_total").absolute(0);
        for reason in ["queue_full", "export_failed"] {
            counter!("lockstock_spans_dropped_total", "reason" => reason).absolute(0);
        }
    }
    for kind in ["local", "remote", "expiry"] {
        counter!("lockstock_lock_handovers_total", "kind" => kind).absolute(0);
    }
    for order in ["purchase", "reserve", "confirm", "extend", "cancel"] {
        for outcome in ["done", "insufficient", "expired"] {
            let labels = [("order", order), ("outcome", outcome)];
            counter!("lockstock_orders_total", &labels).absolute(0);
        }
    }
}
