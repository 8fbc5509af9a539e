//! The options of the server.

use std::time::Duration;

use clap::Args;
use clap::builder::BoolishValueParser;

use crate::cli::access::AccessArgs;
use crate::cli::listen_address::{self, ListenAddress};
use crate::cli::threads::ThreadArgs;
use crate::cli::tls::TlsArgs;
use crate::cli::traces::TraceArgs;
use crate::cli::values::{self, duration_in, number_in, whole_seconds_in};
use crate::forwarding::{PublicUrl, TrustedProxy};
use crate::http::middleware::cors::CorsOrigin;
use crate::http::update_lock::{AfterUpdate, LockNameTemplate};
use crate::logging::LogFormat;
use crate::replicas::ReplicaUrl;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

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
    pub(super) listen: ListenAddress,

    #[command(flatten)]
    pub(in crate::commands) tls: TlsArgs,

    /// URL under which clients reach the API, for links [default: from the request]
    #[arg(long, env = "LOCKSTOCK_PUBLIC_URL", value_name = "URL")]
    pub(in crate::commands) public_url: Option<PublicUrl>,

    /// Proxies whose X-Forwarded-For, -Proto and -Host, or Forwarded, are read: addresses,
    /// networks, or unix for all peers of a Unix socket, separated by commas
    #[arg(
        long,
        env = "LOCKSTOCK_TRUSTED_PROXIES",
        value_name = "NETWORKS",
        value_delimiter = ','
    )]
    pub(super) trusted_proxies: Vec<TrustedProxy>,

    /// Origins whose pages may call the API from a browser, separated by commas, or *
    #[arg(
        long,
        env = "LOCKSTOCK_CORS_ORIGINS",
        value_name = "ORIGINS",
        value_delimiter = ','
    )]
    pub(super) cors_origins: Vec<CorsOrigin>,

    /// URLs of the other servers of this shop, separated by commas, so that a race of the board can be
    /// at all of them. They get the API keys of its requests [default: a race is at this server]
    #[arg(
        long,
        env = "LOCKSTOCK_REPLICAS",
        value_name = "URLS",
        value_delimiter = ','
    )]
    pub(in crate::commands) replicas: Vec<ReplicaUrl>,

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
    pub(in crate::commands) store: String,

    /// URL of the database: sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME. Missing tables
    /// are created
    #[arg(
        long,
        env = "LOCKSTOCK_DATABASE",
        value_name = "URL",
        default_value = "sqlite://lockstock.sqlite3",
        hide_env_values = true
    )]
    pub(in crate::commands) database: String,

    /// Maximum time of one update. With --after-update keep also the cool-down: further updates
    /// of the product get 429 until it ends
    #[arg(long, env = "LOCKSTOCK_UPDATE_LEASE", value_name = "TIME", default_value = "3s", value_parser = duration_in(values::LEASE, "3s"))]
    pub(in crate::commands) update_lease: Duration,

    /// How long an update waits for the lock of its product before it gets 429
    #[arg(long, env = "LOCKSTOCK_UPDATE_WAIT", value_name = "TIME", default_value = "1s", value_parser = duration_in(Duration::ZERO..=HOUR, "1s"))]
    pub(in crate::commands) update_wait: Duration,

    /// Name of the lock of a product, with {id} for its id. Replicas, and other programs that
    /// update the same products, use the same name: django-redis puts its prefix and version in
    /// front, like :1:product-update-lock-{id}
    #[arg(
        long,
        env = "LOCKSTOCK_UPDATE_LOCK",
        value_name = "TEMPLATE",
        default_value = "product-update-lock-{id}"
    )]
    pub(in crate::commands) update_lock: LockNameTemplate,

    /// What happens to the lock of a product after a successful update
    #[arg(
        long,
        env = "LOCKSTOCK_AFTER_UPDATE",
        value_name = "ACTION",
        default_value = "keep",
        value_enum
    )]
    pub(in crate::commands) after_update: AfterUpdate,

    /// How long a reservation lasts if the request gives no time
    #[arg(long, env = "LOCKSTOCK_RESERVATION_TTL", value_name = "TIME", default_value = "10m", value_parser = whole_seconds_in(SECOND..=30 * DAY, "10m"))]
    pub(super) reservation_ttl: Duration,

    /// Maximum time that a request may reserve stock for
    #[arg(long, env = "LOCKSTOCK_MAX_RESERVATION_TTL", value_name = "TIME", default_value = "1d", value_parser = whole_seconds_in(SECOND..=30 * DAY, "1d"))]
    pub(super) max_reservation_ttl: Duration,

    /// Maximum quantity of one purchase or reservation
    #[arg(long, env = "LOCKSTOCK_MAX_QUANTITY", value_name = "NUMBER", default_value = "1000", value_parser = number_in(1..=1_000_000_i64, 1000))]
    pub(super) max_quantity: i64,

    /// How long a recorded response is replayed to requests with the same Idempotency-Key
    #[arg(long, env = "LOCKSTOCK_KEY_RETENTION", value_name = "TIME", default_value = "1d", value_parser = duration_in(SECOND..=366 * DAY, "1d"))]
    pub(super) key_retention: Duration,

    /// Reject updates without an If-Match header (428)
    #[arg(long, env = "LOCKSTOCK_REQUIRE_IF_MATCH", value_parser = BoolishValueParser::new())]
    pub(super) require_if_match: bool,

    /// Do not create sample products in an empty database
    #[arg(long, env = "LOCKSTOCK_NO_SAMPLES", value_parser = BoolishValueParser::new())]
    pub(super) no_samples: bool,

    #[command(flatten)]
    pub(in crate::commands) access: AccessArgs,

    /// What to log: error, warn, info, debug, or a filter like warn,lockstock=debug
    #[arg(
        long,
        env = "LOCKSTOCK_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(super) log: String,

    /// Format of the log
    #[arg(
        long,
        env = "LOCKSTOCK_LOG_FORMAT",
        value_name = "FORMAT",
        default_value = "auto",
        value_enum
    )]
    pub(super) log_format: LogFormat,

    #[command(flatten)]
    pub(super) traces: TraceArgs,

    /// Maximum size of a request body in bytes. Larger bodies get 413
    #[arg(long, env = "LOCKSTOCK_BODY_LIMIT", value_name = "BYTES", default_value = "65536", value_parser = number_in(64..=16_777_216_usize, 65536), help_heading = "Limits")]
    pub(super) body_limit: usize,

    /// Maximum number of API requests in progress. Further requests get 503
    #[arg(long, env = "LOCKSTOCK_MAX_REQUESTS", value_name = "NUMBER", default_value = "1024", value_parser = number_in(1..=1_000_000_usize, 1024), help_heading = "Limits")]
    pub(super) max_requests: usize,

    /// Maximum number of client connections. Further connections wait to be accepted
    #[arg(long, env = "LOCKSTOCK_MAX_CONNECTIONS", value_name = "NUMBER", default_value = "10000", value_parser = number_in(1..=1_000_000_usize, 10_000), help_heading = "Limits")]
    pub(in crate::commands) max_connections: usize,

    /// Maximum number of streams of live events, which the board and `lockstock top` read. Further
    /// streams get 503. With 0 nothing is recorded for the board
    #[arg(long, env = "LOCKSTOCK_MAX_WATCHERS", value_name = "NUMBER", default_value = "256", value_parser = number_in(0..=1_000_000_usize, 256), help_heading = "Limits")]
    pub(super) max_watchers: usize,

    /// Maximum number of connections to the database
    #[arg(long, env = "LOCKSTOCK_DATABASE_CONNECTIONS", value_name = "NUMBER", default_value_t = 8, value_parser = number_in(2..=1000_u32, 8), help_heading = "Limits")]
    pub(in crate::commands) database_connections: u32,

    #[command(flatten)]
    pub(super) threads: ThreadArgs,

    /// Maximum time to receive the headers of a request. A connection that is idle for this time,
    /// or whose client does not read a response for this time, is closed; of a connection of HTTP/2
    /// only that response
    #[arg(long, env = "LOCKSTOCK_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(values::TIMEOUT, "10s"), help_heading = "Timeouts")]
    pub(super) header_timeout: Duration,

    /// Maximum time to receive the body of a request
    #[arg(long, env = "LOCKSTOCK_BODY_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(values::TIMEOUT, "10s"), help_heading = "Timeouts")]
    pub(super) body_timeout: Duration,

    /// Maximum time of a request from its headers to its response
    #[arg(long, env = "LOCKSTOCK_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = duration_in(values::TIMEOUT, "30s"), help_heading = "Timeouts")]
    pub(super) request_timeout: Duration,

    /// Maximum time of one call to the lock store
    #[arg(long, env = "LOCKSTOCK_STORE_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = duration_in(values::TIMEOUT, "1s"), help_heading = "Timeouts")]
    pub(in crate::commands) store_timeout: Duration,

    /// Maximum time of one call to the database
    #[arg(long, env = "LOCKSTOCK_DATABASE_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = duration_in(values::TIMEOUT, "5s"), help_heading = "Timeouts")]
    pub(in crate::commands) database_timeout: Duration,

    /// How long to serve after SIGTERM, so that a load balancer notices that /readyz fails
    #[arg(long, env = "LOCKSTOCK_DRAIN_DELAY", value_name = "TIME", default_value = "1s", value_parser = duration_in(Duration::ZERO..=HOUR, "1s"), help_heading = "Timeouts")]
    pub(super) drain_delay: Duration,

    /// Maximum time to finish requests in progress after the drain delay
    #[arg(long, env = "LOCKSTOCK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = duration_in(Duration::ZERO..=HOUR, "10s"), help_heading = "Timeouts")]
    pub(super) drain_timeout: Duration,
}

impl ServeArgs {
    /// Returns the number of threads that the server needs.
    pub(crate) fn worker_threads(&self) -> usize {
        self.threads.count(&self.database)
    }
}
