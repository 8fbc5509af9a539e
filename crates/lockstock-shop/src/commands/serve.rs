//! `lockstock serve`: opens the store and the database, listens, and shuts down in order.
//!
//! On SIGTERM `/readyz` fails at once, and requests are served for another `--drain-delay`. Then the
//! server closes its socket, finishes the requests in progress, releases its locks and exits with 0,
//! within `--drain-timeout`. A second signal ends the process at once.

mod args;
pub(super) mod file_limit;
mod listener;
pub(super) mod pitfalls;
mod reload;
mod seed;
mod self_wake;
mod service_manager;
mod shutdown;
pub(super) mod tls;
mod welcome;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use lockstock::{Store, redact_url};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{info, warn};

pub(crate) use self::args::ServeArgs;
use self::listener::Listener;
use self::reload::Hangups;
use self::service_manager::ServiceManager;
use self::shutdown::Signals;
use self::tls::Tls;
use self::welcome::print_welcome;
use crate::access::Access;
use crate::cli::listen_address::ListenAddress;
use crate::cli::store_url::explain_first_error;
use crate::drf::body::BodyLimits;
use crate::forwarding::Forwarding;
use crate::health::{Health, report_store_error};
use crate::http::idempotency;
use crate::http::lock_observer::LiveObserver;
use crate::http::update_lock::{UpdateLockSettings, update_lock};
use crate::live::{Live, ProductLocks};
use crate::logging;
use crate::prometheus::Metrics;
use crate::replicas::Replicas;
use crate::router::routers;
use crate::settings::Settings;
use crate::state::{AppState, AppStateInner, Backends};
use crate::storage::{self, StorageOptions, redact_database_url};
use crate::traces::Traces;

/// How often the metrics recorder merges the samples of its histograms, and callers that are below
/// their rate limit are forgotten.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Connections to the address for operators, for which few files are reserved. A page of the board
/// takes one for its stream, and some more while it loads.
const OPERATOR_CONNECTIONS: usize = 32;
/// The options that choose the addresses, for errors.
const LISTEN: &str = "--listen";
const OPERATE_LISTEN: &str = "--operate-listen";
/// Minimum time between two lines of the log about failed calls of `accept`.
const ACCEPT_LOG_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed `accept`, most often for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

/// Serves until a signal stops the process.
pub(crate) async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let (traces, spans) = Traces::start(&args.traces.settings())?.unzip();
    let _flushed = logging::start(&args.log, args.log_format, spans)?;
    // Before all that may take time: until then, SIGHUP ends the process.
    let hangups = Hangups::listen()?;
    let service_manager = Arc::new(ServiceManager::from_environment());
    args.access.check_listeners(&args.listen)?;
    let access = args.access.access()?;
    // First, because a port in use is the most common mistake.
    let max_connections =
        file_limit::client_connections(args.max_connections, args.database_connections)?;
    let tls = args.tls.files().map(Tls::open).transpose()?;
    let bind = |address: &ListenAddress, option, max_connections| {
        let acceptor = tls.as_ref().map(|tls| tls.acceptor.clone());
        // A certificate is for the name under which other machines reach the server.
        let acceptor = acceptor.filter(|_| option == LISTEN || !address.is_local());
        Listener::bind(
            address,
            option,
            max_connections,
            args.header_timeout,
            acceptor,
        )
    };
    let listener = bind(&args.listen, LISTEN, max_connections)?;
    let for_operators = args.access.operate_listen.as_ref();
    let for_operators = for_operators
        .map(|address| bind(address, OPERATE_LISTEN, OPERATOR_CONNECTIONS))
        .transpose()?;
    let metrics = Metrics::install()?;
    let store = Store::open_within(&args.store, args.store_timeout)?;
    let store_health = Arc::new(Health::new("store"));
    check_store(&args.store, &store, &store_health).await?;
    let limits = StorageOptions {
        max_connections: args.database_connections,
        timeout: args.database_timeout,
        exclusive: args.store.starts_with("memory:"),
        key_retention: args.key_retention,
    };
    let mut storage = storage::open(&args.database, limits).await?;
    if traces.is_some() {
        storage = storage::traced(storage, &args.database);
    }
    if !args.no_samples {
        seed::create_if_empty(&*storage).await?;
    }
    let update_settings = UpdateLockSettings {
        lease: args.update_lease,
        wait: args.update_wait,
        after_update: args.after_update,
    };
    let forwarding = Arc::new(Forwarding {
        public_url: args.public_url.clone(),
        trusted_proxies: args.trusted_proxies.clone(),
    });
    let replicas = Replicas::open(&args.replicas, args.request_timeout)?;
    let (prefix, suffix) = args.update_lock.parts();
    let product_locks = ProductLocks {
        prefix: prefix.to_owned(),
        suffix: suffix.to_owned(),
    };
    let live = Live::new(
        store.clone(),
        storage.clone(),
        product_locks,
        args.max_watchers,
    );
    let observer = Arc::new(LiveObserver {
        live: live.clone(),
        forwarding: forwarding.clone(),
    });
    let state = AppState::new(AppStateInner {
        update_lock: update_lock(
            &store,
            &store_health,
            args.update_lock.clone(),
            update_settings,
            observer,
        ),
        live,
        idempotency: idempotency::layer(&storage, &store_health, args.body_limit),
        backends: Backends::new(storage.clone(), store.clone(), store_health),
        storage: storage.clone(),
        store,
        settings: Settings {
            body: BodyLimits {
                max_bytes: args.body_limit,
                timeout: args.body_timeout,
            },
            unread_timeout: args.header_timeout,
            request_timeout: args.request_timeout,
            max_in_flight: args.max_requests,
            require_if_match: args.require_if_match,
            max_quantity: args.max_quantity,
            reservation_ttl: args.reservation_ttl.min(args.max_reservation_ttl),
            max_reservation_ttl: args.max_reservation_ttl,
            key_retention: args.key_retention,
        },
        forwarding,
        replicas,
        metrics,
        draining: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
    });
    for (what, why, change) in pitfalls::of(&args) {
        warn!("{what}: {why}. {change}");
    }
    // Before the address is printed: a signal may follow at once.
    let signals = Signals::listen()?;
    let address = listener.address()?;
    let operate = for_operators.as_ref().map(Listener::address).transpose()?;
    print_welcome(&args, &address, operate.as_ref())?;
    info!(
        %address,
        operate = operate.as_ref().map(tracing::field::display),
        // The holder column of `lockstock locks`.
        process = %state.store.client_id(),
        store = redact_url(&args.store),
        database = redact_database_url(&args.database),
        "serving"
    );
    service_manager.ready();
    let mut background = JoinSet::new();
    hangups.watch(access.keys.clone(), tls, &mut background);
    serve(
        Listeners {
            api: listener,
            operators: for_operators,
        },
        state,
        access,
        background,
        &args,
        signals,
        service_manager,
    )
    .await;
    if timeout(args.drain_timeout, storage.close()).await.is_err() {
        warn!("the database connections did not close in time");
    }
    if let Some(traces) = traces {
        traces.flush().await;
    }
    info!("stopped");
    Ok(())
}

/// Where the server listens.
struct Listeners {
    api: Listener,
    operators: Option<Listener>,
}

async fn serve(
    listeners: Listeners,
    state: AppState,
    access: Access,
    mut background: JoinSet<()>,
    args: &ServeArgs,
    signals: Signals,
    service_manager: Arc<ServiceManager>,
) {
    let routers = routers(
        &state,
        args.cors_origins.clone(),
        access.clone(),
        args.access.for_operators(&access),
    );
    let router = routers.api;
    let mut upkeep = interval(UPKEEP_INTERVAL);
    background.spawn(idempotency::sweep(state.storage.clone()));
    let watched = state.clone();
    background.spawn(async move { watched.backends.watch().await });
    let live = state.live.clone();
    background.spawn(async move { match live.run().await {} });
    let watchdog = service_manager.clone();
    background.spawn(async move { watchdog.feed_watchdog().await });
    if let (Some(listener), Some(router)) = (listeners.operators, routers.operation) {
        // Until the end: draining can be observed.
        background.spawn(async move { match accept(&listener, &router).await {} });
    }
    let mut shutdown = pin!(signals.shutdown(args.drain_delay, || {
        state.draining.store(true, Ordering::Relaxed);
        // They would delay the end of the drain, and clients can go to another server.
        state.live.close();
        service_manager.stopping();
    }));
    let listener = listeners.api;
    let linger = {
        let mut accepting = pin!(accept(&listener, &router));
        loop {
            tokio::select! {
                never = &mut accepting => match never {},
                _ = upkeep.tick() => {
                    state.metrics.run_upkeep();
                    if let Some(limiter) = &access.rate_limiter {
                        limiter.forget_full();
                    }
                }
                linger = &mut shutdown => break linger,
            }
        }
    };
    let drained = async {
        if let Err(error) = listener.close(linger, &router).await {
            warn!(%error, "cannot accept the last connections");
        }
        state.update_lock.drain().await;
        state.idempotency.drain().await;
        state.store.drain().await;
    };
    if timeout(args.drain_timeout, drained).await.is_err() {
        warn!("some requests did not finish in time: their locks expire with their leases");
    }
}

/// Accepts connections, and serves each on a task of its own.
async fn accept(listener: &Listener, router: &Router) -> Infallible {
    let mut error_logged: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok(accepted) => listener.serve(accepted, router.clone()),
            Err(error) => {
                // Connections fail faster than an operator can read.
                if error_logged.is_none_or(|at| at.elapsed() >= ACCEPT_LOG_INTERVAL) {
                    warn!(%error, "cannot accept a connection");
                    error_logged = Some(Instant::now());
                }
                sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
}

/// Checks the store. If it is down, the server starts: reads and purchases do not need it. If it
/// rejects the URL, it would do so for ever.
async fn check_store(url: &str, store: &Store, health: &Health) -> anyhow::Result<()> {
    const REJECTIONS: [&str; 5] = [
        "WRONGPASS ",
        "NOAUTH ",
        "NOPERM ",
        "ERR ",
        "invalid peer certificate",
    ];
    let Err(error) = store.ping().await else {
        return Ok(());
    };
    let text = error.to_string();
    let is_rejected = REJECTIONS.iter().any(|code| text.contains(code));
    // An error of the moment.
    let is_crowded = text.contains("max number of clients");
    anyhow::ensure!(!is_rejected || is_crowded, text);
    report_store_error(health, &explain_first_error(url, text));
    Ok(())
}
