//! A server that sends anything else than replies to an asynchronous store: each call ends in time, and
//! the next server works.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread;
use std::time::Duration;

use harness::{LEASE, TIMEOUT, lock};
use lockstock::{Cache, Raw, Store};
use lockstock_testkit::{Proxy, Redis};
use tokio::time::{Instant, sleep};

/// A time limit that a test waits for.
const BRIEF: Duration = Duration::from_millis(500);

/// Starts a server that sends these bytes again and again on each connection. It ends with the test
/// process.
fn hostile_server(bytes: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            thread::spawn(move || {
                let _ = stream.read(&mut [0; 4096]);
                while stream.write_all(bytes).is_ok() {
                    // Slow: a client that waits is bounded by its time limit.
                    thread::sleep(Duration::from_millis(5));
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_server_is_unavailable_and_the_next_server_works() {
    let redis = Redis::start();
    for bytes in [
        &b"$9223372036854775807\r\nxxxxxxxxxxxx"[..],
        b"*9223372036854775807\r\n",
        b"%9223372036854775807\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"+xxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b">2\r\n+message\r\n+x\r\n",
        b"|1\r\n+x\r\n+y\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let proxy = Proxy::start(hostile_server(bytes));
        let url = format!("redis://{}", proxy.address());
        let store = Store::builder(url).timeout(BRIEF).open().unwrap();
        let (lock, values) = (lock(&store, "a", LEASE), store.cache("values").codec(Raw));
        let values: Cache<Vec<u8>, Raw> = values;
        for _ in 0..2 {
            let error = lock.acquire().await.unwrap_err();
            assert!(error.is_unavailable(), "{error}");
            let error = values.get("a").await.unwrap_err();
            assert!(error.is_unavailable(), "{error}");
        }
        proxy.redirect(redis.address());
        proxy.cut();
        proxy.pass();
        // Refused for a moment: the last server did not reply.
        let gives_up_at = Instant::now() + TIMEOUT;
        let guard = loop {
            match lock.acquire().await {
                Ok(guard) => break guard,
                Err(error) => assert!(Instant::now() < gives_up_at, "{error}"),
            }
            sleep(Duration::from_millis(20)).await;
        };
        guard.release().await.unwrap();
    }
}
