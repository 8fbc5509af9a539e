//! The built `lockstock` as a child process, and a client that speaks to it.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, Once};
use std::time::{Duration, Instant};

use lockstock_testkit::{Process, Redis};
use reqwest::header::HeaderMap;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;

/// Longer than anything here takes; a test that waits so long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A running server.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) url: String,
    client: Client,
    log: Arc<Mutex<String>>,
    /// Holds the SQLite file, unless the test holds it.
    _folder: Option<TempDir>,
}

/// The options of a server that is about to be started.
pub(crate) struct Starting {
    command: Command,
    folder: Option<TempDir>,
}

impl Server {
    /// On its embedded default, in a folder of its own.
    pub(crate) fn embedded() -> Starting {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("shop.sqlite3");
        let mut starting = Self::on("memory://", &sqlite(&file));
        starting.folder = Some(folder);
        starting
    }

    /// On a store and a database.
    pub(crate) fn on(store: &str, database: &str) -> Starting {
        let mut command = binary();
        command
            .args(["--listen", "127.0.0.1:0", "--no-samples"])
            .args(["--store", store, "--database", database])
            .args(["--drain-delay", "0s"]);
        Self::from(command)
    }

    /// By a command that is ready but for its pipes.
    pub(crate) fn from(command: Command) -> Starting {
        Starting {
            command,
            folder: None,
        }
    }

    /// A request to `path`.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    /// PATCHes a product with JSON.
    pub(crate) async fn patch(&self, id: i64, change: Value) -> Answer {
        self.send(self.request(Method::PATCH, &product(id)).json(&change))
            .await
    }

    /// Creates a product, and answers its id.
    pub(crate) async fn create(&self, stock: i64) -> i64 {
        let new = json!({ "name": "Canvas sneakers", "price": 49_900, "stock": stock });
        let created = self
            .send(self.request(Method::POST, "/api/products/").json(&new))
            .await;
        assert_eq!(created.status, 201, "{:?}", created.body);
        created.body["id"].as_i64().unwrap()
    }

    /// What is left of a product.
    pub(crate) async fn stock(&self, id: i64) -> i64 {
        self.get(&product(id)).await.body["stock"].as_i64().unwrap()
    }

    pub(crate) async fn send(&self, request: RequestBuilder) -> Answer {
        let begun = Instant::now();
        let response = request.send().await.unwrap();
        Answer::read(response, begun).await
    }

    /// What the server has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}

impl Starting {
    pub(crate) fn args(mut self, args: &[&str]) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    /// Fails at these points (see `failpoint.rs`), and at those that the whole run shall fail at.
    pub(crate) fn failing(self, points: &str) -> Self {
        match std::env::var("FAILPOINTS") {
            Ok(everywhere) => self.env("FAILPOINTS", &format!("{everywhere};{points}")),
            Err(_) => self.env("FAILPOINTS", points),
        }
    }

    /// Starts it, and waits until it says where it listens.
    pub(crate) fn start(self) -> Server {
        self.start_with(|process, log| {
            let mut stderr = process.take_stderr().unwrap();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                while let Ok(length @ 1..) = stderr.read(&mut part) {
                    let text = String::from_utf8_lossy(&part[..length]);
                    log.lock().unwrap().push_str(&text);
                }
            });
        })
    }

    /// The same, but nobody reads its log.
    pub(crate) fn start_unread(self) -> Server {
        self.start_with(|_, _| ())
    }

    fn start_with(mut self, read: impl FnOnce(&Process, Arc<Mutex<String>>)) -> Server {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let process = Process::spawn(self.command).unwrap();
        let log = Arc::new(Mutex::new(String::new()));
        read(&process, log.clone());
        let mut said = BufReader::new(process.take_stdout().unwrap()).lines();
        let url = said
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| Some(line.split_once("the API")?.1.trim().to_owned()))
            .and_then(|api| Some(api.strip_suffix("/api/products/")?.to_owned()))
            .unwrap_or_else(|| panic!("the server did not start: {}", log.lock().unwrap()));
        // Read to the end, so that the server never writes into a closed pipe.
        std::thread::spawn(move || said.for_each(drop));
        Server {
            process,
            url,
            client: client(),
            log,
            _folder: self.folder,
        }
    }
}

/// An answer, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    /// Null where there was none.
    pub(crate) body: Value,
    pub(crate) took: Duration,
}

impl Answer {
    /// `None` if it broke off.
    pub(crate) async fn of(response: Response) -> Option<Self> {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.ok()?;
        Some(Self::whole(status, headers, &bytes, Duration::ZERO))
    }

    async fn read(response: Response, begun: Instant) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        Self::whole(status, headers, &bytes, begun.elapsed())
    }

    fn whole(status: StatusCode, headers: HeaderMap, bytes: &[u8], took: Duration) -> Self {
        let body = if bytes.is_empty() {
            Value::Null
        } else {
            serde_json::from_slice(bytes)
                .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(bytes).into_owned()))
        };
        Self {
            status,
            headers,
            body,
            took,
        }
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("", |value| value.to_str().unwrap())
    }

    /// `Retry-After`, in seconds.
    pub(crate) fn retry_after(&self) -> u64 {
        self.header("retry-after").parse().unwrap_or_default()
    }
}

pub(crate) fn product(id: i64) -> String {
    format!("/api/products/{id}/")
}

pub(crate) fn sqlite(file: &Path) -> String {
    format!("sqlite://{}", file.display())
}

/// The built binary, in an environment that says nothing to it.
pub(crate) fn binary() -> Command {
    let mut command = Command::new(PathBuf::from(env!("CARGO_BIN_EXE_lockstock")));
    for (name, _) in std::env::vars() {
        if name.starts_with("LOCKSTOCK_") {
            command.env_remove(name);
        }
    }
    command
}

fn client() -> Client {
    // reqwest wants to know who does the cryptography, even where there is none to do.
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    Client::builder().timeout(PATIENCE).build().unwrap()
}

/// Asks again until `condition` holds. Panics if it does not within [`PATIENCE`].
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

/// Waits until somebody holds the lock of a product, also where it is granted to everybody
/// and has more than one name.
pub(crate) async fn held(redis: &Redis, id: i64) {
    let names = format!("product-update-lock-{id}*");
    eventually("held", async || {
        let count = redis.command(&["EVAL", "return #redis.call('KEYS', ARGV[1])", "0", &names]);
        (count.unwrap() != "0").then_some(())
    })
    .await;
}

/// Whether this run is the one on a store that grants every lock to everybody.
pub(crate) fn everybody_is_granted() -> bool {
    std::env::var("FAILPOINTS").is_ok_and(|points| points.contains("locks.granted.to.everybody"))
}
