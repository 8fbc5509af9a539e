//! The two servers, each a child process of the test.

use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use lockstock_testkit::{Process, free_port, python};

use crate::case::Case;
use crate::wire::{self, Answer};

/// How long a server may take to answer its first request.
const START: Duration = Duration::from_secs(60);

/// A server, stopped on drop.
pub(crate) struct Server {
    name: &'static str,
    port: u16,
    process: Process,
    /// The id of the product that it made last.
    new: String,
}

impl Server {
    /// The reference: `bench/django` under one gunicorn worker, on an empty table.
    pub(crate) fn django(database: &str, redis: &str) -> Server {
        let python = python();
        let port = free_port();
        let command = |arguments: &[&str]| {
            let mut command = Command::new(&python);
            command
                .args(arguments)
                .current_dir(workspace().join("bench/django"))
                .env("PYTHONDONTWRITEBYTECODE", "1")
                .env("SHOP_DATABASE_URL", database)
                .env("SHOP_REDIS_URL", redis)
                .env("SHOP_AFTER_UPDATE", "release");
            command
        };
        let status = command(&["manage.py", "prepare"]).status();
        let status = status.unwrap_or_else(|error| panic!("{}: {error}", python.display()));
        assert!(status.success(), "Django cannot prepare its database");
        let address = format!("127.0.0.1:{port}");
        Server::start(
            "django",
            port,
            command(&[
                "-m",
                "gunicorn",
                "--bind",
                &address,
                "--workers=1",
                "--log-level=error",
                // It would be a file in the user's home, shared with every other gunicorn.
                "--no-control-socket",
                "shop.wsgi",
            ]),
        )
    }

    /// Ours, with a lock that is released after every update, as the reference does it.
    pub(crate) fn ours(database: &str, redis: &str) -> Server {
        let port = free_port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockstock"));
        command
            .args(["--listen", &format!("127.0.0.1:{port}")])
            .args(["--database", database])
            .args(["--store", redis])
            .args(["--after-update", "release"])
            .args(["--log", "warn"])
            .arg("--no-samples");
        Server::start("ours", port, command)
    }

    /// Sends one case, and makes before it and deletes after it what it needs of its own.
    pub(crate) fn ask(&mut self, case: &Case) -> Answer {
        let own = if case.needs_its_own() {
            self.make()
        } else {
            String::new()
        };
        let answer = self.send(&case.bytes(&self.new, &own), &case.name);
        if case.needs_its_own() {
            // It may be gone already, if that was the case.
            self.send(
                &request("DELETE", &format!("/api/products/{own}/"), ""),
                "delete",
            );
        }
        if let Some(id) = answer.new_id() {
            self.new = id;
        }
        answer
    }

    fn make(&self) -> String {
        let product = r#"{"name": "its own", "price": 1}"#;
        let answer = self.send(&request("POST", "/api/products/", product), "make");
        answer.new_id().expect("a product was made")
    }

    fn send(&self, request: &[u8], what: &str) -> Answer {
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
        let deadline = Instant::now() + START;
        while !wire::exchange(port, &probe).is_ok_and(|answer| answer.status == 200) {
            if let Some(status) = server.process.exited() {
                panic!("{name} ended before it answered: {status}");
            }
            assert!(Instant::now() < deadline, "{name} does not answer");
            thread::sleep(Duration::from_millis(20));
        }
        server
    }
}

/// A request of the test itself.
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
