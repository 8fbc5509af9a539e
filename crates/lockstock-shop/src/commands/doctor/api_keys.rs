//! The file of API keys.

use std::path::Path;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, Utc};

use super::SOON;
use super::finding::Finding;
use crate::access::{ApiKey, Scope, read_keys};

/// Returns what is found of a file of API keys. With `has_local_metrics`, no key has to read metrics.
pub(super) fn examine(path: &Path, has_local_metrics: bool) -> Vec<Finding> {
    const CHECK: &str = "access.keys";
    let shown = path.display();
    let keys = match read_keys(path) {
        Ok(keys) => keys,
        Err(error) => {
            return vec![Finding::error(
                CHECK,
                format!("{error:#}"),
                "a server does not start, and a running one keeps its old keys",
                "correct the file, or write a new one with `lockstock key new`",
            )];
        }
    };
    let counts = Scope::ALL.map(|scope| {
        let count = keys.iter().filter(|key| key.scope == scope).count();
        format!("{count} {}", scope.name())
    });
    let what = format!("{shown} has keys of the scopes: {}", counts.join(", "));
    vec![
        Finding::ok(CHECK, what),
        expiry(&keys, Utc::now()),
        admin(&keys, has_local_metrics),
    ]
}

fn expiry(keys: &[Arc<ApiKey>], now: DateTime<Utc>) -> Finding {
    const CHECK: &str = "access.expiry";
    let is_before = |time| {
        move |key: &&Arc<ApiKey>| key.expires_at.is_some_and(|expires_at| expires_at <= time)
    };
    let named = |keys: Vec<&Arc<ApiKey>>| {
        let named = keys.iter().filter_map(|key| {
            let time = key.expires_at?.to_rfc3339_opts(SecondsFormat::Secs, true);
            Some(format!("{} ({time})", key.name))
        });
        named.collect::<Vec<_>>().join(", ")
    };
    let change = "lockstock key new NAME --scope SCOPE --file FILE, change the clients, remove the old \
                  line, and send SIGHUP";
    let expired = keys.iter().filter(is_before(now)).collect::<Vec<_>>();
    if expired.len() == keys.len() {
        let what = format!("all keys have expired: {}", named(expired));
        return Finding::error(CHECK, what, "every request gets 401", change);
    }
    let ending = keys
        .iter()
        .filter(is_before(now + SOON))
        .collect::<Vec<_>>();
    if ending.is_empty() {
        return Finding::ok(CHECK, "no key expires within 14 days");
    }
    let what = format!("expired, or within 14 days: {}", named(ending));
    Finding::warning(CHECK, what, "requests with an expired key get 401", change)
}

fn admin(keys: &[Arc<ApiKey>], has_local_metrics: bool) -> Finding {
    const CHECK: &str = "access.metrics";
    if has_local_metrics {
        return Finding::ok(
            CHECK,
            "--operate-listen serves metrics to this machine without a key",
        );
    }
    if keys.iter().any(|key| key.scope == Scope::Admin) {
        return Finding::ok(CHECK, "a key with the scope admin reads metrics");
    }
    Finding::warning(
        CHECK,
        "no key has the scope admin",
        "nothing can read /metrics",
        "lockstock key new prometheus --scope admin --file FILE, or --operate-listen 127.0.0.1:8001",
    )
}
