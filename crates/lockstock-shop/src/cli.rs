//! The command line, which is also the environment: each option `--some-name` can be given
//! as `LOCKSTOCK_SOME_NAME`.

pub(crate) mod lock_name;
mod locks;

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::builder::styling::AnsiColor;
use clap::builder::{BoolishValueParser, Styles};
use clap::{Args, Parser, Subcommand};

pub(crate) use self::locks::{Locks, LocksCommand, Release};
use crate::http::update_lock::AfterUpdate;

const STYLES: Styles = Styles::styled()
    .header(AnsiColor::Green.on_default().bold())
    .usage(AnsiColor::Green.on_default().bold())
    .literal(AnsiColor::Cyan.on_default());

const EXAMPLES: &str = "\
Examples:
  lockstock                                     the shop, in memory and in a SQLite file
  lockstock race                                five identical updates at once: one may win
  lockstock bench lock --store redis://127.0.0.1:6379/1
                                                how fast its lock is on your Redis
  lockstock --after-update release               one update at a time instead of one per lease
  lockstock --store redis://127.0.0.1:6379/1 \\
            --database postgres://shop@127.0.0.1/shop
                                                as one of several replicas
  lockstock locks --store redis://127.0.0.1:6379/1
                                                who holds what, and who waits for it
  lockstock --listen 0.0.0.0:8000 --insecure    for a private network";

/// A stock API that never sells the same thing twice
///
/// Without a command it serves the shop. Start it, then try `lockstock race` in another
/// terminal.
#[derive(Debug, Parser)]
#[command(name = "lockstock", version, styles = STYLES, after_help = EXAMPLES)]
#[command(args_conflicts_with_subcommands = true, args_override_self = true)]
pub struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) serve: Serve,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the shop (what happens without a command)
    #[command(args_override_self = true)]
    Serve(Box<Serve>),
    /// Fire identical updates at the same moment and see who wins
    Race(Race),
    /// Measure, on your store and your machine
    Bench(Bench),
    /// See who holds which lock and who waits for it; release one by force
    Locks(Locks),
}

/// How to serve.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// Where to listen. Other than on loopback only with --insecure
    #[arg(
        long,
        env = "LOCKSTOCK_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8000", value_parser = address
    )]
    pub(crate) listen: SocketAddr,

    /// Where the locks are: memory://, redis://HOST:PORT/DB, redis+unix:///PATH,
    /// redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB or redis+cluster://HOST:PORT,HOST:PORT;
    /// rediss… for TLS. Replicas share a Redis
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_env_values = true
    )]
    pub(crate) store: String,

    /// Where the products are: sqlite://FILE or postgres://USER:PASSWORD@HOST/NAME
    #[arg(
        long,
        env = "LOCKSTOCK_DATABASE",
        value_name = "URL",
        default_value = "sqlite://lockstock.sqlite3",
        hide_env_values = true
    )]
    pub(crate) database: String,

    /// How long one update may take, and after it (with --after-update keep) nobody may update
    /// the same product
    #[arg(long, env = "LOCKSTOCK_UPDATE_LEASE", value_name = "TIME", default_value = "3s", value_parser = lease)]
    pub(crate) update_lease: Duration,

    /// How long an update waits for the one before it
    #[arg(long, env = "LOCKSTOCK_UPDATE_WAIT", value_name = "TIME", default_value = "1s", value_parser = wait)]
    pub(crate) update_wait: Duration,

    /// After a successful update: keep the product's lock to the end of its lease, or release it
    #[arg(
        long,
        env = "LOCKSTOCK_AFTER_UPDATE",
        value_name = "ACTION",
        default_value = "keep",
        value_enum
    )]
    pub(crate) after_update: AfterUpdate,

    /// For how long stock is set aside if a reservation does not say so
    #[arg(long, env = "LOCKSTOCK_RESERVATION_TTL", value_name = "TIME", default_value = "10m", value_parser = reserved)]
    pub(crate) reservation_ttl: Duration,

    /// For how long stock can be set aside at most
    #[arg(long, env = "LOCKSTOCK_MAX_RESERVATION_TTL", value_name = "TIME", default_value = "1d", value_parser = reserved)]
    pub(crate) max_reservation_ttl: Duration,

    /// How many of a product one request may buy or set aside
    #[arg(long, env = "LOCKSTOCK_MAX_QUANTITY", value_name = "NUMBER", default_value = "1000", value_parser = quantity)]
    pub(crate) max_quantity: i64,

    /// For how long the answer to an Idempotency-Key is remembered
    #[arg(long, env = "LOCKSTOCK_KEY_RETENTION", value_name = "TIME", default_value = "1d", value_parser = retention)]
    pub(crate) key_retention: Duration,

    /// Refuse updates without If-Match (428)
    #[arg(long, env = "LOCKSTOCK_REQUIRE_IF_MATCH", value_parser = BoolishValueParser::new())]
    pub(crate) require_if_match: bool,

    /// Leave an empty database empty
    #[arg(long, env = "LOCKSTOCK_NO_SAMPLES", value_parser = BoolishValueParser::new())]
    pub(crate) no_samples: bool,

    /// Listen where others can come in, though nobody is asked for a key
    #[arg(long, env = "LOCKSTOCK_INSECURE", value_parser = BoolishValueParser::new())]
    pub(crate) insecure: bool,

    /// What to log: error, warn, info, debug, or a filter like warn,lockstock=debug
    #[arg(
        long,
        env = "LOCKSTOCK_LOG",
        value_name = "FILTER",
        default_value = "info"
    )]
    pub(crate) log: String,

    /// The most bytes of a request's body
    #[arg(long, env = "LOCKSTOCK_BODY_LIMIT", value_name = "BYTES", default_value = "65536", value_parser = body_limit, help_heading = "Limits")]
    pub(crate) body_limit: usize,

    /// The most API requests under way at once; the rest get 503
    #[arg(long, env = "LOCKSTOCK_MAX_REQUESTS", value_name = "NUMBER", default_value = "1024", value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_requests: usize,

    /// The most open connections from clients; more wait to be accepted
    #[arg(long, env = "LOCKSTOCK_MAX_CONNECTIONS", value_name = "NUMBER", default_value = "10000", value_parser = at_least_one, help_heading = "Limits")]
    pub(crate) max_connections: usize,

    /// The most connections to the database
    #[arg(long, env = "LOCKSTOCK_DATABASE_CONNECTIONS", value_name = "NUMBER", default_value_t = 8, value_parser = whole(2..=1000), help_heading = "Limits")]
    pub(crate) database_connections: u32,

    /// How long a request's headers may take to arrive, a connection may idle, and a client
    /// may take to read on in an answer
    #[arg(long, env = "LOCKSTOCK_HEADER_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = timeout, help_heading = "Timeouts")]
    pub(crate) header_timeout: Duration,

    /// How long a request's body may take to arrive
    #[arg(long, env = "LOCKSTOCK_BODY_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = timeout, help_heading = "Timeouts")]
    pub(crate) body_timeout: Duration,

    /// How long a request may take in all
    #[arg(long, env = "LOCKSTOCK_REQUEST_TIMEOUT", value_name = "TIME", default_value = "30s", value_parser = timeout, help_heading = "Timeouts")]
    pub(crate) request_timeout: Duration,

    /// How long the store may take to answer
    #[arg(long, env = "LOCKSTOCK_STORE_TIMEOUT", value_name = "TIME", default_value = "1s", value_parser = timeout, help_heading = "Timeouts")]
    pub(crate) store_timeout: Duration,

    /// How long the database may take to answer
    #[arg(long, env = "LOCKSTOCK_DATABASE_TIMEOUT", value_name = "TIME", default_value = "5s", value_parser = timeout, help_heading = "Timeouts")]
    pub(crate) database_timeout: Duration,

    /// How long to go on serving after SIGTERM, so that a balancer sees /readyz change
    #[arg(long, env = "LOCKSTOCK_DRAIN_DELAY", value_name = "TIME", default_value = "1s", value_parser = wait, help_heading = "Timeouts")]
    pub(crate) drain_delay: Duration,

    /// How long requests under way may take to finish after that
    #[arg(long, env = "LOCKSTOCK_DRAIN_TIMEOUT", value_name = "TIME", default_value = "10s", value_parser = wait, help_heading = "Timeouts")]
    pub(crate) drain_timeout: Duration,
}

/// How to race.
#[derive(Debug, Args)]
pub(crate) struct Race {
    /// The server to race on
    #[arg(
        long,
        env = "LOCKSTOCK_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    pub(crate) url: String,

    /// The product to update; the first one of the list if not given
    #[arg(long, value_name = "ID", value_parser = product_id)]
    pub(crate) product: Option<i64>,

    /// How many requests to fire at once
    #[arg(long, value_name = "NUMBER", default_value_t = 5, value_parser = whole(2..=1000))]
    pub(crate) requests: u32,

    /// How many times. Between two rounds the race waits until the product may be updated again
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole(1..=u32::MAX))]
    pub(crate) rounds: u32,

    /// Print one line of JSON per round instead of a picture
    #[arg(long)]
    pub(crate) json: bool,
}

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    pub(crate) what: Measured,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Measured {
    /// How fast a lock goes from hand to hand, how long one waits for it, and whether two ever
    /// hold it at once
    #[command(args_override_self = true, after_help = LOCK_BENCH)]
    Lock(LockBench),
    /// One of the processes that `bench lock` starts.
    #[command(hide = true)]
    Holders,
}

const LOCK_BENCH: &str = "\
Each task acquires its lock, works for --work, releases it, and begins again. Whether two held
one name at the same time is judged outside the lock, by the clock that all processes share;
if they did, or if a fence was not higher than the one before it, the exit code is 1.

Names are lockstock-bench-0 and so on, and nothing is left behind for them. Commands are counted
by the Redis itself (INFO and, for a moment after the measurement, MONITOR), so those of its
other clients count too: use one that is idle. Each acquisition takes 28 bytes in the folder for
temporary files until the end.

Examples:
  lockstock bench lock                                     in memory: 16 tasks, one name
  lockstock bench lock --store redis://127.0.0.1:6379/1 --processes 4 --tasks 4
                                                           one hot name, four processes
  lockstock bench lock --store redis://127.0.0.1:6379/1 --names 64 --tasks 64
                                                           nobody waits for anybody";

/// How to measure the lock.
#[derive(Debug, Args)]
pub(crate) struct LockBench {
    /// Where the locks are, as for the shop. memory:// is one process's own
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_env_values = true
    )]
    pub(crate) store: String,

    /// How many names there are to lock. Each task keeps to one
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole(1..=1_000_000))]
    pub(crate) names: u32,

    /// How many tasks each process has
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = whole(1..=100_000))]
    pub(crate) tasks: u32,

    /// How many processes there are, each with a store of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = whole(1..=256))]
    pub(crate) processes: u32,

    /// How long to measure
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = whole(1..=86_400))]
    pub(crate) seconds: u32,

    /// How long a lease is
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = lease)]
    pub(crate) lease: Duration,

    /// How long the work under the lock takes
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = work)]
    pub(crate) work: Duration,

    /// Print one line of JSON instead of a picture
    #[arg(long)]
    pub(crate) json: bool,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, like 127.0.0.1:8000".to_owned())
}

fn product_id(text: &str) -> Result<i64, String> {
    text.parse()
        .map_err(|_| "write the id of a product, like 1".to_owned())
}

fn whole(range: RangeInclusive<u32>) -> impl Fn(&str) -> Result<u32, String> + Clone {
    move |text| match text.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => Err(format!("write a whole number in {range:?}")),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "write a number and a unit, like 3s, 500ms or 2m".to_owned())
}

fn lease(text: &str) -> Result<Duration, String> {
    let lease = duration(text)?;
    if (lockstock::MIN_LEASE..=lockstock::MAX_LEASE).contains(&lease) {
        return Ok(lease);
    }
    Err("a lease takes 1ms to 24h, like 3s".to_owned())
}

fn wait(text: &str) -> Result<Duration, String> {
    let wait = duration(text)?;
    if wait <= Duration::from_secs(3600) {
        return Ok(wait);
    }
    Err("at most an hour (1h), like 1s".to_owned())
}

fn work(text: &str) -> Result<Duration, String> {
    let hold = duration(text)?;
    if hold <= Duration::from_secs(60) {
        return Ok(hold);
    }
    Err("at most a minute (1m), like 250us or 2ms".to_owned())
}

fn timeout(text: &str) -> Result<Duration, String> {
    let timeout = duration(text)?;
    if (Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&timeout) {
        return Ok(timeout);
    }
    Err("between 1ms and 1h, like 10s".to_owned())
}

fn body_limit(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(bytes @ 64..=16_777_216) => Ok(bytes),
        _ => Err("a number of bytes from 64 to 16777216, like 65536".to_owned()),
    }
}

fn reserved(text: &str) -> Result<Duration, String> {
    let hold = duration(text)?;
    let most = Duration::from_secs(30 * 24 * 3600);
    if hold.subsec_nanos() == 0 && (Duration::from_secs(1)..=most).contains(&hold) {
        return Ok(hold);
    }
    Err("whole seconds, from 1s to 30d, like 10m".to_owned())
}

fn retention(text: &str) -> Result<Duration, String> {
    let retention = duration(text)?;
    let most = Duration::from_secs(366 * 24 * 3600);
    if (Duration::from_secs(1)..=most).contains(&retention) {
        return Ok(retention);
    }
    Err("from 1s to 366d, like 1d".to_owned())
}

fn quantity(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("a number from 1 to 1000000".to_owned()),
    }
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(number @ 1..=1_000_000) => Ok(number),
        _ => Err("a number from 1 to 1000000".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
