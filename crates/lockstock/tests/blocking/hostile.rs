//! A server that sends anything else than replies.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use lockstock::blocking::Store;
use lockstock_testkit::{Proxy, Redis};

use super::harness::TIMEOUT;
use super::values::raw;

/// A time limit that a test waits for.
const BRIEF: Duration = Duration::from_millis(500);

#[test]
fn a_hostile_server_is_unavailable_and_the_next_server_works() {
    let redis = Redis::start();
    for bytes in [
        &b"$9223372036854775807\r\nxxxxxxxxxxxx"[..],
        b"*9223372036854775807\r\n",
        b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
        b"xxxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"+xxxxxxxxxxxxxxxxxxxxxxxxxxx",
        b"HTTP/1.1 200 OK\r\n\r\n",
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hostile = listener.local_addr().unwrap();
        let is_done = Arc::new(AtomicBool::new(false));
        thread::spawn({
            let is_done = is_done.clone();
            move || {
                for stream in listener.incoming() {
                    let (mut stream, is_done) = (stream.unwrap(), is_done.clone());
                    thread::spawn(move || {
                        let _ = stream.read(&mut [0; 4096]);
                        while !is_done.load(Ordering::Relaxed) && stream.write_all(bytes).is_ok() {
                            // Slow: a client that waits is bounded by its time limit.
                            thread::sleep(Duration::from_millis(5));
                        }
                    });
                }
            }
        });
        let proxy = Proxy::start(hostile);
        let url = format!("redis://{}", proxy.address());
        let store = Store::builder(url).timeout(BRIEF).open().unwrap();
        let values = raw(&store, "values");
        for _ in 0..2 {
            let error = values.get("a").unwrap_err();
            assert!(error.is_unavailable(), "{error}");
        }
        is_done.store(true, Ordering::Relaxed);
        proxy.redirect(redis.address());
        proxy.cut();
        proxy.pass();
        // Refused for a moment: the last server did not reply. The time limit is short, too.
        let gives_up_at = Instant::now() + TIMEOUT;
        while values.get("a").is_err() {
            assert!(Instant::now() < gives_up_at);
            thread::sleep(Duration::from_millis(5));
        }
    }
}
