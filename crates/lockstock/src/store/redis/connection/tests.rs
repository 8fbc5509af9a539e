//! The way to one server, and what the tests of the others share.

use lockstock_testkit::{Authority, Redis};
use tokio::time::timeout;

use super::*;
use crate::key::LockKind;
use crate::store::redis::notifications::Notification;
use crate::token::Token;

pub(super) const LIMIT: Duration = Duration::from_secs(1);
/// Longer than anything here takes.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// Counts in `KEYS[1]`, and says so to a process, answering how many heard it.
const COUNT_AND_TELL: &str = "
    redis.call('INCR', KEYS[1])
    local publish = ARGV[1] == 'lockstock:wake:' and 'PUBLISH' or 'SPUBLISH'
    return redis.call(publish, ARGV[1] .. ARGV[2], 'ask:' .. ARGV[3])";

/// A process with a wire.
pub(super) struct End {
    pub(super) wire: Connection,
    pub(super) wakes: Notifications,
}

impl End {
    pub(super) async fn at(url: &str) -> Self {
        Self::try_at(url).await.unwrap()
    }

    pub(super) async fn try_at(url: &str) -> Result<Self> {
        let (wakes, _) = Notifications::new();
        let wire = Connection::connect(url, ClientId::random(), wakes.clone(), LIMIT).await?;
        Ok(Self { wire, wakes })
    }

    /// Runs the script for `key`; it tells `token`'s waiter.
    pub(super) async fn tell(&self, key: &str, token: Token) -> Result<ScriptReply<u64>> {
        let keys = Keys::of(LockKind::Lock, key.as_bytes())?;
        self.wire.hear(&keys).await?;
        let slot = self.wire.slot(&keys);
        let arguments = [&*slot.channels, &slot.process, &token.to_string()];
        self.script(COUNT_AND_TELL, &[key], &arguments).await
    }

    /// Counts in `key`, and tells nobody.
    pub(super) async fn count(&self, key: &str) -> Result<ScriptReply<u64>> {
        let count = "return redis.call('INCR', KEYS[1])";
        self.script(count, &[key], &[]).await
    }

    pub(super) async fn script<T: FromRedisValue>(
        &self,
        text: &'static str,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<ScriptReply<T>> {
        let script = LuaScript::new(text);
        let ask = |by: Eval| {
            let mut cmd = by.command(&script);
            cmd.arg(keys.len()).arg(keys).arg(arguments);
            cmd
        };
        self.wire.run(ask, Instant::now() + LIMIT).await
    }

    /// Counts until it can be done.
    pub(super) async fn count_at_last(&self, key: &str) -> u64 {
        let begun = Instant::now();
        loop {
            match self.count(key).await {
                Ok(ran) => return ran.answer,
                Err(error) => {
                    assert!(error.is_unavailable());
                    assert!(begun.elapsed() < PATIENCE, "{error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// What is told is heard, or the waiter is asked to look, and hears it then.
    pub(super) async fn hears(&self, key: &str) {
        let token = Token::random(ClientId::random());
        let mut listening = self.wakes.listen(token);
        loop {
            let breaks = self.wakes.disconnects();
            // Two: a connection that has just been replaced.
            let heard = self.tell(key, token).await.unwrap().answer;
            assert!((1..=2).contains(&heard), "{heard}");
            let woken = timeout(PATIENCE, listening.next(breaks))
                .await
                .expect("woken");
            if let Some(wake) = woken {
                return assert_eq!(wake, Notification::Ask);
            }
        }
    }
}

/// Whoever waits is asked to look, once more than `breaks` times.
pub(super) async fn broken(end: &End, breaks: u64) {
    let mut listening = end.wakes.listen(Token::random(ClientId::random()));
    let told = timeout(PATIENCE, listening.next(breaks)).await;
    assert_eq!(told.expect("told"), None);
}

fn refused(result: Result<End>, word: &str) {
    let Err(error) = result else {
        panic!("not refused")
    };
    let text = error.to_string();
    assert!(error.is_unavailable(), "{text}");
    assert!(text.contains(word), "{text}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn one_server_pushes_to_the_process() {
    let redis = Redis::start();
    let end = End::at(&redis.url()).await;
    end.hears("k").await;
    let breaks = end.wakes.disconnects();
    redis.restart();
    broken(&end, breaks).await;
    end.hears("k").await;
}

#[tokio::test]
async fn valkey_is_as_good() {
    let Some(valkey) = Redis::start_valkey() else {
        return;
    };
    let end = End::at(&valkey.url()).await;
    end.hears("k").await;
}

#[tokio::test]
async fn a_script_that_may_have_run_before_is_said_to_be_repeated() {
    let redis = Redis::start();
    let end = End::at(&redis.url()).await;
    assert!(!end.count("k").await.unwrap().repeated);
    // Flushed scripts are loaded again, which is no repetition.
    redis.command(&["SCRIPT", "FLUSH"]).unwrap();
    assert!(!end.count("k").await.unwrap().repeated);
    let proxy = lockstock_testkit::Proxy::start(redis.address());
    let end = End::at(&format!("redis://{}", proxy.address())).await;
    end.count("k").await.unwrap();
    proxy.reset_next_reply();
    let ran = end.count("k").await.unwrap();
    assert!(ran.repeated);
    assert_eq!(ran.answer, 5);
}

#[tokio::test]
async fn each_refusal_is_unavailable_and_says_what_happened() {
    let redis = Redis::start_with(&["--requirepass", "s3cret"]);
    refused(End::try_at(&redis.url()).await, "NOAUTH");
    let url = redis.url_as("default", "hunter2");
    refused(End::try_at(&url).await, "WRONGPASS");
    let end = End::at(&redis.url_as("default", "s3cret")).await;
    let said = async |word: &str| {
        let error = end.count("k").await.err().expect("refused");
        assert!(error.is_unavailable());
        assert!(error.to_string().contains(word), "{error}");
    };
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    said("OOM ").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    said("READONLY ").await;
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    redis
        .command(&["ACL", "SETUSER", "default", "-incr"])
        .unwrap();
    said("ACL").await;
    redis
        .command(&["ACL", "SETUSER", "default", "+incr"])
        .unwrap();
    end.count("k").await.unwrap();
}

#[tokio::test]
async fn a_server_without_hello_is_not_told_the_password_twice() {
    let redis = Redis::start_with(&["--rename-command", "HELLO", ""]);
    refused(
        End::try_at(&redis.url_as("shop", "hunter2")).await,
        "unknown command 'HELLO'",
    );
}

#[tokio::test]
async fn a_user_needs_no_more_rights_than_it_uses() {
    let redis = Redis::start_with(&[
        "--user",
        "shop",
        "on",
        ">pw",
        "~shop:*",
        "&lockstock:wake:*",
        "+evalsha",
        "+eval",
        "+incr",
        "+publish",
        "+subscribe",
        "+ping",
    ]);
    let end = End::at(&redis.url_as("shop", "pw")).await;
    end.hears("shop:k").await;
    let error = end.count("other:k").await.err().unwrap();
    assert!(error.to_string().contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn with_tls_chain_and_name_are_checked() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let trusting = |url: &str, authority: &Authority| {
        format!("{url}?ssl_ca_certs={}", authority.file().display())
    };
    let end = End::at(&trusting(&redis.url(), &authority)).await;
    end.hears("k").await;

    let other = Authority::new();
    let url = trusting(&redis.url(), &other);
    refused(End::try_at(&url).await, "certificate");
    // The system's authorities, who do not know ours.
    refused(End::try_at(&redis.url()).await, "certificate");
    let name = redis.url().replace("localhost", "127.0.0.1");
    refused(
        End::try_at(&trusting(&name, &authority)).await,
        "certificate",
    );
    let plain = redis.url().replace("rediss", "redis");
    refused(End::try_at(&plain).await, "no Redis answers");
    let expired = Redis::start_tls(&authority.issue_expired(&["localhost"]));
    refused(
        End::try_at(&trusting(&expired.url(), &authority)).await,
        "certificate",
    );
}
