//! The bridge for a migration from django-redis: both update the same products, and respect each
//! other's locks.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use lockstock_testkit::{Process, Redis, python};
use serde_json::json;

use crate::harness::{Server, new_database};

const HOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/shop/lock_holder.py");

/// Python that holds the lock of a product through a client library.
struct Holder {
    process: Process,
    output: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Holder {
    fn start(redis: &Redis, library: &str, name: &str) -> Self {
        let mut command = Command::new(python());
        command
            .args([HOLDER, &redis.url(), library, name])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let process = Process::spawn(command).unwrap();
        let output = BufReader::new(process.take_stdout().unwrap()).lines();
        Self { process, output }
    }

    /// Returns the next line, which is what the last step resulted in.
    fn next(&mut self) -> String {
        self.output.next().expect("Python goes on").unwrap()
    }

    /// Lets Python take its next step.
    fn go_on(&self) {
        let mut input = self.process.take_stdin().expect("one step");
        input.write_all(b"\n").unwrap();
    }
}

/// Tests both directions: Python's holder rejects our update, and our cool-down keeps Python out.
async fn exclude_each_other(library: &str, template: &str) {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--update-lock", template, "--update-wait", "100ms"])
        .start();
    let id = server.create(10).await;
    let name = format!("product-update-lock-{id}");

    let mut holder = Holder::start(&redis, library, &name);
    assert_eq!(holder.next(), "held");
    let update = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(update.status, 429, "{library}: {:?}", update.body);
    holder.go_on();
    assert_eq!(holder.next(), "released");

    let update = server.patch(id, json!({ "stock": 9 })).await;
    assert_eq!(update.status, 200, "{library}: {:?}", update.body);
    let mut holder = Holder::start(&redis, library, &name);
    assert_eq!(holder.next(), "busy", "{library}: the lock is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_update_lock_of_the_template_is_that_of_django_redis() {
    // cache.lock("product-update-lock-1") takes the key of a cache entry: with the default
    // prefix, which is empty, and the default version.
    exclude_each_other("django-redis", ":1:product-update-lock-{id}").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_update_lock_is_that_of_redis_py() {
    exclude_each_other("redis-py", "product-update-lock-{id}").await;
}
