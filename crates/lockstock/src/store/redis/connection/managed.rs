//! A connection to one server that is opened on demand, and again after it breaks.
//!
//! Not redis' `ConnectionManager`: it reconnects to the same address, which may be the wrong
//! server after a failover.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError, RedisResult};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::error::{Error, explain};

/// Opens connections. The error of [`open`](Self::open) is the reason of the failure.
pub(super) trait Connector: Send + Sync + 'static {
    /// Identifies the server that a connection leads to.
    type Server: Clone + Send + Sync;

    fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> impl Future<Output = Result<(MultiplexedConnection, Self::Server), String>> + Send;
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
type OpenResult<S> = Option<Result<OpenConnection<S>, String>>;

/// An open connection. Its number distinguishes it from earlier and later ones.
#[derive(Clone)]
pub(super) struct OpenConnection<S> {
    pub(super) connection: MultiplexedConnection,
    server: S,
    pub(super) number: u64,
}

/// Why a call has no reply.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection: nothing was sent.
    Unreachable(String),
    /// The connection broke during the call, which may have run.
    Broken(RedisError),
    /// The server sent no reply in time.
    TimedOut,
    /// The server replied with an error.
    Rejected(RedisError),
}

impl<C: Connector> ManagedConnection<C> {
    /// Opens no connection yet.
    pub(super) fn new(
        address: String,
        connector: C,
        push_handler: Arc<dyn PushHandler>,
        timeout: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
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

    pub(super) fn connector(&self) -> &C {
        &self.0.connector
    }

    /// Returns the open connection, or opens one.
    pub(super) async fn get(&self) -> Result<OpenConnection<C::Server>, CallError> {
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
        opened
            .unwrap_or_else(|| Err("the runtime is shutting down".to_owned()))
            .map_err(CallError::Unreachable)
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
        sender.send_replace(Some(opened));
    }

    fn next_number(&self) -> u64 {
        self.0.next_number.fetch_add(1, Ordering::Relaxed)
    }

    async fn connect(&self, number: u64) -> Result<OpenConnection<C::Server>, String> {
        // Weak: the connection must not keep its owner alive.
        let inner = Arc::downgrade(&self.0);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.timeout))
            .set_response_timeout(Some(self.0.timeout))
            .set_push_sender(move |push: PushInfo| -> Result<(), SendError> {
                if let Some(inner) = inner.upgrade() {
                    match push.kind {
                        PushKind::Disconnection => inner.close(number),
                        _ => inner.pushed(number, &push),
                    }
                }
                Ok(())
            });
        let (connection, server) = timeout(self.0.timeout, self.0.connector.open(&config))
            .await
            .map_err(|_| format!("no reply within {:?}", self.0.timeout))??;
        Ok(OpenConnection {
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
        if error.is_timeout() {
            CallError::TimedOut
        } else if error.is_io_error() {
            self.close(open);
            CallError::Broken(error)
        } else {
            CallError::Rejected(error)
        }
    }

    pub(super) fn error(&self, error: CallError) -> Error {
        match error {
            CallError::Unreachable(reason) => Error::unavailable(format!(
                "cannot connect to Redis at {}: {reason}",
                self.0.address
            )),
            CallError::TimedOut => Error::timed_out(self.0.timeout),
            CallError::Broken(error) | CallError::Rejected(error) => Error::redis(error),
        }
    }

    /// Checks in the background whether the server still replies on the connection. If it does
    /// not, but does on a new connection, the new one replaces it. A network can drop a
    /// connection without ever breaking it.
    pub(super) fn check_health(&self) {
        if !self.0.is_checking.swap(true, Ordering::Relaxed) {
            let managed = self.clone();
            tokio::spawn(async move {
                if !managed.is_healthy().await {
                    managed.replace().await;
                }
                managed.0.is_checking.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Returns whether the server replies on the current connection, `true` if there is none.
    pub(super) async fn is_healthy(&self) -> bool {
        let Some(mut open) = self.0.current() else {
            return true;
        };
        let ping = redis::cmd("PING");
        let reply = ping.query_async::<()>(&mut open.connection);
        matches!(timeout(self.0.timeout, reply).await, Ok(Ok(())))
    }

    /// Opens a new connection to replace the current one, which stays if that fails. Returns
    /// whether the current connection is now at least as new as this call.
    pub(super) async fn replace(&self) -> bool {
        let open = match self.connect(self.next_number()).await {
            Ok(open) => open,
            Err(reason) => {
                debug!(address = self.0.address, reason, "cannot reconnect");
                return false;
            }
        };
        {
            let mut state = self.0.state();
            match &*state {
                // A later attempt has more recent information about the right server.
                State::Open(newer) if newer.number > open.number => return true,
                _ => *state = State::Open(open),
            }
            self.0.push_handler.disconnected();
        }
        warn!(address = self.0.address, "reconnected");
        true
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
    pub(super) client: Client,
    pub(super) purpose: Purpose,
}

/// What a connection is set up for when it is opened.
pub(super) enum Purpose {
    Commands,
    /// Messages of this channel.
    Messages(String),
    /// Invalidations of what was read.
    Tracking,
}

impl Purpose {
    pub(super) async fn set_up(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match self {
            Self::Commands => Ok(()),
            Self::Messages(channel) => connection.subscribe(channel).await,
            Self::Tracking => {
                let mut tracking = redis::cmd("CLIENT");
                tracking.arg("TRACKING").arg("ON");
                tracking.query_async(connection).await
            }
        }
    }
}

impl Connector for Server {
    type Server = ();

    async fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> Result<(MultiplexedConnection, ()), String> {
        let opened = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(config)
                .await?;
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
