//! A server that sends anything else than replies to an asynchronous store: each call ends in time, and
//! the next server works.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

mod harness;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
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

/// More memory than the test needs, and much less than a flood.
#[cfg(target_os = "linux")]
const MAX_MEMORY_BYTES: u64 = 256 * 1024 * 1024;
/// How much a server sends on a connection that is not closed.
const FLOOD_BYTES: usize = 1024 * 1024 * 1024;
/// No flood.
const HONEST: usize = usize::MAX;

/// What a server sends instead of replies: a head, and what follows again and again.
struct Flood {
    head: &'static str,
    repeated: String,
    /// Why the client does not read on.
    reason: &'static str,
}

fn floods() -> Vec<Flood> {
    let floods = [
        ("$9223372036854775807\r\n", "x", "too large"),
        ("$536870912\r\n", "x", "too large"),
        ("=-1\r\n", "x", "too large"),
        ("!-1\r\n", "x", "too large"),
        ("*9223372036854775807\r\n", "$1\r\nx\r\n", "too large"),
        ("*99999999\r\n", "$1\r\nx\r\n", "too large"),
        ("%99999999\r\n", "+x\r\n", "too large"),
        (">99999999\r\n", "+x\r\n", "too large"),
        ("*1\r\n", "*1\r\n", "recursion"),
        ("+", "x", "too long"),
        ("-ERR ", "x", "too long"),
    ];
    let floods = floods.into_iter().map(|(head, repeated, reason)| Flood {
        head,
        repeated: repeated.repeat(64 * 1024),
        reason,
    });
    floods.collect()
}

/// A server that passes commands on to another one, or floods its clients. It ends with the test
/// process.
struct FloodingServer {
    address: SocketAddr,
    /// The flood, or [`HONEST`].
    flood: Arc<AtomicUsize>,
    /// Whether each flood was received to its end.
    received: mpsc::Receiver<bool>,
}

impl FloodingServer {
    fn start(honest: SocketAddr, floods: Vec<Flood>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let flood = Arc::new(AtomicUsize::new(HONEST));
        let (sender, received) = mpsc::channel();
        let (chosen, floods) = (flood.clone(), Arc::new(floods));
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, sender) = (client.unwrap(), sender.clone());
                let (chosen, floods) = (chosen.clone(), floods.clone());
                thread::spawn(move || serve(client, honest, &chosen, &floods, &sender));
            }
        });
        Self {
            address,
            flood,
            received,
        }
    }

    fn set(&self, flood: usize) {
        self.flood.store(flood, Ordering::SeqCst);
    }
}

fn serve(
    mut client: TcpStream,
    honest: SocketAddr,
    chosen: &AtomicUsize,
    floods: &[Flood],
    received: &mpsc::Sender<bool>,
) -> io::Result<()> {
    let mut server = TcpStream::connect(honest)?;
    let (mut replies, mut to_client) = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || io::copy(&mut replies, &mut to_client));
    let mut commands = [0; 4096];
    loop {
        let count = client.read(&mut commands)?;
        if count == 0 {
            return server.shutdown(Shutdown::Both);
        }
        match floods.get(chosen.load(Ordering::SeqCst)) {
            Some(flood) => {
                let is_received = flood.send(&mut client).is_ok();
                let _ = received.send(is_received);
            }
            None => server.write_all(&commands[..count])?,
        }
    }
}

impl Flood {
    fn send(&self, client: &mut TcpStream) -> io::Result<()> {
        client.write_all(self.head.as_bytes())?;
        for _ in 0..FLOOD_BYTES / self.repeated.len() {
            client.write_all(self.repeated.as_bytes())?;
        }
        Ok(())
    }
}

/// On a connection that is open already, and on a new one.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_costs_a_bounded_amount_of_memory_and_the_next_call_works() {
    let redis = Redis::start();
    let server = FloodingServer::start(redis.address(), floods());
    let address = server.address;
    let store = Store::builder(format!("redis://{address}"));
    let store = store.timeout(TIMEOUT).connect().await.unwrap();
    let values: Cache<Vec<u8>, Raw> = store.cache("values").codec(Raw);
    let lock = lock(&store, "a", LEASE);
    for (number, Flood { head, reason, .. }) in floods().iter().enumerate() {
        values.set("a", &b"1".to_vec(), LEASE).await.unwrap();
        server.set(number);
        for _ in 0..2 {
            let error = values.get("a").await.unwrap_err();
            assert!(error.is_unavailable(), "{head:?}: {error}");
            assert!(error.to_string().contains(reason), "{head:?}: {error}");
            let error = lock.acquire().await.unwrap_err();
            assert!(error.is_unavailable(), "{head:?}: {error}");
            assert!(error.to_string().contains(reason), "{head:?}: {error}");
        }
        server.set(HONEST);
        assert_eq!(get_at_last(&values).await, Some(b"1".to_vec()));
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    server.set(0);
    for (scheme, service) in [("redis+sentinel", "/main"), ("redis+cluster", "")] {
        let store = Store::builder(format!("{scheme}://{address}{service}"));
        let error = store.timeout(TIMEOUT).connect().await.unwrap_err();
        assert!(error.to_string().contains("too large"), "{scheme}: {error}");
    }
    #[cfg(target_os = "linux")]
    {
        let peak = peak_memory_bytes();
        assert!(peak < MAX_MEMORY_BYTES, "{peak} bytes");
    }
}

/// Reads a value. The first attempt may wait for a connection that is opened during the flood, and fails
/// with it.
async fn get_at_last(values: &Cache<Vec<u8>, Raw>) -> Option<Vec<u8>> {
    let begun = Instant::now();
    loop {
        match values.get("a").await {
            Ok(value) => return value,
            Err(error) => assert!(begun.elapsed() < TIMEOUT, "{error}"),
        }
    }
}

/// The redis crate stores each of them.
#[tokio::test(flavor = "multi_thread")]
async fn subscriptions_that_nothing_requested_end_the_connection() {
    let redis = Redis::start();
    let channel = "x".repeat(64 * 1024);
    let confirmation = format!(">3\r\n$9\r\nsubscribe\r\n$65536\r\n{channel}\r\n:1\r\n");
    let flood = Flood {
        head: "",
        repeated: confirmation,
        reason: "",
    };
    let server = FloodingServer::start(redis.address(), vec![flood]);
    let store = Store::builder(format!("redis://{}", server.address));
    let store = store.timeout(TIMEOUT).connect().await.unwrap();
    let values: Cache<Vec<u8>, Raw> = store.cache("values").codec(Raw);
    server.set(0);
    // The first confirmation is taken for the reply.
    values.get("a").await.unwrap_err();
    let is_received = server.received.recv_timeout(TIMEOUT).unwrap();
    assert!(!is_received, "the client has received the whole flood");
    server.set(HONEST);
    assert_eq!(get_at_last(&values).await, None);
}

/// Returns the most memory that this process has used.
#[cfg(target_os = "linux")]
fn peak_memory_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.unwrap().trim().trim_end_matches(" kB");
    1024 * kibibytes.parse::<u64>().unwrap()
}
