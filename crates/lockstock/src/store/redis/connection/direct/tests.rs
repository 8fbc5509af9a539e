use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

use lockstock_testkit::{Proxy, Redis};

use super::*;
use crate::store::builder::Options;
use crate::store::redis::connection::DirectTarget;

/// Longer than a server takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);
/// A limit that a test waits for.
const SHORT: Duration = Duration::from_millis(300);

fn pool(url: &str) -> Pool {
    let target = DirectTarget::parse(url, &Options::default()).unwrap();
    target.pool().unwrap()
}

fn within(limit: Duration) -> Limits {
    Limits {
        deadline: Instant::now() + limit,
        on_interrupt: None,
    }
}

fn ping(pool: &Pool, limit: Duration) -> Result<Value, DirectError> {
    pool.call(&redis::cmd("PING"), true, &within(limit))
}

fn pong() -> Value {
    Value::SimpleString("PONG".to_owned())
}

/// A server that accepts `HELLO` on each connection, and sends what `reply` writes as the reply to
/// the next command. Ends with the test process.
fn server(reply: impl Fn(usize, &mut TcpStream) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        let reply = Arc::new(reply);
        for (number, stream) in listener.incoming().enumerate() {
            let (reply, mut stream) = (reply.clone(), stream.unwrap());
            thread::spawn(move || {
                let mut commands = [0; 4096];
                let _ = stream.read(&mut commands);
                let _ = stream.write_all(b"%1\r\n$5\r\nproto\r\n:3\r\n");
                let _ = stream.read(&mut commands);
                reply(number, &mut stream);
            });
        }
    });
    url
}

/// A server whose first connections reply `bytes`, again and again if `is_endless`, and then close.
/// From connection `count` on it replies `PONG`.
fn hostile(count: usize, bytes: &'static [u8], is_endless: bool) -> String {
    server(move |number, stream| {
        if number >= count {
            let _ = stream.write_all(b"+PONG\r\n");
            let _ = stream.read(&mut [0; 4096]);
            return;
        }
        while stream.write_all(bytes).is_ok() && is_endless {}
    })
}

#[test]
fn connections_are_used_again_last_in_first_out() {
    let redis = Redis::start();
    let pool = pool(&redis.url());
    let id = || match pool.call(redis::cmd("CLIENT").arg("ID"), true, &within(LONG)) {
        Ok(Value::Int(id)) => id,
        other => panic!("{other:?}"),
    };
    let first = id();
    assert_eq!((id(), id()), (first, first));
    let (one, other) = (pool.take(false).unwrap(), pool.take(false));
    assert!(other.is_none());
    let second = id();
    assert_ne!(second, first);
    pool.put(one);
    assert_eq!(id(), first);
    assert_eq!(pool.idle().len(), 2);
}

#[test]
fn an_idle_connection_is_checked_and_closed_after_a_minute() {
    let redis = Redis::start();
    let pool = pool(&redis.url());
    let age = |by: Duration| {
        for idle in pool.idle().iter_mut() {
            idle.since = Instant::now().checked_sub(by).unwrap();
        }
    };
    ping(&pool, LONG).unwrap();
    age(2 * UNCHECKED_IDLE);
    assert!(
        pool.take(false).map(|link| pool.put(link)).is_some(),
        "alive"
    );
    redis
        .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
        .unwrap();
    // Not the command that finds out: it cannot be repeated.
    let cmd = redis::cmd("PING");
    age(2 * UNCHECKED_IDLE);
    assert_eq!(pool.call(&cmd, false, &within(LONG)).unwrap(), pong());
    age(2 * MAX_IDLE);
    assert!(pool.take(false).is_none());
    ping(&pool, LONG).unwrap();
    let link = pool.take(false).unwrap();
    ping(&pool, LONG).unwrap();
    age(2 * MAX_IDLE);
    pool.put(link);
    assert_eq!(pool.idle().len(), 1);
}

#[test]
fn a_repeatable_command_outlives_a_restart_and_another_does_not() {
    let redis = Redis::start();
    let pool = pool(&redis.url());
    ping(&pool, LONG).unwrap();
    redis.kill();
    redis.restart();
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
    redis.kill();
    redis.restart();
    let error = pool.call(&redis::cmd("PING"), false, &within(LONG));
    assert!(matches!(
        error,
        Err(DirectError::Broken {
            is_disconnect: true,
            ..
        })
    ));
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
}

#[test]
fn a_command_whose_reply_is_lost_is_sent_twice_at_most() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let pool = pool(&format!("redis://{}", proxy.address()));
    let count = || redis.command(&["GET", "n"]).unwrap();
    let incr = redis::cmd("INCR").arg("n").take();
    pool.call(&incr, false, &within(LONG)).unwrap();
    proxy.reset_next_reply();
    assert!(pool.call(&incr, false, &within(LONG)).is_err());
    assert_eq!(count(), "2");
    pool.call(&incr, false, &within(LONG)).unwrap();
    proxy.reset_next_reply();
    pool.call(&incr, true, &within(LONG)).unwrap();
    assert_eq!(count(), "5");
}

#[test]
fn a_silent_server_costs_the_time_limit_and_its_connection() {
    let redis = Redis::start();
    let pool = pool(&redis.url());
    ping(&pool, LONG).unwrap();
    redis.pause();
    assert!(matches!(ping(&pool, SHORT), Err(DirectError::TimedOut)));
    assert_eq!(pool.idle().len(), 0);
    // A new connection, whose HELLO has no reply: there is time left for another way.
    let error = ping(&pool, SHORT);
    assert!(
        matches!(error, Err(DirectError::Unreachable(_))),
        "{error:?}"
    );
    assert!(pool.is_bypassed());
    redis.resume();
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
}

#[test]
fn idle_connections_that_the_network_has_forgotten_cost_one_time_limit_together() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    let pool = pool(&format!("redis://{}", proxy.address()));
    let links = [(); 3].map(|()| {
        ping(&pool, LONG).unwrap();
        pool.take(false).unwrap()
    });
    links.into_iter().for_each(|link| pool.put(link));
    proxy.forget();
    assert!(matches!(ping(&pool, SHORT), Err(DirectError::TimedOut)));
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
}

#[test]
fn a_refused_connection_is_unreachable() {
    let port = lockstock_testkit::free_port();
    for host in ["127.0.0.1", "localhost"] {
        let pool = pool(&format!("redis://{host}:{port}"));
        let error = pool.call(&redis::cmd("PING"), false, &within(LONG));
        assert!(
            matches!(error, Err(DirectError::Unreachable(_))),
            "{error:?}"
        );
    }
}

#[test]
fn a_slow_drip_does_not_extend_the_time_limit() {
    // Each of these would never end.
    for drip in [
        "$1000000\r\nxxxxxxxxxxxxxxxx",
        "+x",
        "*1000\r\n:1\r\n:1\r\n:1\r\n:1\r\n",
    ] {
        let url = server(move |_, stream| {
            for byte in drip.bytes().chain(std::iter::repeat(b'x')) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                thread::sleep(Duration::from_millis(10));
            }
        });
        let pool = pool(&url);
        let error = ping(&pool, SHORT);
        assert!(
            matches!(
                error,
                Err(DirectError::TimedOut | DirectError::Broken { .. })
            ),
            "{error:?}"
        );
        assert_eq!(pool.idle().len(), 0);
    }
}

#[test]
fn after_what_is_no_reply_the_next_call_has_a_new_connection() {
    for (bytes, is_endless) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], false),
        (b"$9223372036854775807\r\n", false),
        (b"*1\r\n", true),
        (b"xxxxxxxxxxxxxxxx", true),
        (b"+xxxxxxxxxxxxxxx", true),
        (b"$3\r\nabcd\r\n", false),
    ] {
        let pool = pool(&hostile(1, bytes, is_endless));
        let error = ping(&pool, LONG);
        assert!(
            matches!(
                error,
                Err(DirectError::Broken {
                    is_disconnect: false,
                    ..
                })
            ),
            "{error:?}"
        );
        assert_eq!(ping(&pool, LONG).unwrap(), pong());
    }
}

#[test]
fn a_reply_that_breaks_off_is_no_reply() {
    for bytes in [&b""[..], b"$", b"$5\r\nab", b"*2\r\n+PONG\r\n", b"+PONG\r"] {
        let again = pool(&hostile(1, bytes, false));
        assert_eq!(ping(&again, LONG).unwrap(), pong());
        let twice = pool(&hostile(2, bytes, false));
        assert!(matches!(
            ping(&twice, LONG),
            Err(DirectError::Broken { .. })
        ));
        assert_eq!(ping(&twice, LONG).unwrap(), pong());
    }
}

#[test]
fn a_connection_on_which_more_than_the_reply_arrives_is_not_used_again() {
    let pool = pool(&hostile(1, b"+PONG\r\n+stray\r\n", false));
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
    assert_eq!(pool.idle().len(), 0);
    assert_eq!(ping(&pool, LONG).unwrap(), pong());
}

#[test]
fn a_server_that_takes_no_more_bytes_costs_the_time_limit() {
    let url = server(|_, stream| {
        // Reads nothing further, and keeps the connection.
        thread::sleep(LONG);
        drop(stream.write_all(b"+late\r\n"));
    });
    let pool = pool(&url);
    let set = redis::cmd("SET")
        .arg("a")
        .arg(vec![b'x'; 64 * 1024 * 1024])
        .take();
    let error = pool.call(&set, true, &within(SHORT));
    assert!(matches!(error, Err(DirectError::TimedOut)), "{error:?}");
}

#[test]
fn the_addresses_of_a_name_share_the_time_limit() {
    // Nothing answers there (RFC 5737), or it is rejected at once. Either way the second address has
    // its share of the time.
    let redis = Redis::start();
    let addresses = ["192.0.2.1:6379".parse().unwrap(), redis.address()];
    let stream = super::socket::connect(&addresses, &within(Duration::from_secs(6)));
    assert_eq!(stream.unwrap().peer_addr().unwrap(), redis.address());
}
