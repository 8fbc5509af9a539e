//! The Prometheus recorder and the descriptions of all metrics.

use metrics::{counter, describe_counter, describe_gauge, describe_histogram};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

const BUCKETS_SECONDS: &[f64] = &[
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// Installs the recorder of this process.
pub(super) fn install() -> anyhow::Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), BUCKETS_SECONDS)?
        .install_recorder()?;
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
        "lockstock_fenced_writes_total",
        "Writes rejected because their lock was lost"
    );
    describe_counter!(
        "lockstock_lock_handovers_total",
        "How waiters acquired a lock in Redis"
    );
    // Present from the start: an alert on a missing counter never fires, and a rate needs the
    // value before the first event.
    for counter in [
        "lockstock_lock_held_total",
        "lockstock_lock_busy_total",
        "lockstock_lock_lost_total",
        "lockstock_fenced_writes_total",
    ] {
        counter!(counter).absolute(0);
    }
    for result in ["succeeded", "failed"] {
        counter!("lockstock_key_reloads_total", "result" => result).absolute(0);
    }
    for policy in ["key", "address"] {
        counter!("lockstock_rate_limited_total", "policy" => policy).absolute(0);
    }
    for kind in ["local", "remote", "expiry"] {
        counter!("lockstock_lock_handovers_total", "kind" => kind).absolute(0);
    }
    Ok(handle)
}
