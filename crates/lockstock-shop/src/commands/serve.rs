//! Serving: open the store and the database, listen, and stop in order.
//!
//! On SIGTERM `/readyz` says so at once, requests go on being served for a moment, then
//! those under way are finished, locks are given back, and the process ends with 0, within
//! `--drain-delay` and `--drain-timeout`. A second signal ends it at once.

mod seed;

use std::io::Write;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use lockstock::{Store, redact_url};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};
use tracing::{info, warn};

use crate::cli::Serve;
use crate::drf::body::BodyLimits;
use crate::http::idempotency::{self, Keys};
use crate::http::update_lock::{Hold, UpdateRules, turns};
use crate::router::router;
use crate::settings::Settings;
use crate::state::{Parts, Shop};
use crate::storage::{self, StorageOptions};

/// The most bytes of a request's line and headers.
const HEAD_BYTES: usize = 64 * 1024;

/// The exit code of a server that was told twice to stop.
const FAILED_TO_DRAIN: i32 = 1;

/// Serves until told to stop.
pub(crate) async fn serve(options: Serve) -> anyhow::Result<()> {
    anyhow::ensure!(
        options.listen.ip().is_loopback() || options.insecure,
        "{} can be reached by others, and nobody is asked for a key: listen on 127.0.0.1, or \
         say --insecure if only people you trust can come in",
        options.listen
    );
    // Before anything is opened: a port in use is the most common mistake.
    let listener = TcpListener::bind(options.listen).await.with_context(|| {
        format!(
            "cannot listen on {}: choose another with --listen",
            options.listen
        )
    })?;
    let metrics = metrics()?;
    let store = Store::connect_within(&options.store, options.store_timeout).await?;
    let limits = StorageOptions {
        max_connections: options.database_connections,
        timeout: options.database_timeout,
        exclusive: options.store.starts_with("memory:"),
        key_retention: options.key_retention,
    };
    let storage = storage::open(&options.database, limits).await?;
    if !options.no_samples {
        seed::create_if_empty(&*storage).await?;
    }
    let rules = UpdateRules {
        lease: options.update_lease,
        wait: options.update_wait,
        hold: options.update_hold,
    };
    let shop = Shop::new(Parts {
        turns: turns(&store, rules),
        keys: Keys::new(storage.clone(), &store, options.body_limit),
        storage: storage.clone(),
        store,
        settings: Settings {
            body: BodyLimits {
                bytes: options.body_limit,
                time: options.body_timeout,
            },
            request_timeout: options.request_timeout,
            most_in_flight: options.most_requests,
            require_if_match: options.require_if_match,
            most_quantity: options.most_quantity,
            usual_hold: options.usual_hold.min(options.most_hold),
            most_hold: options.most_hold,
            key_retention: options.key_retention,
        },
        metrics,
        draining: AtomicBool::new(false),
        in_flight: AtomicUsize::new(0),
    });
    warn_of_pitfalls(&options);
    let signals = Signals::new()?;
    let address = listener.local_addr()?;
    let process = shop.store.client_id();
    welcome(&options, address)?;
    info!(
        %address,
        // As `lockstock locks` shows it.
        %process,
        store = redact_url(&options.store),
        database = redact_url(&options.database),
        "serving"
    );
    run(listener, shop, &options, signals).await;
    if timeout(options.drain_timeout, storage.close())
        .await
        .is_err()
    {
        warn!("the database did not let go of its connections in time");
    }
    info!("stopped");
    Ok(())
}

async fn run(listener: TcpListener, shop: Shop, options: &Serve, mut signals: Signals) {
    let router = router(shop.clone());
    let connections = Connections {
        open: GracefulShutdown::new(),
        places: Arc::new(Semaphore::new(options.most_connections)),
        header_timeout: options.header_timeout,
    };
    let mut upkeep = interval(Duration::from_secs(5));
    let mut sweeping = JoinSet::new();
    sweeping.spawn(idempotency::sweep(shop.storage.clone()));
    let mut stop = pin!(async {
        let interrupted = signals.next().await;
        info!("told to stop: finishing what is under way");
        shop.draining.store(true, Ordering::Relaxed);
        tokio::spawn(async move {
            signals.next().await;
            warn!("told to stop at once");
            std::process::exit(FAILED_TO_DRAIN);
        });
        // Ctrl-C comes from a person who waits, not from a balancer that must notice.
        if !interrupted {
            sleep(options.drain_delay).await;
        }
    });
    loop {
        tokio::select! {
            accepted = connections.accept(&listener) => match accepted {
                Ok((stream, place)) => connections.serve(stream, place, router.clone()),
                Err(error) => {
                    // Out of file descriptors, most likely: others will close theirs.
                    warn!(%error, "a connection could not be accepted");
                    sleep(Duration::from_millis(50)).await;
                }
            },
            _ = upkeep.tick() => shop.metrics.run_upkeep(),
            () = &mut stop => break,
        }
    }
    drop(listener);
    let drained = async {
        connections.open.shutdown().await;
        shop.turns.drain().await;
        shop.keys.drain().await;
        shop.store.drain().await;
    };
    if timeout(options.drain_timeout, drained).await.is_err() {
        warn!("some requests did not finish in time; their locks end with their leases");
    }
}

/// The connections of clients: how many there may be, and how each is served.
struct Connections {
    open: GracefulShutdown,
    places: Arc<Semaphore>,
    header_timeout: Duration,
}

type Place = tokio::sync::OwnedSemaphorePermit;

impl Connections {
    async fn accept(&self, listener: &TcpListener) -> anyhow::Result<(TcpStream, Place)> {
        let place = self.places.clone().acquire_owned().await?;
        let (stream, _) = listener.accept().await?;
        // An answer is one small write: it must not wait for the next one.
        stream.set_nodelay(true)?;
        // hyper waits for ever for a client that takes its answer and does not read it.
        SockRef::from(&stream).set_tcp_user_timeout(Some(self.header_timeout))?;
        Ok((stream, place))
    }

    fn serve(&self, stream: TcpStream, place: Place, router: Router) {
        let connection = http1::Builder::new()
            // hyper applies no timeout at all without a timer.
            .timer(TokioTimer::new())
            .header_read_timeout(self.header_timeout)
            // A client may close its side once it has asked, and still wants its answer.
            .half_close(true)
            .max_buf_size(HEAD_BYTES)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let connection = self.open.watch(connection);
        tokio::spawn(async move {
            // Whatever breaks here is the client's affair: it hung up or spoke nonsense.
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection broke");
            }
            drop(place);
        });
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one; whether it was an interrupt.
    async fn next(&mut self) -> bool {
        tokio::select! {
            _ = self.terminate.recv() => false,
            _ = self.interrupt.recv() => true,
        }
    }
}

fn metrics() -> anyhow::Result<PrometheusHandle> {
    const SECONDS: &[f64] = &[
        0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
    ];
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)?
        .install_recorder()?;
    metrics::describe_counter!("lockstock_http_requests_total", "Requests answered");
    metrics::describe_histogram!("lockstock_http_request_seconds", "Time to answer a request");
    metrics::describe_gauge!(
        "lockstock_http_requests_in_flight",
        "API requests under way"
    );
    metrics::describe_counter!("lockstock_lock_held_total", "Locks that were acquired");
    metrics::describe_counter!("lockstock_lock_busy_total", "Attempts that heard: busy");
    metrics::describe_counter!(
        "lockstock_lock_lost_total",
        "Locks lost before they were given back"
    );
    metrics::describe_histogram!(
        "lockstock_lock_wait_seconds",
        "Time until an attempt was answered"
    );
    metrics::describe_histogram!(
        "lockstock_lock_hold_seconds",
        "Time between held and released or kept"
    );
    metrics::describe_counter!(
        "lockstock_fenced_writes_total",
        "Writes refused because their lock was lost"
    );
    // At zero from the start: an alert on a counter that does not exist never fires.
    metrics::counter!("lockstock_lock_lost_total").absolute(0);
    metrics::counter!("lockstock_fenced_writes_total").absolute(0);
    Ok(handle)
}

/// What works, but not as somebody may believe.
fn warn_of_pitfalls(options: &Serve) {
    if options.update_hold == Hold::Keep && options.update_wait >= options.update_lease {
        warn!(
            "updates wait at least as long as a lock is kept: those that come at once follow \
             one after another instead of being refused. Shorten --update-wait, or lengthen \
             --update-lease"
        );
    }
    if options.store.starts_with("memory:") && !options.database.starts_with("sqlite:") {
        warn!(
            "the locks are in this process alone: a second server on this database would not \
             see them. For replicas, share a Redis with --store"
        );
    }
}

fn welcome(options: &Serve, address: SocketAddr) -> std::io::Result<()> {
    let here = format!("http://{address}");
    // Not `println!`, which panics when nobody reads.
    let mut out = std::io::stdout();
    writeln!(
        out,
        "Lockstock {version} is serving {database} with locks in {store}

  the API      {here}/api/products/
  its docs     {here}/docs/
  operation    {here}/readyz   {here}/metrics

  try          curl {here}/api/products/
               curl -X PATCH {here}/api/products/1/ -d stock=9
               lockstock race --url {here}
",
        version = env!("CARGO_PKG_VERSION"),
        database = redact_url(&options.database),
        store = redact_url(&options.store),
    )?;
    out.flush()
}
