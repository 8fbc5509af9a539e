//! Options that work, but not as an operator may expect.

use super::ServeArgs;
use crate::http::update_lock::AfterUpdate;
use crate::replicas::ReplicaUrl;
use crate::traces::has_endpoint_variable;

/// Settings that work, but not as expected: what, why it matters, and what changes it.
pub(in crate::commands) type Pitfall = (&'static str, &'static str, &'static str);

/// Returns the pitfalls of the options.
pub(in crate::commands) fn of(args: &ServeArgs) -> Vec<Pitfall> {
    let mut pitfalls = Vec::new();
    if args.after_update == AfterUpdate::Keep && args.update_wait >= args.update_lease {
        pitfalls.push((
            "--update-wait is not shorter than --update-lease",
            "simultaneous updates succeed one after another instead of getting 429",
            "Shorten --update-wait or lengthen --update-lease",
        ));
    }
    let has_tls = args.tls.files().is_some() || !args.trusted_proxies.is_empty();
    if args.access.api_key_file.is_some() && !args.listen.is_local() && !has_tls {
        pitfalls.push((
            "requests come without TLS",
            "everyone on the way can read the secrets of API keys",
            "Serve HTTPS with --tls-cert and --tls-key, or put a proxy in front and name it with \
             --trusted-proxies",
        ));
    }
    if args.access.api_key_file.is_some() && args.replicas.iter().any(ReplicaUrl::is_plain) {
        pitfalls.push((
            "--replicas has URLs without TLS",
            "everyone on the way can read the secrets of API keys",
            "Serve HTTPS at these servers, and list URLs of https",
        ));
    }
    if args.store.starts_with("memory:") && !args.database.starts_with("sqlite:") {
        pitfalls.push((
            "the locks are in the memory of this process",
            "a second server on this database would not respect them",
            "For replicas, share a Redis with --store",
        ));
    }
    if std::env::var_os("RUST_LOG").is_some_and(|filter| !filter.is_empty()) {
        pitfalls.push((
            "RUST_LOG is set",
            "it is not read",
            "Use --log or LOCKSTOCK_LOG",
        ));
    }
    if !cfg!(feature = "otlp") && has_endpoint_variable() {
        pitfalls.push((
            "OTEL_EXPORTER_OTLP_ENDPOINT is set",
            "this build cannot send traces",
            "Build it with --features otlp, or use a released binary",
        ));
    }
    pitfalls
}
