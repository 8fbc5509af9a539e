//! Locks in one Redis or Valkey: each step is one script, one round trip.
//!
//! Bounded: a call is answered or fails within the store's timeout, and a lost connection
//! is made anew by the next call. Every script may run twice with the same arguments, so a
//! call whose answer was lost is simply sent again.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{
    Client, FromRedisValue, IntoConnectionInfo, ProtocolVersion, Script, ScriptInvocation, Value,
};
use tokio::time::{Instant, timeout};

use super::{Answer, How, Release, redacted};
use crate::error::{Error, Result};
use crate::key::Keys;
use crate::token::{HELD, KEPT, Token};

static ACQUIRE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../lock/acquire.lua")));
static RELEASE: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("../lock/release.lua")));
static KEEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lock/keep.lua")));
static RENEW: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../lock/renew.lua")));

static PING: LazyLock<Script> = LazyLock::new(|| Script::new("return 1"));

/// A name that nobody locks for so long may forget its counter: the next fence starts from
/// the clock, which is far ahead of any count by then.
const FENCE_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) struct Redis {
    connection: ConnectionManager,
    timeout: Duration,
}

impl Redis {
    pub(super) async fn connect(url: &str, limit: Duration) -> Result<Self> {
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
        // RESP3 tells of a closed connection at once, not at the next command.
        let settings = info
            .redis_settings()
            .clone()
            .set_protocol(ProtocolVersion::RESP3);
        let client = Client::open(info.set_redis_settings(settings))?;
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_connection_timeout(Some(limit))
            .set_response_timeout(Some(limit));
        let explain = |why: String| {
            Error::unavailable(format!("no Redis answers at {}: {why}", redacted(url)))
        };
        let connection = timeout(limit, ConnectionManager::new_with_config(client, config))
            .await
            .map_err(|_| explain(format!("no answer within {limit:?}")))?
            .map_err(|error| explain(error.to_string()))?;
        let redis = Self {
            connection,
            timeout: limit,
        };
        redis
            .ping()
            .await
            .map_err(|error| explain(error.to_string()))?;
        Ok(redis)
    }

    /// A script rather than `PING`: a user who may not run scripts cannot lock.
    pub(super) async fn ping(&self) -> Result<()> {
        self.run::<bool>(&PING.prepare_invoke()).await.map(drop)
    }

    pub(super) async fn acquire(
        &self,
        keys: &Keys,
        token: Token,
        lease: Duration,
    ) -> Result<Answer> {
        let mut script = ACQUIRE.key(&keys.holder[..]);
        script
            .key(&keys.fence[..])
            .arg(token.held())
            .arg(millis(lease))
            .arg(millis(FENCE_LIFE))
            .arg(HELD)
            .arg(KEPT);
        let ran = self.run::<(bool, Value, i64)>(&script).await?;
        let (granted, what, left) = ran.answer;
        let left = u64::try_from(left).ok().map(Duration::from_millis);
        if !granted {
            let how = match &what {
                Value::BulkString(how) if how == b"kept" => How::Kept,
                _ => How::Held,
            };
            return Ok(Answer::Busy { left, how });
        }
        let Value::Int(fence) = what else {
            return Err(Error::unavailable("the store granted without a fence"));
        };
        Ok(Answer::Granted {
            fence: fence.unsigned_abs(),
            // From before the last attempt was sent: never later than the server's own end.
            deadline: ran.begun + left.unwrap_or_default(),
        })
    }

    pub(super) async fn release(&self, keys: &Keys, token: Token) -> Result<Release> {
        let mut script = RELEASE.key(&keys.holder[..]);
        script.arg(token.held());
        let ran = self.run::<bool>(&script).await?;
        Ok(match (ran.answer, ran.repeated) {
            (true, _) => Release::Done,
            (false, false) => Release::NotOurs,
            (false, true) => Release::Unclear,
        })
    }

    pub(super) async fn keep(&self, keys: &Keys, token: Token) -> Result<bool> {
        let mut script = KEEP.key(&keys.holder[..]);
        script.arg(token.held()).arg(token.kept());
        self.run(&script).await.map(|ran| ran.answer)
    }

    pub(super) async fn renew(&self, keys: &Keys, token: Token, left: Duration) -> Result<bool> {
        let mut script = RENEW.key(&keys.holder[..]);
        script.arg(token.held()).arg(millis(left));
        self.run(&script).await.map(|ran| ran.answer)
    }

    /// Runs `script`, a second time if the connection broke under it.
    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<Ran<T>> {
        let attempts = async {
            let mut connection = self.connection.clone();
            let mut repeated = false;
            loop {
                let begun = Instant::now();
                match script.invoke_async(&mut connection).await {
                    // The connection that just failed may have been dead for hours: the
                    // one that takes its place deserves a try. Bounded by the timeout.
                    Err(error) if !repeated && error.is_io_error() && !error.is_timeout() => {
                        repeated = true;
                    }
                    answer => {
                        return Ok(Ran {
                            answer: answer?,
                            begun,
                            repeated,
                        });
                    }
                }
            }
        };
        timeout(self.timeout, attempts)
            .await
            .unwrap_or_else(|_| Err(Error::no_answer(self.timeout)))
    }
}

/// A script that ran.
struct Ran<T> {
    answer: T,
    /// When the attempt that was answered was begun.
    begun: Instant,
    /// An attempt before it may have run as well.
    repeated: bool,
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
