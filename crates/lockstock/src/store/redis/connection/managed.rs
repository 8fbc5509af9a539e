//! One connection to one server, opened when it is needed, and again when it broke.
//!
//! Not redis' `ConnectionManager`: that one goes back to where it was connected before, and
//! after a failover this may be the wrong place.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{AsyncConnectionConfig, Client, PushInfo, PushKind, RedisError};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::{debug, warn};

use crate::error::{Error, explained};

/// How a connection is opened. Says why it cannot be.
pub(super) trait Connector: Send + Sync + 'static {
    fn open(
        &self,
        config: &AsyncConnectionConfig,
    ) -> impl Future<Output = Result<MultiplexedConnection, String>> + Send;
}

/// Who hears what comes over it unasked.
pub(super) trait PushHandler: Send + Sync + 'static {
    fn pushed(&self, push: &PushInfo);
    /// The connection is gone, and with it whatever was pushed since.
    fn lost(&self);
}

pub(super) struct ManagedConnection<O>(Arc<Inner<O>>);

impl<O> Clone for ManagedConnection<O> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

struct Inner<O> {
    /// For messages.
    place: String,
    opens: O,
    hears: Arc<dyn PushHandler>,
    limit: Duration,
    /// std's mutex: held for a step from one state to another, never across an await.
    state: Mutex<State>,
    lines: AtomicU64,
    /// Somebody looks whether the connection is still good for anything.
    doubted: AtomicBool,
}

enum State {
    Closed,
    /// All who need it wait for the one attempt.
    Opening(u64, watch::Receiver<Option<Result<OpenConnection, String>>>),
    Open(OpenConnection),
}

/// An open connection. The number tells it from those before and after.
#[derive(Clone)]
pub(super) struct OpenConnection {
    pub(super) connection: MultiplexedConnection,
    number: u64,
}

/// Why a call has no answer.
#[derive(Debug)]
pub(super) enum CallError {
    /// There is no connection: nothing was sent.
    Unreachable(String),
    /// It broke under the call, which may have been carried out.
    Broken(RedisError),
    /// IgnorePushes was heard in time.
    TimedOut,
    /// The server said no.
    Refused(RedisError),
}

impl<O: Connector> ManagedConnection<O> {
    /// Opens nothing yet.
    pub(super) fn new(
        place: String,
        opens: O,
        hears: Arc<dyn PushHandler>,
        limit: Duration,
    ) -> Self {
        Self(Arc::new(Inner {
            place,
            opens,
            hears,
            limit,
            state: Mutex::new(State::Closed),
            lines: AtomicU64::new(0),
            doubted: AtomicBool::new(false),
        }))
    }

    /// How long a call may take.
    pub(super) fn limit(&self) -> Duration {
        self.0.limit
    }

    /// How it is opened.
    pub(super) fn opens(&self) -> &O {
        &self.0.opens
    }

    /// The connection, opened if need be.
    pub(super) async fn line(&self) -> Result<OpenConnection, CallError> {
        let mut opening = {
            let mut state = self.0.state();
            match &*state {
                State::Open(line) => return Ok(line.clone()),
                State::Opening(_, opening) => opening.clone(),
                State::Closed => {
                    let (tell, opening) = watch::channel(None);
                    let number = self.next();
                    *state = State::Opening(number, opening.clone());
                    // A task of its own: who began it may be cancelled, the others still wait.
                    tokio::spawn(self.clone().open(number, tell));
                    opening
                }
            }
        };
        let opened = match opening.wait_for(Option::is_some).await {
            Ok(opened) => opened.clone(),
            Err(_) => None,
        };
        opened
            .unwrap_or_else(|| Err("the runtime is ending".to_owned()))
            .map_err(CallError::Unreachable)
    }

    async fn open(self, number: u64, tell: watch::Sender<Option<Result<OpenConnection, String>>>) {
        let mut opened = self.new_line(number).await;
        {
            let mut state = self.0.state();
            match &*state {
                // It has been replaced before it was there, by one that knows better.
                State::Open(newer) => opened = Ok(newer.clone()),
                _ => {
                    *state = match &opened {
                        Ok(line) => State::Open(line.clone()),
                        Err(_) => State::Closed,
                    }
                }
            }
        }
        tell.send_replace(Some(opened));
    }

    fn next(&self) -> u64 {
        self.0.lines.fetch_add(1, Ordering::Relaxed)
    }

    async fn new_line(&self, number: u64) -> Result<OpenConnection, String> {
        // Weak: the connection is ours, not we the connection's.
        let link = Arc::downgrade(&self.0);
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.0.limit))
            .set_response_timeout(Some(self.0.limit))
            .set_push_sender(move |push: PushInfo| -> Result<(), SendError> {
                if let Some(link) = link.upgrade() {
                    match push.kind {
                        PushKind::Disconnection => link.close(number),
                        _ => link.pushed(number, &push),
                    }
                }
                Ok(())
            });
        let connection = timeout(self.0.limit, self.0.opens.open(&config))
            .await
            .map_err(|_| format!("no answer within {:?}", self.0.limit))??;
        Ok(OpenConnection { connection, number })
    }

    /// Gives up a connection: the next call opens another.
    pub(super) fn close(&self, line: &OpenConnection) {
        self.0.close(line.number);
    }

    /// The same, whichever it is.
    pub(super) fn give_up(&self) {
        if let Some(line) = self.0.open_line() {
            self.close(&line);
        }
    }

    /// What a failed call on `line` means.
    pub(super) fn trouble(&self, line: &OpenConnection, error: RedisError) -> CallError {
        if error.is_timeout() {
            CallError::TimedOut
        } else if error.is_io_error() {
            self.close(line);
            CallError::Broken(error)
        } else {
            CallError::Refused(error)
        }
    }

    pub(super) fn error(&self, trouble: CallError) -> Error {
        match trouble {
            CallError::Unreachable(why) => {
                Error::unavailable(format!("no Redis answers at {}: {why}", self.0.place))
            }
            CallError::TimedOut => Error::no_answer(self.0.limit),
            CallError::Broken(error) | CallError::Refused(error) => error.into(),
        }
    }

    /// Looks, in the background, whether the connection is still good for anything; if not
    /// so, and another one is, that one takes its place. A network can swallow a connection
    /// without ever breaking it.
    pub(super) fn doubt(&self) {
        if !self.0.doubted.swap(true, Ordering::Relaxed) {
            let link = self.clone();
            tokio::spawn(async move {
                if !link.answers().await {
                    link.replace().await;
                }
                link.0.doubted.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Whether the server answers on the connection, if there is one.
    pub(super) async fn answers(&self) -> bool {
        let Some(mut line) = self.0.open_line() else {
            return true;
        };
        let ping = redis::cmd("PING");
        let asked = ping.query_async::<()>(&mut line.connection);
        matches!(timeout(self.0.limit, asked).await, Ok(Ok(())))
    }

    /// Opens another connection; the present one stays if that cannot be done. Says whether
    /// the connection is now at least as new as this call.
    pub(super) async fn replace(&self) -> bool {
        let line = match self.new_line(self.next()).await {
            Ok(line) => line,
            Err(why) => {
                debug!(place = self.0.place, why, "cannot connect anew");
                return false;
            }
        };
        {
            let mut state = self.0.state();
            match &*state {
                // Whoever began later knows better where to.
                State::Open(newer) if newer.number > line.number => return true,
                _ => *state = State::Open(line),
            }
        }
        warn!(place = self.0.place, "connected anew");
        self.0.hears.lost();
        true
    }
}

impl<O> Inner<O> {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_line(&self) -> Option<OpenConnection> {
        match &*self.state() {
            State::Open(line) => Some(line.clone()),
            State::Closed | State::Opening(..) => None,
        }
    }

    /// Passes on what came over a connection, unless that one has been given up: nothing is
    /// heard any more after it is lost. So the state must not change meanwhile.
    fn pushed(&self, number: u64, push: &PushInfo) {
        let state = self.state();
        let is_over = match &*state {
            State::Closed => true,
            State::Opening(next, _) => number < *next,
            State::Open(line) => number < line.number,
        };
        if !is_over {
            self.hears.pushed(push);
        }
    }

    fn close(&self, number: u64) {
        {
            let mut state = self.state();
            match &*state {
                State::Open(line) if line.number == number => *state = State::Closed,
                // Another one has its place already.
                _ => return,
            }
        }
        self.hears.lost();
    }
}

/// A server that stays where it is.
pub(super) struct Server {
    pub(super) client: Client,
    /// What it is to push, unless nothing or what is asked for later.
    pub(super) channel: Option<String>,
}

impl Connector for Server {
    async fn open(&self, config: &AsyncConnectionConfig) -> Result<MultiplexedConnection, String> {
        let opened = async {
            let mut connection = self
                .client
                .get_multiplexed_async_connection_with_config(config)
                .await?;
            if let Some(channel) = &self.channel {
                connection.subscribe(channel).await?;
            }
            Ok(connection)
        };
        opened.await.map_err(|error: RedisError| explained(&error))
    }
}

/// For a connection where nothing is pushed.
pub(super) struct IgnorePushes;

impl PushHandler for IgnorePushes {
    fn pushed(&self, _: &PushInfo) {}
    fn lost(&self) {}
}
