//! `Redis` against the real `redis-server`.

use lockstock_testkit::Redis;
use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

#[test]
fn starts_empty_on_its_own_port_and_keeps_nothing_on_disk() {
    let redis = Redis::start();
    assert_eq!(redis.url(), format!("redis://{}/0", redis.address()));
    assert!(redis.address().ip().is_loopback());
    assert_eq!(redis.command(&["DBSIZE"]), Ok("0".into()));
    assert_eq!(
        redis.command(&["CONFIG", "GET", "save"]),
        Ok("save\n".into())
    );
    assert_eq!(
        redis.command(&["CONFIG", "GET", "appendonly"]),
        Ok("appendonly\nno".into())
    );
    assert!(redis.log().contains("Ready to accept connections"));
}

#[test]
fn command_reads_every_kind_of_reply() {
    let redis = Redis::start();
    assert_eq!(
        redis.command(&["SET", "k", "a value\r\nof two lines é"]),
        Ok("OK".into())
    );
    assert_eq!(
        redis.command(&["GET", "k"]),
        Ok("a value\r\nof two lines é".into())
    );
    assert_eq!(redis.command(&["GET", "none"]), Ok("(nil)".into()));
    assert_eq!(redis.command(&["SET", "empty", ""]), Ok("OK".into()));
    assert_eq!(redis.command(&["GET", "empty"]), Ok(String::new()));
    assert_eq!(redis.command(&["PTTL", "k"]), Ok("-1".into()));
    assert_eq!(
        redis.command(&["MGET", "none", "empty"]),
        Ok("(nil)\n".into())
    );
    assert_eq!(redis.command(&["KEYS", "x*"]), Ok(String::new()));
    let error = redis.command(&["INCR", "k"]).unwrap_err();
    assert!(error.starts_with("ERR value is not an integer"), "{error}");
    assert_eq!(redis.command(&["FLUSHALL"]), Ok("OK".into()));
    assert_eq!(redis.command(&["GET", "k"]), Ok("(nil)".into()));
}

#[test]
fn a_password_is_required_of_all_clients_but_command() {
    let redis = Redis::start_with(&["--requirepass", "s3cret"]);
    assert_eq!(redis.command(&["PING"]), Ok("PONG".into()));
    assert!(!redis.url().contains("s3cret"));

    let mut stranger = TcpStream::connect(redis.address()).unwrap();
    stranger.write_all(b"PING\r\n").unwrap();
    let mut answer = [0; 7];
    stranger.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"-NOAUTH");

    redis.restart();
    assert_eq!(redis.command(&["PING"]), Ok("PONG".into()));
}

#[test]
fn killed_it_stays_down_and_restarted_it_is_empty_on_the_same_port() {
    let redis = Redis::start();
    let (address, id) = (redis.address(), redis.id());
    redis.command(&["SET", "k", "v"]).unwrap();
    let mut client = TcpStream::connect(address).unwrap();

    redis.kill();
    let refused = TcpStream::connect(address).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(
        !matches!(client.read(&mut [0]), Ok(1..)),
        "a dead server answered"
    );
    let error = redis.command(&["PING"]).unwrap_err();
    assert!(error.starts_with("unreachable: "), "{error}");
    redis.kill();

    redis.restart();
    assert_eq!(redis.address(), address);
    assert_ne!(redis.id(), id);
    assert_eq!(redis.command(&["GET", "k"]), Ok("(nil)".into()));

    // One that still runs is killed first.
    redis.command(&["SET", "k", "v"]).unwrap();
    redis.restart();
    assert_eq!(redis.command(&["GET", "k"]), Ok("(nil)".into()));
}

#[test]
fn paused_it_accepts_and_is_silent_and_resumed_it_answers() {
    let redis = Redis::start();
    redis.pause();
    let mut client = TcpStream::connect(redis.address()).expect("the kernel accepts");
    client.write_all(b"PING\r\n").unwrap();
    client
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let silence = client.read(&mut [0]).unwrap_err();
    assert!(matches!(
        silence.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut
    ));

    redis.resume();
    client
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let mut answer = [0; 7];
    client.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"+PONG\r\n");
}

#[test]
fn paused_it_can_be_killed() {
    let redis = Redis::start();
    redis.pause();
    redis.kill();
    assert!(TcpStream::connect(redis.address()).is_err());
    redis.restart();
    redis.pause();
    // And dropped.
}

#[test]
fn many_at_once_get_a_port_each() {
    let servers: Vec<Redis> = std::thread::scope(|scope| {
        let starting: Vec<_> = (0..8).map(|_| scope.spawn(Redis::start)).collect();
        starting
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    for (number, redis) in servers.iter().enumerate() {
        redis.command(&["SET", "me", &number.to_string()]).unwrap();
    }
    let ports: HashSet<u16> = servers.iter().map(|redis| redis.address().port()).collect();
    assert_eq!(ports.len(), servers.len());
    for (number, redis) in servers.iter().enumerate() {
        assert_eq!(redis.command(&["GET", "me"]), Ok(number.to_string()));
    }
}
