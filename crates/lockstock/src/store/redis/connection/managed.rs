//! A connection to one server that is opened on demand, and again after it breaks.
//!
//! Not redis' `ConnectionManager`: it reconnects to the same address, which may be the wrong
//! server after a failover.

mod health;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, PushInfo, PushKind, RedisError, RedisResult};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::breaker::{Breaker, Permit};
use super::direct::Target;
use super::gatherer::Gatherer;
use super::multiplexed::Multiplexed;
use crate::error::{Error, explain};

/// A call that was without a reply for this share of the timeout opens the breaker. Less than 1: an
/// operation on a lock spends a part of its time in a batch.
const MIN_SILENCE: f64 = 0.9;

/// Opens connections. The error of [`open`](Self::open) is the reason of the failure.
pub(super) trait Connector: Send + Sync + 'static {
    /// Identifies the server that a connection leads to.
    type Server: Clone + Send + Sync;

    fn purpose(&self) -> &Purpose;

    /// `on_push` gets each push message of the connection.
    fn open(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> impl Future<Output = Result<(Multiplexed, Self::Server), String>> + Send;
}

/// Receives the push messages of a connection.
pub(super) trait PushHandler: Send + Sync + 'static {
    fn pushed(&self, push: &PushInfo);
    /// The connection is gone: messages may have been lost. Called before any call can use
    /// another connection, under the mutex of the state.
    fn disconnected(&self);
}

pub(super) struct ManagedConnection<C: Connector>(Arc<Inner<C>>);

impl<C: Connector> Clone for ManagedConnection<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<C: Connector> {
    /// For messages.
    address: String,
    connector: C,
    push_handler: Arc<dyn PushHandler>,
    timeout: Duration,
    /// std's mutex: held for a transition between states, never across an await.
    state: Mutex<State<C::Server>>,
    next_number: AtomicU64,
    breaker: Arc<Breaker>,
    /// Whether a task checks the connection right now.
    is_checking: AtomicBool,
}

enum State<S> {
    Closed,
    /// All calls wait for the same attempt.
    Opening(u64, watch::Receiver<OpenResult<S>>),
    Open(OpenConnection<S>),
}

/// Result of an attempt to connect, once there is one.
type OpenResult<S> = Option<Result<OpenConnection<S>, OpenError>>;

/// Why a connection was not opened.
#[derive(Debug, Clone)]
struct OpenError {
    reason: String,
    timed_out: bool,
}

/// Whether calls are admitted while the server does not reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Admission {
    /// Not after a call has timed out, see `breaker.rs`.
    UnlessSilent,
    /// Calls that the server has to execute even if it reads them after their deadline.
    Always,
}

/// An open connection. Its number distinguishes it from earlier and later ones.
#[derive(Clone)]
pub(super) struct OpenConnection<S> {
    pub(super) connection: Multiplexed,
    gatherer: Arc<Gatherer>,
    server: S,
    pub(super) number: u64,
}

impl<S> OpenConnection<S> {
    /// Sends a command together with those of other callers.
    pub(super) async fn gather<T: FromRedisValue>(&mut self, command: &Cmd) -> RedisResult<T> {
        let reply = self.gatherer.call(&mut self.connection, command).await?;
        Ok(redis::from_redis_value(reply)?)
    }
}

/// Why a call has no reply.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection: nothing was sent.
    Unreachable(String),
    /// An earlier call has timed out: nothing was sent. No call is admitted for so long.
    Refused(Duration),
    /// The connection broke during the call, which may have run.
    Broken(RedisError),
    /// The server sent no reply in time.
    TimedOut,
    /// The server replied with an error.
    Rejected(RedisError),
}

impl<C: Connector> ManagedConnection<C> {
    /// Opens no connection yet. All connections to one server share a breaker.
    pub(super) fn new(
        address: String,
        connector: C,
        push_handler: Arc<dyn PushHandler>,
        timeout: Duration,
        breaker: Arc<Breaker>,
    ) -> Self {
        Self(Arc::new(Inner {
            breaker,
            address,
            connector,
            push_handler,
            timeout,
            state: Mutex::new(State::Closed),
            next_number: AtomicU64::new(0),
            is_checking: AtomicBool::new(false),
        }))
    }

    /// The timeout of a call.
    pub(super) fn timeout(&self) -> Duration {
        self.0.timeout
    }

    pub(super) fn address(&self) -> String {
        self.0.address.clone()
    }

    pub(super) fn connector(&self) -> &C {
        &self.0.connector
    }

    /// Asks the breaker for one call.
    pub(super) fn admit(&self, admission: Admission) -> Result<Permit<'_>, CallError> {
        match admission {
            Admission::UnlessSilent => self.0.breaker.admit().map_err(CallError::Refused),
            Admission::Always => Ok(self.0.breaker.admit_always()),
        }
    }

    /// Records the result of a call.
    pub(super) fn conclude<T>(&self, permit: Permit<'_>, result: &Result<T, CallError>) {
        match result {
            Ok(_) | Err(CallError::Rejected(_)) => permit.succeeded(),
            // Cheap, and a call on a new connection may succeed.
            Err(CallError::Broken(_) | CallError::Unreachable(_)) => {}
            // Recorded by `timed_out`, and by no call.
            Err(CallError::TimedOut | CallError::Refused(_)) => {}
        }
    }

    /// Records that there has been no reply since `sent_at`, which is `None` if nothing was sent.
    pub(super) fn timed_out(&self, permit: Permit<'_>, sent_at: Option<Instant>) {
        // Less if the caller had less time, or if the connection broke before.
        let waited = sent_at.map_or(Duration::ZERO, |sent_at| sent_at.elapsed());
        if waited >= self.0.timeout.mul_f64(MIN_SILENCE) {
            permit.failed();
        }
        self.check_health();
    }

    /// Records that a call on another connection to the server has had no reply since `sent_at`.
    pub(super) fn suspect(&self, sent_at: Instant) {
        self.timed_out(self.0.breaker.admit_always(), Some(sent_at));
    }

    /// Returns the open connection, or opens one.
    pub(super) async fn get(&self) -> Result<OpenConnection<C::Server>, CallError> {
        let opened = self.get_or_open().await;
        opened.map_err(|error| CallError::Unreachable(error.reason))
    }

    async fn get_or_open(&self) -> Result<OpenConnection<C::Server>, OpenError> {
        let mut opening = {
            let mut state = self.0.state();
            match &*state {
                State::Open(open) => return Ok(open.clone()),
                State::Opening(_, opening) => opening.clone(),
                State::Closed => {
                    let (sender, opening) = watch::channel(None);
                    let number = self.next_number();
                    *state = State::Opening(number, opening.clone());
                    // A task of its own: if this caller is cancelled, other callers still wait.
                    tokio::spawn(self.clone().open(number, sender));
                    opening
                }
            }
        };
        let opened = match opening.wait_for(Option::is_some).await {
            Ok(opened) => opened.clone(),
            Err(_) => None,
        };
        opened.unwrap_or_else(|| {
            Err(OpenError {
                reason: "the runtime is shutting down".to_owned(),
                timed_out: false,
            })
        })
    }

    async fn open(self, number: u64, sender: watch::Sender<OpenResult<C::Server>>) {
        let mut opened = self.connect(number).await;
        {
            let mut state = self.0.state();
            match &*state {
                // A newer connection was installed while this one was opening: use that one.
                State::Open(newer) => opened = Ok(newer.clone()),
                _ => {
                    *state = match &opened {
                        Ok(open) => State::Open(open.clone()),
                        Err(_) => State::Closed,
                    }
                }
            }
        }
        if matches!(&opened, Err(error) if error.timed_out) {
            self.check_health();
        }
        sender.send_replace(Some(opened));
    }

    fn next_number(&self) -> u64 {
        self.0.next_number.fetch_add(1, Ordering::Relaxed)
    }

    async fn connect(&self, number: u64) -> Result<OpenConnection<C::Server>, OpenError> {
        // Weak: the connection must not keep its owner alive.
        let inner = Arc::downgrade(&self.0);
        let on_push = move |push: PushInfo| {
            if let Some(inner) = inner.upgrade() {
                match push.kind {
                    PushKind::Disconnection => inner.close(number),
                    _ => inner.pushed(number, &push),
                }
            }
        };
        let begun = Instant::now();
        let opened = timeout(self.0.timeout, self.0.connector.open(on_push)).await;
        let opened =
            opened.unwrap_or_else(|_| Err(format!("no reply within {:?}", self.0.timeout)));
        let (connection, server) = opened.map_err(|reason| {
            // The connector has timeouts of its own, of the same length.
            let timed_out = begun.elapsed() >= self.0.timeout;
            if timed_out && self.0.connector.purpose().is_essential() {
                self.0.breaker.open();
            }
            OpenError { reason, timed_out }
        })?;
        self.0.breaker.close();
        Ok(OpenConnection {
            gatherer: Gatherer::new(connection.clone()).into(),
            connection,
            server,
            number,
        })
    }

    /// Drops a connection: the next call opens another.
    pub(super) fn close(&self, open: &OpenConnection<C::Server>) {
        self.0.close(open.number);
    }

    /// Returns the server that the current connection leads to. Waits for a connection that is
    /// being opened. `None` if there is neither.
    pub(super) async fn current_server(&self) -> Option<C::Server> {
        let mut opening = match &*self.0.state() {
            State::Open(open) => return Some(open.server.clone()),
            State::Opening(_, opening) => opening.clone(),
            State::Closed => return None,
        };
        let opened = opening.wait_for(Option::is_some).await.ok()?.clone();
        Some(opened?.ok()?.server)
    }

    /// Returns what `read` returns for the server that the current connection leads to, `None` if
    /// there is no connection.
    pub(super) fn server<T>(&self, read: impl FnOnce(&C::Server) -> T) -> Option<T> {
        match &*self.0.state() {
            State::Open(open) => Some(read(&open.server)),
            State::Closed | State::Opening(..) => None,
        }
    }

    /// Drops the current connection, if there is one.
    pub(super) fn close_current(&self) {
        if let Some(open) = self.0.current() {
            self.close(&open);
        }
    }

    /// Returns the current connection, if there is one.
    pub(super) fn open_connection(&self) -> Option<OpenConnection<C::Server>> {
        self.0.current()
    }

    /// Classifies the error of a call on `open`, which is dropped if it is broken.
    pub(super) fn classify(
        &self,
        open: &OpenConnection<C::Server>,
        error: RedisError,
    ) -> CallError {
        if error.is_io_error() {
            self.close(open);
            CallError::Broken(error)
        } else {
            CallError::Rejected(error)
        }
    }

    pub(super) fn error(&self, error: CallError) -> Error {
        match error {
            CallError::Unreachable(reason) => {
                let address = &self.0.address;
                let advice = match reason.contains("reset by peer") {
                    true if address.starts_with("redis://") => " (with TLS, use rediss://)",
                    _ => "",
                };
                Error::unavailable(format!(
                    "cannot connect to Redis at {address}: {reason}{advice}"
                ))
            }
            CallError::Refused(next) => Error::unavailable(format!(
                "the store at {} did not reply within {:?}; the next attempt is in {next:?}",
                self.0.address, self.0.timeout
            )),
            CallError::TimedOut => Error::timed_out(self.0.timeout),
            CallError::Broken(error) | CallError::Rejected(error) => Error::redis(error),
        }
    }
}

impl<C: Connector> Inner<C> {
    fn state(&self) -> MutexGuard<'_, State<C::Server>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Option<OpenConnection<C::Server>> {
        match &*self.state() {
            State::Open(open) => Some(open.clone()),
            State::Closed | State::Opening(..) => None,
        }
    }

    /// Forwards a push message of a connection, unless that connection has been dropped. The
    /// state is locked meanwhile: after `disconnected` no message of the old connection arrives.
    fn pushed(&self, number: u64, push: &PushInfo) {
        let state = self.state();
        let is_stale = match &*state {
            State::Closed => true,
            State::Opening(next, _) => number < *next,
            State::Open(open) => number < open.number,
        };
        if !is_stale {
            self.push_handler.pushed(push);
        }
    }

    fn close(&self, number: u64) {
        let mut state = self.state();
        match &*state {
            State::Open(open) if open.number == number => *state = State::Closed,
            // Replaced already.
            _ => return,
        }
        self.push_handler.disconnected();
    }
}

/// Connects to a server with a fixed address.
pub(super) struct Server {
    pub(super) target: Target,
    pub(super) purpose: Purpose,
}

/// What a connection is set up for when it is opened.
pub(super) enum Purpose {
    Commands,
    /// Subscriptions beside a connection for commands.
    Subscriptions,
    /// Commands, and messages of this channel.
    Messages(String),
    /// Invalidations of what was read.
    Tracking,
    /// Messages of a channel, which in a Cluster is sharded.
    Channel {
        name: String,
        is_sharded: bool,
    },
}

impl Purpose {
    /// Returns whether no command reaches the server without this connection. If another one cannot
    /// be opened, those that are open may work.
    fn is_essential(&self) -> bool {
        match self {
            Self::Commands | Self::Messages(_) => true,
            Self::Subscriptions | Self::Tracking | Self::Channel { .. } => false,
        }
    }

    pub(super) async fn set_up(&self, connection: &mut Multiplexed) -> RedisResult<()> {
        match self {
            Self::Commands | Self::Subscriptions => Ok(()),
            Self::Messages(channel)
            | Self::Channel {
                name: channel,
                is_sharded: false,
            } => connection.inner.subscribe(channel).await,
            Self::Channel { name, .. } => {
                let mut subscribe = redis::cmd("SSUBSCRIBE");
                subscribe.arg(name);
                subscribe.query_async(connection).await
            }
            Self::Tracking => {
                let mut tracking = redis::cmd("CLIENT");
                tracking.arg("TRACKING").arg("ON");
                tracking.query_async(connection).await
            }
        }
    }
}

impl Server {
    /// Returns a connector to the same server for another purpose.
    pub(super) fn with_purpose(&self, purpose: Purpose) -> Self {
        let target = self.target.clone();
        Self { target, purpose }
    }

    pub(super) fn database(&self) -> i64 {
        self.target.info.redis_settings().db()
    }
}

impl Connector for Server {
    type Server = ();

    fn purpose(&self) -> &Purpose {
        &self.purpose
    }

    async fn open(
        &self,
        on_push: impl Fn(PushInfo) + Send + Sync + 'static,
    ) -> Result<(Multiplexed, ()), String> {
        let opened = async {
            // Each call has a deadline of its own. A second timer would cost as much as the lookup
            // of the connection.
            let mut connection = Multiplexed::open(&self.target, None, on_push).await?;
            self.purpose.set_up(&mut connection).await?;
            Ok((connection, ()))
        };
        opened.await.map_err(|error: RedisError| explain(&error))
    }
}

/// The handler of a connection without subscriptions.
pub(super) struct IgnorePushes;

impl PushHandler for IgnorePushes {
    fn pushed(&self, _: &PushInfo) {}
    fn disconnected(&self) {}
}
