//! Tests with a single server, and the harness of the tests with Sentinel and Cluster.

use std::time::Duration;

use futures_util::future::join_all;
use lockstock_testkit::{Authority, Proxy, Redis};
use tokio::time::{sleep, timeout};

use super::*;
use crate::key::LockKind;
use crate::store::redis::notifications::Notification;
use crate::token::Token;

pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(1);
/// The time limit of a test. Longer than any step takes.
pub(super) const TIMEOUT: Duration = Duration::from_secs(30);

/// Increments `KEYS[1]` and notifies a client. Returns the number of receivers.
const INCREMENT_AND_NOTIFY: &str = "
    redis.call('INCR', KEYS[1])
    local publish = ARGV[1] == 'lockstock:wake:' and 'PUBLISH' or 'SPUBLISH'
    return redis.call(publish, ARGV[1] .. ARGV[2], 'ask:' .. ARGV[3])";

/// A client: its connection and its notifications.
pub(super) struct TestClient {
    pub(super) connection: Connection,
    pub(super) notifications: Notifications,
}

impl TestClient {
    pub(super) async fn connect(url: &str) -> Self {
        Self::try_connect(url).await.unwrap()
    }

    pub(super) async fn try_connect(url: &str) -> Result<Self> {
        let client = Self::open(url)?;
        client.connection.connect().await?;
        Ok(client)
    }

    /// Opens no connection yet.
    fn open(url: &str) -> Result<Self> {
        let (notifications, _) = Notifications::new();
        let id = ClientId::random();
        let options = Options {
            timeout: CALL_TIMEOUT,
            ..Options::default()
        };
        let connection = Connection::open(
            url,
            id,
            notifications.clone(),
            Arc::new(NearTables::new()),
            &options,
        )?;
        Ok(Self {
            connection,
            notifications,
        })
    }

    /// Increments `key` and notifies the waiter of `token`.
    pub(super) async fn notify(&self, key: &str, token: Token) -> Result<ScriptReply<u64>> {
        let keys = Keys::of(LockKind::Lock, key.as_bytes())?;
        self.connection.ensure_subscribed(&keys).await?;
        let slot = self.connection.slot(&keys);
        let arguments = [&*slot.channels, &slot.client_id, &token.to_string()];
        self.script(INCREMENT_AND_NOTIFY, &[key], &arguments).await
    }

    /// Increments `key`, without a notification.
    pub(super) async fn increment(&self, key: &str) -> Result<ScriptReply<u64>> {
        let increment = "return redis.call('INCR', KEYS[1])";
        self.script(increment, &[key], &[]).await
    }

    pub(super) async fn script<T: FromRedisValue>(
        &self,
        source: &'static str,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<ScriptReply<T>> {
        let script = LuaScript::new(source);
        let command = |eval: Eval| {
            let mut cmd = eval.command(&script);
            cmd.arg(keys.len()).arg(keys).arg(arguments);
            cmd
        };
        self.connection
            .run(Eval::Sha, command, Instant::now() + CALL_TIMEOUT)
            .await
    }

    /// Increments `key`, and retries until that succeeds.
    pub(super) async fn increment_until_available(&self, key: &str) -> u64 {
        let begun = Instant::now();
        loop {
            match self.increment(key).await {
                Ok(reply) => return reply.value,
                Err(error) => {
                    assert!(error.is_unavailable());
                    assert!(begun.elapsed() < TIMEOUT, "{error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Asserts that a notification about `key` is received, if necessary after a disconnect.
    pub(super) async fn assert_notified(&self, key: &str) {
        let token = Token::random(ClientId::random());
        let mut mailbox = self.notifications.listen(token);
        loop {
            let disconnects = self.notifications.disconnects();
            // Two if the connection has just been replaced.
            let receivers = self.notify(key, token).await.unwrap().value;
            assert!((1..=2).contains(&receivers), "{receivers}");
            let received = timeout(TIMEOUT, mailbox.next(disconnects))
                .await
                .expect("a notification");
            if let Some(notification) = received {
                return assert_eq!(notification, Notification::Ask);
            }
        }
    }
}

/// Waits until the connection has broken more than `disconnects` times.
pub(super) async fn await_disconnect(client: &TestClient, disconnects: u64) {
    let token = Token::random(ClientId::random());
    let mut mailbox = client.notifications.listen(token);
    let received = timeout(TIMEOUT, mailbox.next(disconnects)).await;
    assert_eq!(received.expect("a disconnect"), None);
}

/// What the error of a refused call contains.
pub(super) const REFUSED: &str = "the next attempt is in";

/// Returns how many commands with this name the server has executed.
fn executed(redis: &Redis, name: &str) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let prefix = format!("cmdstat_{name}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    let calls = calls.and_then(|calls| calls.split(',').next());
    calls.map_or(0, |calls| calls.parse().unwrap())
}

fn assert_rejected(result: Result<TestClient>, word: &str) {
    let Err(error) = result else {
        panic!("not rejected")
    };
    let text = error.to_string();
    assert!(error.is_unavailable(), "{text}");
    assert!(text.contains(word), "{text}");
    assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn a_server_notifies_the_client_also_after_a_restart() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    client.assert_notified("k").await;
    let disconnects = client.notifications.disconnects();
    redis.restart();
    await_disconnect(&client, disconnects).await;
    client.assert_notified("k").await;
}

#[tokio::test]
async fn valkey_notifies_the_client() {
    let Some(valkey) = Redis::start_valkey() else {
        return;
    };
    let client = TestClient::connect(&valkey.url()).await;
    client.assert_notified("k").await;
}

#[tokio::test]
async fn a_script_that_may_have_run_twice_is_reported_as_repeated() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    assert!(!client.increment("k").await.unwrap().repeated);
    // A flushed script is loaded again, but has not run before.
    redis.command(&["SCRIPT", "FLUSH"]).unwrap();
    assert!(!client.increment("k").await.unwrap().repeated);
    let proxy = Proxy::start(redis.address());
    let client = TestClient::connect(&format!("redis://{}", proxy.address())).await;
    client.increment("k").await.unwrap();
    proxy.reset_next_reply();
    let reply = client.increment("k").await.unwrap();
    assert!(reply.repeated);
    assert_eq!(reply.value, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_hangs_gets_one_call_a_second_and_recovers_without_a_restart() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    client.increment("k").await.unwrap();
    redis.pause();
    let error = client.increment("k").await.err().unwrap();
    assert!(!error.to_string().contains(REFUSED), "{error}");
    let (begun, mut refused) = (Instant::now(), 0);
    while begun.elapsed() < 3 * CALL_TIMEOUT {
        for result in join_all((0..200).map(|_| client.increment("k"))).await {
            let error = result.err().expect("no reply");
            assert!(error.is_unavailable(), "{error}");
            refused += usize::from(error.to_string().contains(REFUSED));
        }
        sleep(Duration::from_millis(10)).await;
    }
    // Rounded up, and the first call.
    let admitted = begun.elapsed().as_secs() + 2;
    redis.resume();
    let value = client.increment_until_available("k").await;
    // All that were sent are executed, and so is the one that succeeded.
    assert!(value <= 1 + admitted + 1, "{value} of {admitted}");
    assert!(refused > 200, "{refused}");
}

#[tokio::test]
async fn a_cancelled_call_and_a_call_with_less_time_refuse_no_other() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    client.increment("k").await.unwrap();
    redis.pause();
    let command = redis::cmd("GET").arg("k").to_owned();
    let brief = CALL_TIMEOUT / 20;
    for _ in 0..3 {
        let cancelled = timeout(brief, client.increment("k")).await;
        assert!(cancelled.is_err());
        let deadline = Instant::now() + brief;
        let error = client.connection.send(&command, true, deadline).await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("did not reply within"), "{error}");
        assert!(!error.contains(REFUSED), "{error}");
    }
    redis.resume();
    client.increment_until_available("k").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_sent_together_get_their_own_replies_and_errors() {
    let redis = Redis::start();
    redis.command(&["RPUSH", "list", "item"]).unwrap();
    let client = Arc::new(TestClient::connect(&redis.url()).await);
    let calls = (0..32).map(|task| {
        let client = client.clone();
        tokio::spawn(async move {
            for round in 0..100 {
                let send = async |words: &[&str]| {
                    let command = redis::cmd(words[0]).arg(&words[1..]).to_owned();
                    let deadline = Instant::now() + TIMEOUT;
                    client.connection.send(&command, true, deadline).await
                };
                let (key, value) = (format!("k{task}"), format!("{task}:{round}"));
                send(&["SET", &key, &value]).await.unwrap();
                let error = send(&["GET", "list"]).await.unwrap_err();
                assert!(error.to_string().contains("WRONGTYPE"), "{error}");
                let reply = send(&["GET", &key]).await.unwrap();
                assert_eq!(reply, Value::BulkString(value.into_bytes()));
            }
        })
    });
    for call in join_all(calls).await {
        call.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_cancelled_while_the_server_hangs_are_not_sent() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    client.increment("k").await.unwrap();
    redis.pause();
    let get = redis::cmd("GET").arg("k").to_owned();
    for _ in 0..10 {
        let calls = (0..1_000).map(|_| {
            let deadline = Instant::now() + CALL_TIMEOUT;
            client.connection.send(&get, true, deadline)
        });
        let cancelled = timeout(CALL_TIMEOUT / 20, join_all(calls)).await;
        assert!(cancelled.is_err());
    }
    redis.resume();
    client.increment_until_available("k").await;
    let deadline = Instant::now() + TIMEOUT;
    client.connection.send(&get, true, deadline).await.unwrap();
    let executed = executed(&redis, "get");
    assert!(executed < 1_000, "{executed}");
}

#[tokio::test]
async fn a_connection_that_stalls_is_replaced_and_the_server_is_called_again() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let client = TestClient::connect(&format!("redis://{}", proxy.address())).await;
    client.increment("k").await.unwrap();
    proxy.forget();
    client.increment("k").await.err().expect("no reply");
    // The call that was lost has not been executed.
    assert_eq!(client.increment_until_available("k").await, 2);
    client.assert_notified("k").await;
}

#[tokio::test]
async fn a_server_that_was_busy_for_too_long_is_called_again_once_it_replies() {
    let redis = Redis::start_with(&["--enable-debug-command", "yes"]);
    let client = TestClient::connect(&redis.url()).await;
    client.increment("k").await.unwrap();
    let busy = std::thread::spawn(move || {
        redis.command(&["DEBUG", "SLEEP", "1.5"]).unwrap();
        redis
    });
    // Until a call meets the pause.
    while client.increment("k").await.is_ok() {}
    let redis = busy.join().unwrap();
    client.increment_until_available("k").await;
    // The connection was not replaced.
    assert_eq!(executed(&redis, "hello"), 1);
}

#[tokio::test]
async fn a_refused_connection_refuses_no_later_call() {
    let redis = Redis::start();
    let client = TestClient::connect(&redis.url()).await;
    client.increment("k").await.unwrap();
    redis.kill();
    for _ in 0..50 {
        let error = client.increment("k").await.err().expect("no server");
        assert!(!error.to_string().contains(REFUSED), "{error}");
    }
    redis.restart();
    client.increment("k").await.unwrap();
}

#[tokio::test]
async fn a_server_that_accepts_and_never_replies_gets_one_connection_a_second() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let client = TestClient::open(&format!("redis://{}", proxy.address())).unwrap();
    proxy.stall();
    // Until the attempt to connect has timed out.
    let refused = |result: Result<ScriptReply<u64>>| {
        let error = result.err().expect("no reply");
        error.to_string().contains(REFUSED)
    };
    while !refused(client.increment("k").await) {}
    for result in join_all((0..200).map(|_| client.increment("k"))).await {
        assert!(refused(result));
    }
    proxy.pass();
    client.increment_until_available("k").await;
}

#[tokio::test]
async fn every_error_of_the_server_is_unavailable_and_keeps_its_code() {
    let redis = Redis::start_with(&["--requirepass", "s3cret"]);
    assert_rejected(TestClient::try_connect(&redis.url()).await, "NOAUTH");
    let url = redis.url_as("default", "hunter2");
    assert_rejected(TestClient::try_connect(&url).await, "WRONGPASS");
    let client = TestClient::connect(&redis.url_as("default", "s3cret")).await;
    let assert_error = async |word: &str| {
        let error = client.increment("k").await.err().expect("an error");
        assert!(error.is_unavailable());
        assert!(error.to_string().contains(word), "{error}");
    };
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    assert_error("OOM ").await;
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).unwrap();
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    assert_error("READONLY ").await;
    redis.command(&["REPLICAOF", "NO", "ONE"]).unwrap();
    redis
        .command(&["ACL", "SETUSER", "default", "-incr"])
        .unwrap();
    assert_error("ACL").await;
    redis
        .command(&["ACL", "SETUSER", "default", "+incr"])
        .unwrap();
    client.increment("k").await.unwrap();
}

#[tokio::test]
async fn the_error_of_a_server_without_hello_does_not_contain_the_password() {
    let redis = Redis::start_with(&["--rename-command", "HELLO", ""]);
    assert_rejected(
        TestClient::try_connect(&redis.url_as("shop", "hunter2")).await,
        "unknown command 'HELLO'",
    );
}

#[tokio::test]
async fn a_user_with_minimal_rights_can_connect() {
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
    let client = TestClient::connect(&redis.url_as("shop", "pw")).await;
    client.assert_notified("shop:k").await;
    let error = client.increment("other:k").await.err().unwrap();
    assert!(error.to_string().contains("NOPERM"), "{error}");
}

#[tokio::test]
async fn tls_verifies_chain_and_host_name() {
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let url_with_ca = |url: &str, authority: &Authority| {
        format!("{url}?ssl_ca_certs={}", authority.file().display())
    };
    let client = TestClient::connect(&url_with_ca(&redis.url(), &authority)).await;
    client.assert_notified("k").await;

    let other = Authority::new();
    let url = url_with_ca(&redis.url(), &other);
    assert_rejected(TestClient::try_connect(&url).await, "certificate");
    // The system's authorities did not issue the certificate.
    assert_rejected(TestClient::try_connect(&redis.url()).await, "certificate");
    let name = redis.url().replace("localhost", "127.0.0.1");
    assert_rejected(
        TestClient::try_connect(&url_with_ca(&name, &authority)).await,
        "certificate",
    );
    let plain = redis.url().replace("rediss", "redis");
    assert_rejected(
        TestClient::try_connect(&plain).await,
        "cannot connect to Redis",
    );
    let expired = Redis::start_tls(&authority.issue_expired(&["localhost"]));
    assert_rejected(
        TestClient::try_connect(&url_with_ca(&expired.url(), &authority)).await,
        "certificate",
    );
}
