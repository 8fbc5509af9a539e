//! `Proxy` in front of a real `redis-server`, and of a bare socket.

use lockstock_testkit::{Process, Proxy, Redis};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(10);
/// How long a connection has to be silent.
const QUIET: Duration = Duration::from_millis(200);

#[test]
fn passes_everything_both_ways() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");

    let large = "x".repeat(3_000_000);
    let request = format!("*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$3000000\r\n{large}\r\n");
    assert_eq!(ask(&mut client, &request).unwrap(), "+OK\r\n");
    client.write_all(b"GET k\r\n").unwrap();
    let mut reply = vec![0; "$3000000\r\n".len() + large.len() + 2];
    client.read_exact(&mut reply).unwrap();
    assert!(reply[10..].starts_with(large.as_bytes()));
    assert_eq!(redis.command(&["STRLEN", "k"]), Ok("3000000".into()));
}

#[test]
fn forwards_the_end_of_each_direction() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap());
    let mut client = connect(&proxy);
    let (mut server, _) = listener.accept().unwrap();
    client.write_all(b"last words").unwrap();
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut heard = String::new();
    server.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "last words");
    server.write_all(b"farewell").unwrap();
    drop(server);
    heard.clear();
    client.read_to_string(&mut heard).unwrap();
    assert_eq!(heard, "farewell");
}

#[test]
fn cut_resets_connections_and_refuses_new_ones() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");

    proxy.cut();
    let error = client.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    let error = TcpStream::connect(proxy.address()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
    // The connection to the server has ended, too: this command is its only client.
    wait_until(|| {
        redis
            .command(&["CLIENT", "LIST"])
            .unwrap()
            .trim()
            .lines()
            .count()
            == 1
    });
    proxy.cut();

    proxy.pass();
    assert_eq!(ask(&mut connect(&proxy), "PING\r\n").unwrap(), "+PONG\r\n");
}

/// A child has copies of all sockets until it executes its program. With a copy
/// of the listener around, a cut proxy went on accepting.
#[test]
fn a_cut_holds_while_processes_are_started() {
    let (_redis, proxy) = redis_behind_proxy();
    std::thread::scope(|scope| {
        let starter = scope.spawn(|| {
            for _ in 0..300 {
                Process::spawn(Command::new("true")).unwrap();
            }
        });
        while !starter.is_finished() {
            let mut client = connect(&proxy);
            assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");
            proxy.cut();
            let error = answer(&mut client).expect_err("a cut connection");
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
            TcpStream::connect(proxy.address()).expect_err("a cut proxy");
            proxy.pass();
        }
    });
}

#[test]
fn stalled_it_accepts_and_forwards_nothing_until_it_passes() {
    let (redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    assert_eq!(ask(&mut old, "PING\r\n").unwrap(), "+PONG\r\n");

    proxy.stall();
    let mut new = connect(&proxy);
    for client in [&mut old, &mut new] {
        client.write_all(b"INCR n\r\n").unwrap();
        assert_silent(client);
    }
    assert_eq!(redis.command(&["GET", "n"]), Ok("(nil)".into()));

    proxy.pass();
    for client in [&mut old, &mut new] {
        assert!(answer(client).unwrap().starts_with(':'));
    }
    assert_eq!(redis.command(&["GET", "n"]), Ok("2".into()));
}

#[test]
fn held_replies_arrive_when_it_passes() {
    let (redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    assert_eq!(ask(&mut old, "PING\r\n").unwrap(), "+PONG\r\n");

    proxy.hold_replies();
    old.write_all(b"INCR n\r\nINCR n\r\n").unwrap();
    wait_until(|| proxy.held_replies() == b":1\r\n:2\r\n");
    assert_eq!(redis.command(&["GET", "n"]), Ok("2".into()));
    assert_silent(&mut old);
    let mut new = connect(&proxy);
    assert_eq!(ask(&mut new, "GET n\r\n").unwrap(), "$1\r\n2\r\n");

    proxy.pass();
    let mut replies = [0; 8];
    old.read_exact(&mut replies).unwrap();
    assert_eq!(&replies, b":1\r\n:2\r\n");

    proxy.hold_replies();
    old.write_all(b"INCR n\r\n").unwrap();
    wait_until(|| proxy.held_replies() == b":3\r\n");
    proxy.cut();
    assert_eq!(
        old.read(&mut [0]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn stalled_it_holds_replies_back() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    // The reply comes into being only after the stall.
    client.write_all(b"BLPOP list 30\r\n").unwrap();
    wait_until(|| {
        redis
            .command(&["INFO", "clients"])
            .unwrap()
            .contains("blocked_clients:1")
    });
    proxy.stall();
    redis.command(&["LPUSH", "list", "x"]).unwrap();
    assert_silent(&mut client);
    proxy.pass();
    assert!(answer(&mut client).unwrap().starts_with("*2"));
}

#[test]
fn replies_dropped_requests_are_still_served() {
    let (redis, proxy) = redis_behind_proxy();
    let mut robbed = connect(&proxy);
    let mut idle = connect(&proxy);
    assert_eq!(ask(&mut robbed, "PING\r\n").unwrap(), "+PONG\r\n");
    assert_eq!(ask(&mut idle, "PING\r\n").unwrap(), "+PONG\r\n");

    proxy.drop_replies();
    for count in ["1", "2"] {
        robbed.write_all(b"INCR n\r\n").unwrap();
        wait_until(|| redis.command(&["GET", "n"]) == Ok(count.into()));
        assert_silent(&mut robbed);
    }

    proxy.pass();
    // The connection must not continue after a lost reply.
    assert_eq!(
        answer(&mut robbed).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(ask(&mut idle, "INCR n\r\n").unwrap(), ":3\r\n");
}

#[test]
fn delay_holds_replies_back_for_that_long() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    let delay = Duration::from_millis(300);
    proxy.delay(delay);
    let asked = Instant::now();
    assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");
    assert!(asked.elapsed() >= delay);

    // A cut does not wait for what is late.
    proxy.delay(Duration::from_secs(600));
    client.write_all(b"PING\r\n").unwrap();
    assert_silent(&mut client);
    proxy.cut();
    assert_eq!(
        answer(&mut client).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn next_reply_reset_is_lost_once_and_its_request_served() {
    let (redis, proxy) = redis_behind_proxy();
    let mut client = connect(&proxy);
    let mut other = connect(&proxy);
    assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");

    proxy.reset_next_reply();
    let error = ask(&mut client, "INCR n\r\n").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(redis.command(&["GET", "n"]), Ok("1".into()));
    assert_eq!(ask(&mut other, "INCR n\r\n").unwrap(), ":2\r\n");
}

#[test]
fn a_server_that_is_down_resets_and_one_that_is_back_is_found() {
    let (redis, proxy) = redis_behind_proxy();
    redis.kill();
    let mut client = connect(&proxy);
    assert_eq!(
        answer(&mut client).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    redis.restart();
    assert_eq!(ask(&mut connect(&proxy), "PING\r\n").unwrap(), "+PONG\r\n");
}

#[test]
fn dropping_the_proxy_ends_its_connections_and_its_listener() {
    let (_redis, proxy) = redis_behind_proxy();
    let address: SocketAddr = proxy.address();
    let mut client = connect(&proxy);
    assert_eq!(ask(&mut client, "PING\r\n").unwrap(), "+PONG\r\n");
    drop(proxy);
    assert!(!matches!(client.read(&mut [0]), Ok(1..)));
    assert!(TcpStream::connect(address).is_err());
}

#[tokio::test]
async fn works_on_the_one_thread_of_an_async_test() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (_redis, proxy) = redis_behind_proxy();
    let mut client = tokio::net::TcpStream::connect(proxy.address())
        .await
        .unwrap();
    client.write_all(b"PING\r\n").await.unwrap();
    let mut reply = [0; 7];
    client.read_exact(&mut reply).await.unwrap();
    proxy.cut();
    let error = client.read(&mut reply).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn forget_silences_the_connections_that_exist_and_no_others() {
    let (_redis, proxy) = redis_behind_proxy();
    let mut old = connect(&proxy);
    assert_eq!(ask(&mut old, "PING\r\n").unwrap(), "+PONG\r\n");
    proxy.forget();
    old.write_all(b"PING\r\n").unwrap();
    assert_silent(&mut old);
    let mut new = connect(&proxy);
    assert_eq!(ask(&mut new, "PING\r\n").unwrap(), "+PONG\r\n");
    proxy.cut();
    let error = old.read(&mut [0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn redirect_leads_new_connections_to_another_server() {
    let (_redis, proxy) = redis_behind_proxy();
    let other = Redis::start();
    other.command(&["SET", "name", "other"]).unwrap();
    let mut old = connect(&proxy);
    assert_eq!(ask(&mut old, "EXISTS name\r\n").unwrap(), ":0\r\n");
    proxy.redirect(other.address());
    let mut new = connect(&proxy);
    assert_eq!(ask(&mut new, "EXISTS name\r\n").unwrap(), ":1\r\n");
    assert_eq!(ask(&mut old, "EXISTS name\r\n").unwrap(), ":0\r\n");
}

fn redis_behind_proxy() -> (Redis, Proxy) {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.address());
    (redis, proxy)
}

fn connect(proxy: &Proxy) -> TcpStream {
    let client = TcpStream::connect(proxy.address()).unwrap();
    client.set_read_timeout(Some(SOON)).unwrap();
    client
}

fn ask(client: &mut TcpStream, request: &str) -> std::io::Result<String> {
    client.write_all(request.as_bytes())?;
    answer(client)
}

/// What one read gives: the whole of a short reply.
fn answer(client: &mut TcpStream) -> std::io::Result<String> {
    let mut reply = [0; 128];
    let length = client.read(&mut reply)?;
    Ok(String::from_utf8_lossy(&reply[..length]).into_owned())
}

#[track_caller]
fn assert_silent(client: &mut TcpStream) {
    client.set_read_timeout(Some(QUIET)).unwrap();
    let error = client.read(&mut [0]).expect_err("silence");
    assert!(
        matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        "{error}"
    );
    client.set_read_timeout(Some(SOON)).unwrap();
}

fn wait_until(mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "it never came true");
        std::thread::sleep(Duration::from_millis(5));
    }
}
