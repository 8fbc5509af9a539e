//! Servers are killed between any two steps, and clients repeat a request under the same
//! idempotency key until they get a response: each request has one effect or none.
//!
//! The first test kills each kind of request once at each step. The others kill servers at random
//! under several clients, and compare the responses with the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{PATIENCE, Response, Server, new_database, product, sqlite};

/// Fail points between the steps of a write, in order.
const STEPS: [&str; 6] = [
    "update.locked",
    "update.read",
    "transaction.begun",
    "transaction.written",
    "transaction.committed",
    "update.written",
];

/// Short, because the lock of a killed server is free at the end of its lease.
const LEASE: &str = "300ms";

/// A store and a database that survive the servers.
struct Backends {
    store: String,
    database: String,
    _redis: Option<Redis>,
    _folder: TempDir,
}

impl Backends {
    fn postgres() -> Self {
        let redis = Redis::start();
        Self {
            store: redis.url(),
            database: new_database(),
            _redis: Some(redis),
            _folder: tempfile::tempdir().unwrap(),
        }
    }

    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: "memory://".to_owned(),
            database: sqlite(&folder.path().join("shop.sqlite3")),
            _redis: None,
            _folder: folder,
        }
    }

    fn server(&self, failpoints: &str) -> Server {
        Server::on(&self.store, &self.database)
            .args(&["--after-update", "release", "--update-lease", LEASE])
            .failing(failpoints)
            .start()
    }
}

/// A request with an idempotency key.
#[derive(Clone, Debug)]
struct KeyedRequest {
    method: Method,
    path: String,
    body: Value,
    key: String,
}

impl KeyedRequest {
    /// Sends the request once. Returns `None` if its outcome is unknown.
    async fn send(&self, server: &Server) -> Option<Response> {
        let request = server.request(self.method.clone(), &self.path);
        let request = request.header("idempotency-key", &self.key);
        let sent = request.json(&self.body).send().await.ok()?;
        let response = Response::read(sent).await.ok()?;
        // Another request has the key, or the lease ended before the commit: the client repeats the
        // request.
        let is_undecided =
            response.body["code"] == "in_flight" || response.body["code"] == "lock_lost";
        (response.status.as_u16() < 500 && !is_undecided).then_some(response)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_killed_at_any_step_has_one_effect_when_retried() {
    // On Postgres an update is one statement, on SQLite it reads nothing before it writes.
    let cases = [
        (Backends::postgres(), "transaction.begun"),
        (Backends::sqlite(), "update.read"),
    ];
    for (backends, skipped_by_updates) in cases {
        let server = backends.server("");
        let id = server.create(1000).await;
        let mut requests = Vec::new();
        for step in STEPS {
            let reserved = server
                .post(id, "reservations/", json!({ "quantity": 1 }))
                .await;
            let reservation = reserved.header("location").to_owned();
            for (method, path, body) in [
                (
                    Method::POST,
                    format!("{}purchases/", product(id)),
                    json!({ "quantity": 1 }),
                ),
                (
                    Method::POST,
                    format!("{}reservations/", product(id)),
                    json!({ "quantity": 1 }),
                ),
                (Method::POST, format!("{reservation}confirm/"), json!({})),
                (
                    Method::PATCH,
                    product(id),
                    json!({ "price": 1 + requests.len() }),
                ),
                (
                    Method::POST,
                    "/api/products/".to_owned(),
                    json!({ "name": "Mug", "price": 1 }),
                ),
            ] {
                let key = format!("{step} {method} {path}").replace(' ', "-");
                requests.push((
                    step,
                    KeyedRequest {
                        method,
                        path,
                        body,
                        key,
                    },
                ));
            }
        }
        server.process.kill();
        let mut survivor: Option<(&str, Server)> = None;
        for (step, keyed) in requests {
            survivor = survivor.filter(|(survived, _)| *survived == step);
            let server = match survivor.take() {
                Some((_, server)) => server,
                None => backends.server(&format!("{step}=1*return(kill)")),
            };
            let before = server.ledger(id).await.len();
            let products = server.get("/api/products/").await.body["count"]
                .as_i64()
                .unwrap();
            let first = keyed.send(&server).await;
            let was_killed = first.is_none();
            if keyed.method == Method::PATCH {
                assert_eq!(
                    was_killed,
                    step != skipped_by_updates,
                    "{keyed:?} at {step}"
                );
            }
            // A request that skips the step leaves the server to the next request.
            let server = if was_killed {
                drop(server);
                backends.server("")
            } else {
                server
            };
            let response = response_to(&keyed, async || Some(keyed.send(&server).await)).await;
            assert!(
                response.status.is_success(),
                "{keyed:?} at {step}: {:?}",
                response.body
            );
            let again = response_to(&keyed, async || Some(keyed.send(&server).await)).await;
            assert_eq!(again.body, response.body, "{keyed:?} at {step}");
            let after = server.ledger(id).await.len();
            let writes = match &*keyed.path {
                "/api/products/" => {
                    let now = server.get("/api/products/").await.body["count"]
                        .as_i64()
                        .unwrap();
                    assert_eq!(now - products, 1, "{keyed:?} at {step}");
                    0
                }
                path if path.ends_with("/reservations/") => 0,
                _ => 1,
            };
            assert_eq!(after - before, writes, "{keyed:?} at {step}");
            if !was_killed {
                survivor = Some((step, server));
            }
        }
    }
}

/// Sends the request until it has a response. Panics after [`PATIENCE`].
async fn response_to(
    keyed: &KeyedRequest,
    mut send: impl AsyncFnMut() -> Option<Option<Response>>,
) -> Response {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        match send().await {
            Some(Some(response)) => return response,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("no response to {keyed:?}");
}

/// Servers that are restarted whenever they are killed, until the fleet is stopped.
struct Fleet {
    backends: Backends,
    /// `None` while the server starts.
    servers: Vec<Mutex<Option<Arc<Server>>>>,
    stopped: AtomicBool,
}

impl Fleet {
    fn new(backends: Backends, count: usize) -> Arc<Self> {
        let fleet = Arc::new(Self {
            backends,
            servers: (0..count).map(|_| Mutex::new(None)).collect(),
            stopped: AtomicBool::new(false),
        });
        for number in 0..count {
            let fleet = fleet.clone();
            std::thread::spawn(move || fleet.keep_running(number));
        }
        fleet
    }

    /// Restarts one server whenever it is killed.
    fn keep_running(&self, number: usize) {
        let failpoints = STEPS.map(|step| format!("{step}=3%return(kill)")).join(";");
        while !self.stopped.load(Ordering::SeqCst) {
            let server = Arc::new(self.backends.server(&failpoints));
            *self.servers[number].lock().unwrap() = Some(server.clone());
            while server.process.wait(Duration::from_millis(20)).is_none() {
                if self.stopped.load(Ordering::SeqCst) {
                    break;
                }
            }
            *self.servers[number].lock().unwrap() = None;
        }
    }

    fn any(&self, number: usize) -> Option<Arc<Server>> {
        let servers = self.servers.len();
        let mut candidates = (0..servers).map(|n| &self.servers[(number + n) % servers]);
        candidates.find_map(|server| server.lock().unwrap().clone())
    }

    /// Sends the request to changing servers until one responds.
    async fn send(&self, keyed: &KeyedRequest) -> Response {
        let mut number = keyed.key.len();
        response_to(keyed, async || {
            number += 1;
            Some(keyed.send(&*self.any(number)?).await)
        })
        .await
    }
}

/// Sends random requests and returns them with their responses.
async fn client(fleet: Arc<Fleet>, products: Vec<i64>, seed: u64) -> Vec<(KeyedRequest, Response)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut reservations = Vec::<String>::new();
    let mut history = Vec::new();
    for number in 0..20 {
        let id = products[random.random_range(0..products.len())];
        let quantity = random.random_range(1..4);
        let reservation = (!reservations.is_empty())
            .then(|| reservations[random.random_range(0..reservations.len())].clone());
        let (method, path, body) = match (random.random_range(0..10), reservation) {
            (0..4, _) => (
                Method::POST,
                format!("{}purchases/", product(id)),
                json!({ "quantity": quantity }),
            ),
            (4..6, _) | (6..9, None) => (
                Method::POST,
                format!("{}reservations/", product(id)),
                json!({ "quantity": quantity, "hold": 2 }),
            ),
            (6..8, Some(path)) => (Method::POST, format!("{path}confirm/"), json!({})),
            (8, Some(path)) => (Method::DELETE, path, json!({})),
            _ => (
                Method::PATCH,
                product(id),
                json!({ "stock": random.random_range(20..60) }),
            ),
        };
        let keyed = KeyedRequest {
            method,
            path,
            body,
            key: format!("{seed}-{number}"),
        };
        let response = fleet.send(&keyed).await;
        if keyed.path.ends_with("/reservations/") && response.status == 201 {
            reservations.push(response.header("location").to_owned());
        }
        history.push((keyed, response));
    }
    history
}

async fn random_kills(backends: Backends, servers: usize, seed: u64) {
    let start = backends.server("");
    let products = vec![start.create(40).await, start.create(40).await];
    start.process.kill();
    drop(start);
    let fleet = Fleet::new(backends, servers);
    let clients = (0..6).map(|n| client(fleet.clone(), products.clone(), seed + n));
    let histories = join_all(clients).await;
    let history = histories.into_iter().flatten().collect::<Vec<_>>();
    fleet.stopped.store(true, Ordering::SeqCst);
    while fleet
        .servers
        .iter()
        .any(|server| server.lock().unwrap().is_some())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let server = fleet.backends.server("");
    let mut entries = HashMap::new();
    for id in &products {
        for entry in server.ledger(*id).await {
            let position = (*id, entry["version"].as_i64().unwrap());
            entries.insert(position, entry);
        }
    }
    // Each acknowledged request is exactly one entry, and there are no other entries.
    let mut acknowledged = HashSet::new();
    for (keyed, response) in &history {
        let is_write = keyed.method == Method::PATCH
            || response.body["quantity"].is_i64() && response.body["total"].is_i64();
        if !response.status.is_success() || !is_write {
            continue;
        }
        let id = response.body["product"]
            .as_i64()
            .or(response.body["id"].as_i64())
            .unwrap();
        let position = (id, response.body["version"].as_i64().unwrap());
        let entry = entries
            .get(&position)
            .unwrap_or_else(|| panic!("{keyed:?} {response:?}"));
        assert!(
            acknowledged.insert(position),
            "two responses, one effect: {keyed:?}"
        );
        if keyed.method == Method::PATCH {
            assert_eq!(entry["stock_after"], keyed.body["stock"], "{keyed:?}");
        } else {
            assert_eq!(entry["id"], response.body["id"], "{keyed:?}");
            assert_eq!(entry["delta"], -response.body["quantity"].as_i64().unwrap());
        }
    }
    assert_eq!(
        acknowledged.len() + products.len(),
        entries.len(),
        "entries without a request"
    );
    let fences = |id: i64| {
        let mut of = entries
            .iter()
            .filter(|((product, _), _)| *product == id)
            .collect::<Vec<_>>();
        of.sort_by_key(|(position, _)| position.1);
        of.into_iter()
            .filter_map(|(_, entry)| entry["fence"].as_i64())
            .collect::<Vec<_>>()
    };
    for id in &products {
        assert!(fences(*id).is_sorted_by(|a, b| a < b), "fences rise");
    }
    // A repeated request returns the recorded response and has no effect.
    for (keyed, response) in &history {
        if keyed.method == Method::DELETE || !response.status.is_success() {
            continue;
        }
        let again = response_to(keyed, async || Some(keyed.send(&server).await)).await;
        assert_eq!(
            (again.status, &again.body),
            (response.status, &response.body),
            "{keyed:?}"
        );
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
    let mut count = 0;
    for id in &products {
        count += server.ledger(*id).await.len();
    }
    assert_eq!(count, entries.len());
    let rejected = history
        .iter()
        .filter(|(_, response)| !response.status.is_success())
        .count();
    println!(
        "{} requests, {rejected} rejected, {} effects",
        history.len(),
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn under_random_kills_the_ledger_matches_the_responses_of_two_servers_on_postgres() {
    random_kills(Backends::postgres(), 2, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_random_kills_the_ledger_matches_the_responses_of_one_server_on_sqlite() {
    random_kills(Backends::sqlite(), 1, 2000).await;
}
