//! The built `lockstock` as a child process, and a client of its API.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, Once};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lockstock_testkit::{Postgres, Process, Redis};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Upper bound of every wait. A test that reaches it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Options that no server exceeds because the machine is slow. A test about a lease or a timeout
/// sets its own.
const GENEROUS_OPTIONS: &str = "--update-lease 60s --update-wait 30s --store-timeout 10s \
    --database-timeout 20s --request-timeout 60s --header-timeout 60s --body-timeout 60s";

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    client: Client,
    log: Arc<Mutex<String>>,
    /// Folder of the SQLite file, unless the test owns it.
    _folder: Option<TempDir>,
}

/// A server that is not started yet.
pub(crate) struct ServerBuilder {
    command: Command,
    folder: Option<TempDir>,
}

impl Server {
    /// Returns a server with the memory store and a SQLite file of its own.
    pub(crate) fn embedded() -> ServerBuilder {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.sqlite3");
        let mut builder = Self::on("memory://", &sqlite(&file));
        builder.folder = Some(folder);
        builder
    }

    /// Returns a server on the store and the database with these URLs.
    pub(crate) fn on(store: &str, database: &str) -> ServerBuilder {
        let mut command = binary();
        command
            .args(["--listen", "127.0.0.1:0", "--no-samples"])
            .args(["--store", store, "--database", database])
            .args(["--drain-delay", "0s"])
            .args(GENEROUS_OPTIONS.split(' '));
        Self::from(command)
    }

    /// Returns a server that `command` starts.
    pub(crate) fn from(command: Command) -> ServerBuilder {
        ServerBuilder {
            command,
            folder: None,
        }
    }

    /// Builds a request to `path`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(self.request(Method::GET, path)).await
    }

    /// Sends a PATCH of a product as JSON.
    pub(crate) async fn patch(&self, id: i64, change: Value) -> Response {
        self.send(self.request(Method::PATCH, &product(id)).json(&change))
            .await
    }

    /// Creates a product and returns its id.
    pub(crate) async fn create(&self, stock: i64) -> i64 {
        let new = json!({ "name": "Canvas sneakers", "price": 49_900, "stock": stock });
        let created = self
            .send(self.request(Method::POST, "/api/products/").json(&new))
            .await;
        assert_eq!(created.status, 201, "{:?}", created.body);
        created.body["id"].as_i64().unwrap()
    }

    /// Returns the stock of a product.
    pub(crate) async fn stock(&self, id: i64) -> i64 {
        self.get(&product(id)).await.body["stock"].as_i64().unwrap()
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Response {
        let response = request.send().await.unwrap();
        Response::read(response).await.unwrap()
    }

    /// Waits until a request sleeps at a fail point.
    pub(crate) async fn paused(&self) {
        eventually("a request is paused", async || {
            self.log().contains("paused at a fail point").then_some(())
        })
        .await;
    }

    /// Waits until the API has this number of requests in flight.
    pub(crate) async fn in_flight(&self, requests: usize) {
        let gauge = format!("lockstock_http_requests_in_flight {requests}\n");
        eventually("the requests are in flight", async || {
            let metrics = self.get("/metrics").await.body;
            metrics.as_str().unwrap().contains(&gauge).then_some(())
        })
        .await;
    }

    /// Returns the log up to now.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl ServerBuilder {
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Configures fail points (see `failpoint.rs`) in addition to those of the whole run.
    pub(crate) fn failing(self, points: &str) -> Self {
        match std::env::var("FAILPOINTS") {
            Ok(inherited) => self.env("FAILPOINTS", &format!("{inherited};{points}")),
            Err(_) => self.env("FAILPOINTS", points),
        }
    }

    /// Starts the server and waits until it prints its address.
    pub(crate) fn start(self) -> Server {
        self.start_with(|process, log| {
            let mut stderr = process.take_stderr().unwrap();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut part) {
                    let text = String::from_utf8_lossy(&part[..length]);
                    log.lock().unwrap().push_str(&text);
                }
            })
        })
    }

    /// Starts the server without reading its log.
    pub(crate) fn start_unread(self) -> Server {
        self.start_with(|_, _| std::thread::spawn(|| ()))
    }

    fn start_with(
        mut self,
        read: impl FnOnce(&Process, Arc<Mutex<String>>) -> JoinHandle<()>,
    ) -> Server {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Process::spawn(self.command).unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        let reader = read(&process, log.clone());
        let mut output = BufReader::new(process.take_stdout().unwrap()).lines();
        let url = output
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| {
                let listening = serde_json::from_str::<Value>(&line).ok()?;
                let api = listening["api"].as_str()?.strip_suffix("/api/products/")?;
                Some(api.to_owned())
            })
            .unwrap_or_else(|| {
                // It has closed its output: it is about to exit.
                let status = process.wait(PATIENCE);
                let _ = reader.join();
                let log = log.lock().unwrap().clone();
                panic!("the server did not start: {status:?} {log}")
            });
        // Read to the end: the server must not write to a closed pipe.
        std::thread::spawn(move || output.for_each(drop));
        Server {
            process,
            url,
            client: client(),
            log,
            _folder: self.folder,
        }
    }
}

/// A response with its whole body.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// `Null` if the body is empty, a string if it is not JSON.
    pub(crate) body: Value,
}

impl Response {
    /// Reads the body. Fails if the connection breaks.
    pub(crate) async fn read(response: reqwest::Response) -> reqwest::Result<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await?;
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(&bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&bytes).into_owned()))
        };
        Ok(Self {
            status,
            headers,
            body,
        })
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// Returns `Retry-After` in seconds.
    pub(crate) fn retry_after(&self) -> u64 {
        self.header("retry-after").parse().unwrap_or_default()
    }
}

/// A Postgres for all tests that neither stop nor configure it: to start one takes a second.
static POSTGRES: LazyLock<Postgres> = LazyLock::new(Postgres::start);

/// Creates a database and returns its URL.
pub(crate) fn new_database() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    POSTGRES.create_database(&format!("shop_{number}"))
}

/// Runs SQL in a database of [`new_database`] and returns what it prints.
pub(crate) fn psql(database: &str, sql: &str) -> String {
    let (_, name) = database.rsplit_once('/').unwrap();
    POSTGRES.psql(name, sql)
}

/// Locks the rows of products in a database, to the end of the transaction.
pub(crate) async fn lock_rows(
    database: &str,
    ids: &[i64],
) -> sqlx::Transaction<'static, sqlx::Postgres> {
    let pool = sqlx::PgPool::connect(database).await.unwrap();
    let mut transaction = pool.begin().await.unwrap();
    let locked = sqlx::query("SELECT id FROM products WHERE id = ANY($1) FOR UPDATE")
        .bind(ids)
        .execute(&mut *transaction)
        .await
        .unwrap();
    assert_eq!(locked.rows_affected(), ids.len() as u64);
    transaction
}

pub(crate) fn product(id: i64) -> String {
    format!("/api/products/{id}/")
}

pub(crate) fn sqlite(file: &Path) -> String {
    format!("sqlite://{}", file.display())
}

/// Returns the built binary, without the `LOCKSTOCK_*` variables of the environment.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_lockstock")));
    for (name, _) in std::env::vars() {
        if name.starts_with("LOCKSTOCK_") {
            command.env_remove(name);
        }
    }
    command
}

/// reqwest needs a provider of cryptography even for plain HTTP.
pub(crate) fn install_provider() {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
}

fn client() -> Client {
    install_provider();
    Client::builder().timeout(PATIENCE).build().unwrap()
}

/// Polls `condition` until it returns a value. Panics after [`PATIENCE`].
pub(crate) async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(value) = condition().await {
            return value;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within {PATIENCE:?}");
}

/// Waits until the lock of a product is held in Redis. The suffixes of its name are those of
/// `update.always_granted`.
pub(crate) async fn locked(redis: &Redis, id: i64) {
    let names = format!("product-update-lock-{id}*");
    eventually("the lock is held", async || {
        let count = redis.command(&["EVAL", "return #redis.call('KEYS', ARGV[1])", "0", &names]);
        (count.unwrap() != "0").then_some(())
    })
    .await;
}

/// Waits until the lock with this name has a waiter in Redis.
pub(crate) async fn waited_for(redis: &Redis, name: &str) {
    let queue = format!("lockstock:{{{name}}}:queue");
    eventually("the lock has a waiter", async || {
        (redis.command(&["ZCARD", &queue]).unwrap() == "1").then_some(())
    })
    .await;
}

/// Returns whether the store grants every lock in this run.
pub(crate) fn every_lock_is_granted() -> bool {
    std::env::var("FAILPOINTS").is_ok_and(|points| points.contains("update.always_granted"))
}
