//! The connection to Redis: one for what is asked and for what is pushed.
//!
//! Bounded: a call is answered or fails within the timeout. A connection that breaks is made
//! anew by the next call; one that falls silent, or answers nothing but errors, is replaced: a
//! network can swallow a connection without ever breaking it, and a server can refuse a
//! handshake for a while.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig, SendError};
use redis::{
    Client, Cmd, ErrorKind, FromRedisValue, IntoConnectionInfo, Pipeline, ProtocolVersion,
    PushInfo, RedisError, RedisResult, Script, ServerErrorKind,
};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::wakes::Wakes;
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::redacted::redacted;
use crate::token::Process;

/// What the name of a process' channel begins with.
const CHANNELS: &str = "lockstock:wake:";

const NO_SCRIPT: ErrorKind = ErrorKind::Server(ServerErrorKind::NoScript);

/// What the scripts have to know of where a lock is.
#[derive(Debug)]
pub(super) struct Slot {
    /// The key of the highest fence there.
    pub(super) clock: String,
    /// What the channels begin with on which waiters are told.
    pub(super) channels: String,
    /// This process, as its channel and its waiters name it.
    pub(super) process: String,
}

/// How a script is named.
#[derive(Debug, Clone, Copy)]
pub(super) enum By {
    /// For a server that knows it.
    Hash,
    Text,
}

/// A script, and the hash that a server knows it by.
#[derive(Debug)]
pub(super) struct Lua {
    text: &'static str,
    hash: String,
}

impl Lua {
    pub(super) fn new(text: &'static str) -> Self {
        let hash = Script::new(text).get_hash().to_owned();
        Self { text, hash }
    }
}

impl By {
    pub(super) fn command(self, script: &Lua) -> Cmd {
        let mut cmd = redis::cmd(match self {
            Self::Hash => "EVALSHA",
            Self::Text => "EVAL",
        });
        cmd.arg(match self {
            Self::Hash => &*script.hash,
            Self::Text => script.text,
        });
        cmd
    }
}

#[derive(Clone)]
pub(super) struct Wire(Arc<Inner>);

struct Inner {
    client: Client,
    /// What is subscribed to.
    channel: String,
    wakes: Wakes,
    limit: Duration,
    slot: Arc<Slot>,
    /// std's mutex: held to clone or replace a handle, never across an await.
    connection: Mutex<ConnectionManager>,
    /// Somebody is about to replace the connection.
    replacing: AtomicBool,
}

/// A script that ran.
pub(super) struct Ran<T> {
    pub(super) answer: T,
    /// When the attempt that was answered was begun.
    pub(super) begun: Instant,
    /// An attempt before it may have run as well.
    pub(super) repeated: bool,
}

impl Wire {
    pub(super) async fn connect(
        url: &str,
        process: Process,
        wakes: Wakes,
        limit: Duration,
    ) -> Result<Self> {
        #[cfg(feature = "tls")]
        // Fails when the application has chosen a provider already: theirs is used then.
        let _ = rustls::crypto::ring::default_provider().install_default();

        let info = url.into_connection_info().map_err(|error| {
            // Not the source: redis quotes the URL in some of its messages.
            Error::invalid(format!(
                "'{}' is not a Redis URL ({}): write redis://[user:password@]host[:port][/db]",
                redacted(url),
                error.category()
            ))
        })?;
        // RESP3 carries what is pushed beside what is asked, in one connection.
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let slot = Slot {
            clock: "lockstock:clock".to_owned(),
            channels: CHANNELS.to_owned(),
            process: process.to_string(),
        };
        let channel = format!("{CHANNELS}{process}");
        let connection = open(&client, &channel, &wakes, limit)
            .await
            .map_err(|why| {
                Error::unavailable(format!("no Redis answers at {}: {why}", redacted(url)))
            })?;
        Ok(Self(Arc::new(Inner {
            client,
            channel,
            wakes,
            limit,
            slot: Arc::new(slot),
            connection: Mutex::new(connection),
            replacing: AtomicBool::new(false),
        })))
    }

    /// Where a lock is.
    pub(super) fn slot(&self, _keys: &Keys) -> Arc<Slot> {
        self.0.slot.clone()
    }

    /// Runs a script, a second time if the connection broke under it. Not waited for beyond
    /// `until`.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        command: impl Fn(By) -> Cmd,
        until: Instant,
    ) -> Result<Ran<T>> {
        let attempts = async {
            let mut connection = self.connection().clone();
            let mut repeated = false;
            let mut asked = command(By::Hash);
            loop {
                let begun = Instant::now();
                match asked.query_async(&mut connection).await {
                    // New to it, or restarted.
                    Err(error) if error.kind() == NO_SCRIPT => asked = command(By::Text),
                    // The connection that just failed may have been dead for hours: the
                    // one that takes its place deserves a try. Bounded by the timeout.
                    Err(error) if !repeated && error.is_io_error() && !error.is_timeout() => {
                        repeated = true;
                    }
                    Err(error) if error.is_timeout() => return Err(self.silent()),
                    Err(error) => {
                        // Perhaps the answer to this script; perhaps what a handshake was
                        // answered, which the manager would repeat for ever.
                        self.doubt();
                        return Err(error.into());
                    }
                    Ok(answer) => {
                        return Ok(Ran {
                            answer,
                            begun,
                            repeated,
                        });
                    }
                }
            }
        };
        timeout_at(until, attempts)
            .await
            .unwrap_or_else(|_| Err(self.silent()))
    }

    /// Sends commands that only read in one go, a second time if the connection broke under
    /// them. That one of them is refused is its own answer. Not waited for beyond `until`.
    pub(super) async fn read<T: FromRedisValue>(
        &self,
        commands: &mut Pipeline,
        until: Instant,
    ) -> Result<Vec<RedisResult<T>>> {
        commands.ignore_errors();
        let attempts = async {
            let mut connection = self.connection().clone();
            let mut answers = commands.query_async(&mut connection).await;
            if matches!(&answers, Err(error) if error.is_io_error() && !error.is_timeout()) {
                answers = commands.query_async(&mut connection).await;
            }
            answers.map_err(|error: RedisError| {
                self.doubt();
                error.into()
            })
        };
        timeout_at(until, attempts)
            .await
            .unwrap_or_else(|_| Err(self.silent()))
    }

    /// Nothing was heard in time: the server may hang, or this connection lead nowhere.
    fn silent(&self) -> Error {
        self.doubt();
        Error::no_answer(self.0.limit)
    }

    /// Looks, in the background, whether the connection is still good for anything.
    pub(super) fn doubt(&self) {
        if !self.0.replacing.swap(true, Ordering::Relaxed) {
            let wire = self.clone();
            tokio::spawn(async move {
                if !wire.answers().await {
                    wire.replace().await;
                }
                wire.0.replacing.store(false, Ordering::Relaxed);
            });
        }
    }

    async fn answers(&self) -> bool {
        let mut connection = self.connection().clone();
        let ping = redis::cmd("PING");
        let asked = ping.query_async::<()>(&mut connection);
        matches!(timeout(self.0.limit, asked).await, Ok(Ok(())))
    }

    async fn replace(&self) {
        let inner = &self.0;
        match open(&inner.client, &inner.channel, &inner.wakes, inner.limit).await {
            Ok(connection) => {
                *self.connection() = connection;
                warn!("the store did not answer, and does on a new connection");
                // What was pushed into the old one is lost.
                inner.wakes.broken();
            }
            Err(why) => debug!(why, "the store does not answer on a new connection either"),
        }
    }

    fn connection(&self) -> std::sync::MutexGuard<'_, ConnectionManager> {
        self.0
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects, subscribes, and hears that it can be done; or says why not.
async fn open(
    client: &Client,
    channel: &str,
    wakes: &Wakes,
    limit: Duration,
) -> std::result::Result<ConnectionManager, String> {
    let pushed = wakes.clone();
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0)
        .set_connection_timeout(Some(limit))
        .set_response_timeout(Some(limit))
        .set_push_sender(
            move |push: PushInfo| -> std::result::Result<(), SendError> {
                pushed.pushed(&push);
                Ok(())
            },
        )
        .set_automatic_resubscription();
    let opened = async {
        let mut connection = ConnectionManager::new_with_config(client.clone(), config).await?;
        connection.subscribe(channel).await?;
        Ok::<_, redis::RedisError>(connection)
    };
    timeout(limit, opened)
        .await
        .map_err(|_| format!("no answer within {limit:?}"))?
        .map_err(|error| error.to_string())
}
