//! `lockstock serve`: opens the store and the database, listens, and shuts down in order.
//!
//! On SIGTERM `/readyz` fails at once, and requests are served for another `--drain-delay`. Then the
//! server closes its socket, finishes the requests in progress, releases its locks and exits with 0,
//! within `--drain-timeout`. A second signal ends the process at once.

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
use clap::Args;
use clap::builder::BoolishValueParser;
use lockstock::{Store, redact_url};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout};
use tracing::{info, warn};

use self::listener::Listener;
use self::reload::Hangups;
use self::service_manager::ServiceManager;
use self::shutdown::Signals;
use self::tls::Tls;
use self::welcome::print_welcome;
use crate::access::Access;
use crate::cli::access::AccessArgs;
use crate::cli::listen_address::{self, ListenAddress};
use crate::cli::store_url::explain_first_error;
use crate::cli::threads::ThreadArgs;
use crate::cli::tls::TlsArgs;
use crate::cli::traces::TraceArgs;
use crate::cli::values::{self, duration_in, number_in, whole_seconds_in};
use crate::drf::body::BodyLimits;
use crate::forwarding::{Forwarding, PublicUrl, TrustedProxy};
use crate::health::{Health, report_store_error};
use crate::http::idempotency;
use crate::http::lock_observer::LiveObserver;
use crate::http::middleware::cors::CorsOrigin;
use crate::http::update_lock::{AfterUpdate, LockNameTemplate, UpdateLockSettings, update_lock};
use crate::live::{Live, ProductLocks};
use crate::logging::{self, LogFormat};
use crate::prometheus::Metrics;
use crate::replicas::{ReplicaUrl, Replicas};
use crate::router::routers;
use crate::settings::Settings;
use crate::state::{AppState, AppStateInner, Backends};
use crate::storage::{self, StorageOptions, redact_database_url};
use crate::traces::Traces;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How often the metrics recorder merges the samples of its histograms, and callers that are below
/// their rate limit are forgotten.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);
/// Connections to the address for operators, for which few files are reserved. A page of the board
/// takes one for its stream, and some more while it loads.
const OPERATOR_CONNECTIONS: usize = 32;
/// The options that choose the addresses, for errors.
const LISTEN: &str = "--listen";
const OPERATE_LISTEN: &str = "--operate-listen";
/// Pause after a failed `accept`, most often for want of file descriptors.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Host and port to listen on, or unix:PATH for a Unix socket. An address that other machines
    /// can reach requires --api-key-file or --insecure
    #[arg(
        long,
        env = "LOCKSTOCK_LISTEN",
        value_name = "HOST:PORT",
        default_value = "127.0.0.1:8000", value_parser = listen_address::parse
    )]
    listen: ListenAddress,

    #[command(flatten)]
    pub(super) tls: TlsArgs,

    /// URL under which clients reach the API, for links [default: from the request]
    #[arg(long, env = "LOCKSTOCK_PUBLIC_URL", value_name = "URL")]
    pub(super) public_url: Option<PublicUrl>,

    /// Proxies whose X-Forwarded-For, -Proto and -Host, or Forwarded, are read: addresses,
    /// networks, or unix for all peers of a Unix socket, separated by commas
    #[arg(
        long,
        env = "LOCKSTOCK_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        value_delimiter = ','
    )]
    trusted_proxies: Vec<TrustedProxy>,

    /// Origins whose pages may call the API from a browser, separated by commas, or *
    #[arg(
        long,
        env = "LOCKSTOCK_CORS_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    cors_origins: Vec<CorsOrigin>,

    /// URLs of the other servers of this shop, separated by commas, so that a race of the board can be
    /// at all of them. They get the API keys of its requests [default: a race is at this server]
    #[arg(
        long,
        env = "LOCKSTOCK_REPLICAS",
        value_name = "URLS",
        value_delimiter = ','
    )]
    pub(super) replicas: Vec<ReplicaUrl>,

    /// URL of the lock store: memory://, redis://HOST:PORT/DB, redis+unix:///PATH,
    /// redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT;
    /// rediss… for TLS. Replicas share one Redis. Locks in memory, cool-downs included, end with the
    /// process
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_env_values = true
    )]
    pub(super) store: String,

    /// URL of the database: sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME. Missing tables
    /// are created
    #[arg(
        long,
        env = "LOCKSTOCK_DATABASE",
        value_name = "URL",
        default_value = "sqlite://lockstock.sqlite3",
        hide_env_values = true
    )]
    pub(super) database: String,

    /// Maximum time of one update. With --after-update keep also the cool-down: further updates
    /// of the product get 429 until it ends
    #[arg(long, env = "LOCKSTOCK_UPDATE_LEASE", value_name = "TIME", default_value = "3s", value_parser = duration_in(values::LEASE, "3s"))]
    pub(super) update_lease: Duration,

    /// How long an update waits for the lock of its product before it gets 429
    #[arg(long, env = "LOCKSTOCK_UPDATE_WAIT", value_name = "TIME", default_value = "1s", value_parser = duration_in(Duration::ZERO..=HOUR, "1s"))]
    pub(super) update_wait: Duration,

    /// Name of the lock of a product, with {id} for its id. Replicas, and other programs that
    /// update the same products, use the same name: django-redis puts its prefix and version in
    /// front, like :1:product-update-lock-{id}
    #[arg(
        long,
        env = "LOCKSTOCK_UPDATE_LOCK",
        value_name = "TEMPLATE",
        default_value = "product-update-lock-{id}"
    )]
    pub(super) update_lock: LockNameTemplate,

    /// What happens to the lock of a product after a successful update
    #[arg(
        long,
        env = "LOCKSTOCK_AFTER_UPDATE",
        value_name = "ACTION",
        default_value = "keep",
        value_enum
    )]
    pub(super) after_update: AfterUpdate,

    /// How long a reservation lasts if the request gives no time
    #[arg(long, env = "LOCKSTOCK_RESERVATION_TTL", value_name = "TIME", default_value = "10m", value_parser = whole_seconds_in(SECOND..=30 * DAY, "10m"))]
    reservation_ttl: Duration,

    /// Maximum time that a request may reserve stock for
    #[arg(long, env = "LOCKSTOCK_MAX_RESERVATION_TTL", value_name = "TIME", default_value = "1d", value_parser = whole_seconds_in(SECOND..=30 * DAY, "1d"))]
    max_reservation_ttl: Duration,

    /// Maximum quantity of one purchase or reservation
    #[arg(long, env = "LOCKSTOCK_MAX_QUANTITY", value_name = "NUMBER", default_value = "1000", value_parser = number_in(1..=1_000_000_i64, 1000))]
    max_quantity: i64,

    /// How long a recorded response is replayed to requests with the same Idempotency-Key
    #[arg(long, env = "LOCKSTOCK_KEY_RETENTION", value_name = "TIME", default_value = "1d", value_parser = duration_in(SECOND..=366 * DAY, "1d"))]
    key_retention: Duration,

    /// Reject updates without an If-Match header (428)
    #[arg(long, env = "LOCKSTOCK_REQUIRE_IF_MATCH", value_parser = BoolishValueParser::new())]
    require_if_match: bool,

    /// Do not create sample products in an empty database
    #[arg(long, env = "LOCKSTOCK_NO_SAMPLES", value_parser = BoolishValueParser::new())]
    no_samples: bool,

    #[command(flatten)]
    pub(super) access: AccessArgs,

    /// What to log: error, warn, info, debug, or a filter like warn,lockstock=debug
    #[arg(
        long,
        env = "LOCKSTOCK_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    log: String,

    /// Format of the log
    #[arg(
        long,
        env = "LOCKSTOCK_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        value_enum
    )]
    log_format: LogFormat,

    #[command(flatten)]
    traces: TraceArgs,

    /// Maximum size of a request body in bytes. Larger bodies get 413
    #[arg(long, env = "LOCKSTOCK_BODY_LIMIT", value_name = "BYTES", default_value = "65536", value_parser = number_in(64..=16_777_216_usize, 65536), help_heading = "Limits")]
    body_limit: usize,

    /// Maximum number of API requests in progress. Further requests get 503
    #[arg(long, env = "LOCKSTOCK_MAX_REQUESTS", value_name = "NUMBER", default_value = "1024", value_parser = number_in(1..=1_000_000_usize, 1024), help_heading = "Limits")]
    max_requests: usize,

    /// Maximum number of client connections. Further connections wait to be accepted
    #[arg(long, env = "LOCKSTOCK_MAX_CONNECTIONS", value_name = "NUMBER", default_value = "10000", value_parser = number_in(1..=1_000_000_usize, 10_000), help_heading = "Limits")]
    pub(super) max_connections: usize,

    /// Maximum number of streams of live events, which the board and `lockstock top` read. Further
    /// streams get 503. With 0 nothing is recorded for the board
    #[arg(long, env = "LOCKSTOCK_MAX_WATCHERS", value_name = "NUMBER", default_value = "256", value_parser = number_in(0..=1_000_000_usize, 256), help_heading = "Limits")]
    max_watchers: usize,

    /// Maximum number of connections to the database
    #[arg(long, env = "LOCKSTOCK_DATABASE_CONNECTIONS", value_name = "NUMBER", default_value_t = 8, value_parser = number_in(2..=1000_u32, 8), help_heading = "Limits")]
    pub(super) database_connections: u32,

    #[command(flatten)]
    threads: ThreadArgs,

    /// Maximum time to receive the headers of a request. A connection that is idle for this time,
    /// or whose client does not read a response for this time, is closed; of a connection of HTTP/2
    /// only that response
    #[arg(long, env = "LOCKSTOCK_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(values::TIMEOUT, "10s"), help_heading = "Timeouts")]
    header_timeout: Duration,

    /// Maximum time to receive the body of a request
    #[arg(long, env = "LOCKSTOCK_BODY_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(values::TIMEOUT, "10s"), help_heading = "Timeouts")]
    body_timeout: Duration,

    /// Maximum time of a request from its headers to its response
    #[arg(long, env = "LOCKSTOCK_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration_in(values::TIMEOUT, "30s"), help_heading = "Timeouts")]
    request_timeout: Duration,

    /// Maximum time of one call to the lock store
    #[arg(long, env = "LOCKSTOCK_STORE_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = duration_in(values::TIMEOUT, "1s"), help_heading = "Timeouts")]
    pub(super) store_timeout: Duration,

    /// Maximum time of one call to the database
    #[arg(long, env = "LOCKSTOCK_DATABASE_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration_in(values::TIMEOUT, "5s"), help_heading = "Timeouts")]
    pub(super) database_timeout: Duration,

    /// How long to serve after SIGTERM, so that a load balancer notices that /readyz fails
    #[arg(long, env = "LOCKSTOCK_DRAIN_DELAY", value_name = "TIME", default_value = "1s", value_parser = duration_in(Duration::ZERO..=HOUR, "1s"), help_heading = "Timeouts")]
    drain_delay: Duration,

    /// Maximum time to finish requests in progress after the drain delay
    #[arg(long, env = "LOCKSTOCK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(Duration::ZERO..=HOUR, "10s"), help_heading = "Timeouts")]
    drain_timeout: Duration,
}

impl ServeArgs {
    /// Returns the number of threads that the server needs.
    pub(crate) fn worker_threads(&self) -> usize {
        self.threads.count(&self.database)
    }
}

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
                if error_logged.is_none_or(|at| at.elapsed() >= SECOND) {
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
