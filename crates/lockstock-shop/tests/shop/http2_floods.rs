//! Clients of HTTP/2 that send what costs the server more than them. Each is disconnected, or costs a
//! bounded amount of memory, and other clients are served meanwhile.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use lockstock_testkit::Authority;
use reqwest::{Client, Method};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf, split};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::{PATIENCE, Server, eventually, install_provider, sqlite};

/// Types of frames (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const MAX_FRAME_BYTES: usize = 16 * 1024;

/// The setting of the window of each stream: 0 bytes.
const NO_WINDOW: [u8; 6] = [0, 4, 0, 0, 0, 0];

/// The description of a product: nearly the maximum size of a body.
const LARGE_TEXT: &str = match str::from_utf8(&[b'x'; 60_000]) {
    Ok(text) => text,
    Err(_) => unreachable!(),
};

/// How much memory a client may cost. The server without clients takes less than this too.
const MAX_MEMORY_BYTES: u64 = 64 * 1024 * 1024;

type Stream = TlsStream<TcpStream>;

/// A server with HTTP/2.
struct Target {
    server: Server,
    authority: Authority,
    memory_at_start: u64,
    _folder: TempDir,
}

impl Target {
    fn start() -> Self {
        Self::start_with(&[])
    }

    fn start_with(args: &[&str]) -> Self {
        install_provider();
        let authority = Authority::new();
        let certificate = authority.issue(&["127.0.0.1"]);
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &std::path::Path| path.display().to_string();
        let server = Server::on("memory://", &sqlite(&folder.path().join("shop.sqlite3")))
            .args(&["--tls-cert", &file(certificate.file())])
            .args(&["--tls-key", &file(certificate.key_file())])
            .args(args)
            .start();
        Self {
            memory_at_start: peak_memory(&server),
            server,
            authority,
            _folder: folder,
        }
    }

    /// Opens a connection, with `settings` as the payload of the first frame.
    async fn connect(&self, settings: &[u8]) -> (ReadHalf<Stream>, WriteHalf<Stream>) {
        let mut roots = RootCertStore::empty();
        let pem = CertificateDer::from_pem_file(self.authority.file()).unwrap();
        roots.add(pem).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let address = self.server.url.strip_prefix("https://").unwrap();
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let connector = TlsConnector::from(Arc::new(config));
        let stream = connector.connect(name, stream).await.unwrap();
        let (reader, mut writer) = split(stream);
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        writer.write_all(preface).await.unwrap();
        writer
            .write_all(&frame(SETTINGS, 0, 0, settings))
            .await
            .unwrap();
        (reader, writer)
    }

    fn client(&self) -> Client {
        let authority = fs::read(self.authority.file()).unwrap();
        let authority = reqwest::Certificate::from_pem(&authority).unwrap();
        let client = Client::builder().timeout(PATIENCE);
        client.tls_certs_only([authority]).build().unwrap()
    }

    /// Creates products whose list is larger than a body that may stay in memory.
    async fn create_large_products(&self) {
        let url = format!("{}/api/products/", self.server.url);
        let new = json!({ "name": "Mug", "price": 1, "description": LARGE_TEXT });
        for _ in 0..3 {
            let created = self.client().post(&url).json(&new).send().await;
            assert_eq!(created.unwrap().status(), 201);
        }
    }

    /// Checks that another client is served, and what the server has taken so far.
    async fn assert_unharmed(&self) {
        let url = format!("{}/api/products/", self.server.url);
        let new = json!({ "name": "Mug", "price": 1 });
        let request = self.client().request(Method::POST, url).json(&new);
        assert_eq!(request.send().await.unwrap().status(), 201);
        let grown = peak_memory(&self.server) - self.memory_at_start;
        assert!(grown < MAX_MEMORY_BYTES, "{grown} bytes");
    }
}

/// Returns the most memory that a server has taken so far.
fn peak_memory(server: &Server) -> u64 {
    let status = format!("/proc/{}/status", server.process.id());
    let status = fs::read_to_string(status).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kibibytes = peak.unwrap().trim().trim_end_matches(" kB").parse::<u64>();
    kibibytes.unwrap() * 1024
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = length[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The headers of a GET in HPACK: indexed fields, and literals without indexing.
fn get(path: &str) -> Vec<u8> {
    let mut headers = vec![0x82, 0x87];
    for (name, value) in [(4, path), (1, "127.0.0.1")] {
        headers.extend([name, u8::try_from(value.len()).unwrap()]);
        headers.extend(value.as_bytes());
    }
    headers
}

/// Sends frames until the server closes the connection, which it must, and reads its frames.
async fn assert_disconnected(
    (mut reader, mut writer): (ReadHalf<Stream>, WriteHalf<Stream>),
    mut frames: impl Iterator<Item = Vec<u8>>,
) {
    let reading = tokio::spawn(async move {
        let mut bytes = vec![0; MAX_FRAME_BYTES];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    let mut is_open = true;
    while is_open {
        let frame = frames.next().expect("disconnected before the last frame");
        is_open = writer.write_all(&frame).await.is_ok();
    }
    timeout(PATIENCE, reading).await.expect("closed").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_that_are_reset_at_once_end_the_connection() {
    let target = Target::start();
    let connection = target.connect(&[]).await;
    let headers = get("/api/products/");
    let streams = (0..500_000).map(|number| {
        let stream = 2 * number + 1;
        let mut frames = frame(HEADERS, END_HEADERS | END_STREAM, stream, &headers);
        frames.extend(frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]));
        frames
    });
    assert_disconnected(connection, streams).await;
    target.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_without_an_end_end_the_connection() {
    let target = Target::start();
    // A literal with a name of its own, again and again. Also of no bytes at all.
    let field = [&[0, 4][..], b"name", &[100], &[b'x'; 100]].concat();
    let fields = field.repeat(MAX_FRAME_BYTES / field.len());
    for continued in [&fields[..], &[]] {
        let connection = target.connect(&[]).await;
        let first = frame(HEADERS, END_STREAM, 1, &get("/api/products/"));
        let rest = std::iter::repeat_with(|| frame(CONTINUATION, 0, 1, continued));
        assert_disconnected(connection, [first].into_iter().chain(rest.take(1_000_000))).await;
    }
    target.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_unpack_to_much_more_are_rejected() {
    let target = Target::start();
    let connection = target.connect(&[]).await;
    // One large field goes into the table of the connection. Each further byte is that field.
    let mut headers = get("/api/products/");
    headers.extend([&[0x40, 4][..], b"bomb", &[0x7f, 0xc1, 0x1b], &[b'x'; 3648]].concat());
    let first = headers.clone();
    headers.extend([0xbe; 10_000]);
    let streams = (0..50_000).map(|number| {
        let stream = 2 * number + 1;
        let headers = if number == 0 { &first } else { &headers };
        frame(HEADERS, END_HEADERS | END_STREAM, stream, headers)
    });
    let (mut reader, mut writer) = connection;
    tokio::spawn(async move {
        let mut bytes = vec![0; MAX_FRAME_BYTES];
        while let Ok(1..) = reader.read(&mut bytes).await {}
    });
    for frame in streams {
        if writer.write_all(&frame).await.is_err() {
            break;
        }
    }
    target.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_a_client_does_not_read_cost_a_bounded_amount() {
    let target = Target::start();
    for flood in [frame(PING, 0, 0, &[0; 8]), frame(SETTINGS, 0, 0, &[])] {
        let (_reader, mut writer) = target.connect(&[]).await;
        let flood = flood.repeat(1000);
        // Ends when the server reads no more, or after replies for ten times the bound.
        let sent = async {
            for _ in 0..10 * MAX_MEMORY_BYTES / flood.len() as u64 {
                if writer.write_all(&flood).await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(Duration::from_secs(5), sent).await;
        target.assert_unharmed().await;
    }
}

/// A client that replies to pings, as a live one does.
struct LiveClient {
    writer: Arc<Mutex<WriteHalf<Stream>>>,
    /// Type, stream and payload of each frame but pings.
    frames: UnboundedReceiver<(u8, u32, Vec<u8>)>,
}

impl LiveClient {
    fn new((mut reader, writer): (ReadHalf<Stream>, WriteHalf<Stream>)) -> Self {
        let writer = Arc::new(Mutex::new(writer));
        let (received, frames) = unbounded_channel();
        let replies = writer.clone();
        tokio::spawn(async move {
            let mut head = [0; 9];
            while reader.read_exact(&mut head).await.is_ok() {
                let [a, b, c, kind, flags, stream @ ..] = head;
                let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
                reader.read_exact(&mut payload).await.unwrap();
                if kind != PING {
                    let _ = received.send((kind, u32::from_be_bytes(stream), payload));
                } else if flags & ACK == 0 {
                    let reply = frame(PING, ACK, 0, &payload);
                    let _ = replies.lock().await.write_all(&reply).await;
                }
            }
        });
        Self { writer, frames }
    }

    async fn send(&self, frame: Vec<u8>) {
        self.writer.lock().await.write_all(&frame).await.unwrap();
    }

    async fn receive(&mut self) -> (u8, u32, Vec<u8>) {
        let frame = timeout(PATIENCE, self.frames.recv()).await;
        frame.unwrap().expect("the connection is open")
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_a_client_does_not_read_is_dropped() {
    let target = Target::start_with(&["--header-timeout", "4s", "--log", "debug"]);
    target.create_large_products().await;
    let mut client = LiveClient::new(target.connect(&NO_WINDOW).await);
    let list = get("/api/products/");
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 1, &list))
        .await;
    eventually("the response is dropped", async || {
        let log = target.server.log();
        log.contains("reads no more of the response").then_some(())
    })
    .await;
    // For what would have been the rest.
    client
        .send(frame(WINDOW_UPDATE, 0, 1, &1_000_000_u32.to_be_bytes()))
        .await;
    let mut received = 0;
    loop {
        match client.receive().await {
            (RST_STREAM, 1, _) => break,
            (DATA, 1, payload) => received += payload.len(),
            _ => {}
        }
    }
    assert!(received < 60_000, "{received} bytes");
    // The connection goes on.
    client
        .send(frame(HEADERS, END_HEADERS | END_STREAM, 3, &list))
        .await;
    while !matches!(client.receive().await, (HEADERS, 3, _)) {}
    target.assert_unharmed().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_response_is_whole() {
    let target = Target::start();
    target.create_large_products().await;
    let url = format!("{}/api/products/", target.server.url);
    let list = target.client().get(&url).send().await.unwrap();
    let list: Value = list.json().await.unwrap();
    assert_eq!(list["count"], 3);
    for product in list["results"].as_array().unwrap() {
        assert_eq!(product["description"], LARGE_TEXT);
    }
}
