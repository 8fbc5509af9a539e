//! The two servers as child processes of the test.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lockstock_testkit::{Process, free_port, python};

use crate::case::{Case, Language};
use crate::wire::{self, Response};

/// Upper bound of the time until the first response.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// The secret and the scope of an API key.
pub(crate) type Key = (&'static str, &'static str);

/// A server that is stopped on drop.
pub(crate) struct Server {
    name: &'static str,
    port: u16,
    process: Process,
    /// Id of the product that was created last.
    pub(crate) new: String,
}

impl Server {
    /// Starts the reference: `bench/django` under one gunicorn worker, on an empty table.
    pub(crate) fn django(database: &str, redis: &str, keys: &[Key]) -> Server {
        let status = django_command(database, redis, keys)
            .args(["manage.py", "prepare"])
            .status();
        let status = status.unwrap_or_else(|error| panic!("Django: {error}"));
        assert!(status.success(), "Django cannot prepare its database");
        Server::gunicorn("django", django_command(database, redis, keys))
    }

    /// Starts the reference again, with `LANGUAGE_CODE = "ko"`, on the same table.
    pub(crate) fn korean_django(database: &str, redis: &str, keys: &[Key]) -> Server {
        let mut command = django_command(database, redis, keys);
        command.env("SHOP_LANGUAGE", "ko");
        Server::gunicorn("django in Korean", command)
    }

    fn gunicorn(name: &'static str, mut command: Command) -> Server {
        let port = free_port();
        command
            .args(["-m", "gunicorn", "--workers=1", "--log-level=error"])
            .args(["--bind", &format!("127.0.0.1:{port}")])
            // The socket would be shared by all gunicorns of the user.
            .args(["--no-control-socket", "shop.wsgi"]);
        Server::start(name, port, command)
    }

    /// Starts Lockstock. It releases the lock after each update, as the reference does.
    pub(crate) fn lockstock(database: &str, redis: &str, key_file: Option<&Path>) -> Server {
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstock"));
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--database", database])
            .args(["--store", redis])
            .args(["--after-update", "release"])
            // No request exceeds these because the machine is slow.
            .args(["--update-lease", "60s", "--update-wait", "30s"])
            .args(["--store-timeout", "10s", "--database-timeout", "20s"])
            .args(["--log", "warn"])
            .arg("--no-samples");
        if let Some(file) = key_file {
            command.arg("--api-key-file").arg(file);
        }
        Server::start("lockstock", port, command)
    }

    /// Sends a case. Creates the product of its own before, and deletes it after.
    pub(crate) fn send_case(&mut self, case: &Case, language: Language) -> Response {
        let own = if case.needs_own_product() {
            self.create_product()
        } else {
            String::new()
        };
        let response = self.send(&case.bytes(&self.new, &own, language), &case.name);
        if case.needs_own_product() {
            // The case may have deleted it.
            self.send(
                &request("DELETE", &format!("/api/products/{own}/"), ""),
                "delete",
            );
        }
        if let Some(id) = response.new_id() {
            self.new = id;
        }
        response
    }

    fn create_product(&self) -> String {
        let product = r#"{"name": "its own", "price": 1}"#;
        let response = self.send(&request("POST", "/api/products/", product), "create");
        response.new_id().expect("a product was created")
    }

    fn send(&self, request: &[u8], what: &str) -> Response {
        wire::exchange(self.port, request)
            .unwrap_or_else(|error| panic!("{}: {what}: {error}", self.name))
    }

    fn start(name: &'static str, port: u16, command: Command) -> Server {
        let process = Process::spawn(command).unwrap_or_else(|error| panic!("{name}: {error}"));
        let server = Server {
            name,
            port,
            process,
            new: String::new(),
        };
        let probe = request("GET", "/api/products/", "");
        let deadline = Instant::now() + START_TIMEOUT;
        let is_ready = |status| status == 200 || status == 401;
        while !wire::exchange(port, &probe).is_ok_and(|response| is_ready(response.status)) {
            if let Some(status) = server.process.exited() {
                panic!("{name} exited before its first response: {status}");
            }
            assert!(Instant::now() < deadline, "{name} does not respond");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// Returns Python in `bench/django`, without arguments.
fn django_command(database: &str, redis: &str, keys: &[Key]) -> Command {
    let keys = keys
        .iter()
        .map(|(secret, scope)| format!("{secret}={scope}"));
    let mut command = Command::new(python());
    command
        .current_dir(workspace().join("bench/django"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SHOP_DATABASE_URL", database)
        .env("SHOP_REDIS_URL", redis)
        .env("SHOP_AFTER_UPDATE", "release")
        .env("SHOP_API_KEYS", keys.collect::<Vec<_>>().join(","));
    command
}

/// Returns a request that is not a case.
fn request(method: &str, path: &str, json: &str) -> Vec<u8> {
    let length = json.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{json}"
    )
    .into_bytes()
}

fn workspace() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}
