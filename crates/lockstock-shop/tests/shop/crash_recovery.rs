//! Servers that die between any two steps, and clients that send the same key again until they
//! are told: each request has one effect or none, and the ledger alone shows it.
//!
//! Deterministic: each kind of request, killed once at each step. Random: several clients and
//! kinds of requests, servers that die all the time, judged from the answers and the ledger.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockstock_testkit::{Postgres, Redis};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use reqwest::Method;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Answer, Server, product, sqlite};

/// Between every two steps of a write, in their order.
const STEPS: [&str; 5] = [
    "update.locked",
    "transaction.begun",
    "transaction.written",
    "transaction.committed",
    "update.written",
];

/// What a server can be started on again after it died.
struct Ground {
    store: String,
    database: String,
    _redis: Option<Redis>,
    _postgres: Option<Postgres>,
    _folder: TempDir,
}

impl Ground {
    fn postgres() -> Self {
        let (redis, postgres) = (Redis::start(), Postgres::start());
        Self {
            store: redis.url(),
            database: postgres.create_database("shop"),
            _redis: Some(redis),
            _postgres: Some(postgres),
            _folder: tempfile::tempdir().unwrap(),
        }
    }

    fn sqlite() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            store: "memory://".to_owned(),
            database: sqlite(&folder.path().join("shop.sqlite3")),
            _redis: None,
            _postgres: None,
            _folder: folder,
        }
    }

    fn server(&self, failpoints: &str) -> Server {
        Server::on(&self.store, &self.database)
            .args(&["--after-update", "release", "--update-lease", "300ms"])
            .failing(failpoints)
            .start()
    }
}

/// A request with a key, and where it goes.
#[derive(Clone, Debug)]
struct Wish {
    method: Method,
    path: String,
    body: Value,
    key: String,
}

impl Wish {
    /// Sends it once. `None` if nobody knows what became of it.
    async fn send(&self, server: &Server) -> Option<Answer> {
        let request = server.request(self.method.clone(), &self.path);
        let request = request.header("idempotency-key", &self.key);
        let sent = request.json(&self.body).send().await.ok()?;
        let answer = Answer::of(sent).await?;
        let in_flight = answer.body["code"] == "in_flight";
        (answer.status.as_u16() < 500 && !in_flight).then_some(answer)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_step_the_same_key_finds_one_effect() {
    for ground in [Ground::postgres(), Ground::sqlite()] {
        let server = ground.server("");
        let id = server.create(1000).await;
        let mut wishes = Vec::new();
        for step in STEPS {
            let held = server
                .post(id, "reservations/", json!({ "quantity": 1 }))
                .await;
            let hold = held.header("location").to_owned();
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
                (Method::POST, format!("{hold}confirm/"), json!({})),
                (
                    Method::PATCH,
                    product(id),
                    json!({ "price": 1 + wishes.len() }),
                ),
                (
                    Method::POST,
                    "/api/products/".to_owned(),
                    json!({ "name": "Mug", "price": 1 }),
                ),
            ] {
                let key = format!("{step} {method} {path}").replace(' ', "-");
                wishes.push((
                    step,
                    Wish {
                        method,
                        path,
                        body,
                        key,
                    },
                ));
            }
        }
        server.process.kill();
        for (step, wish) in wishes {
            let killed = ground.server(&format!("{step}=1*return(kill)"));
            let before = killed.ledger(id).await.len();
            let products = killed.get("/api/products/").await.body["count"]
                .as_i64()
                .unwrap();
            let first = wish.send(&killed).await;
            // Not every request passes every step.
            let died = first.is_none();
            if wish.method == Method::PATCH {
                assert!(died, "{wish:?} at {step}");
            }
            drop(killed);
            let server = ground.server("");
            let answer = told(&wish, async || Some(wish.send(&server).await)).await;
            assert!(
                answer.status.is_success(),
                "{wish:?} at {step}: {:?}",
                answer.body
            );
            let again = wish.send(&server).await.unwrap();
            assert_eq!(again.body, answer.body, "{wish:?} at {step}");
            let after = server.ledger(id).await.len();
            let writes = match &*wish.path {
                "/api/products/" => {
                    let now = server.get("/api/products/").await.body["count"]
                        .as_i64()
                        .unwrap();
                    assert_eq!(now - products, 1, "{wish:?} at {step}");
                    0
                }
                path if path.ends_with("/reservations/") => 0,
                _ => 1,
            };
            assert_eq!(after - before, writes, "{wish:?} at {step}");
            server.process.kill();
        }
    }
}

/// Sends until there is an answer, for half a minute.
async fn told(wish: &Wish, mut send: impl AsyncFnMut() -> Option<Option<Answer>>) -> Answer {
    let deadline = Instant::now() + Duration::from_secs(30);
    while Instant::now() < deadline {
        match send().await {
            Some(Some(answer)) => return answer,
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    panic!("nobody answers {wish:?}");
}

/// Servers of one ground that die and are started again until it is over.
struct Fleet {
    ground: Ground,
    /// None while it is started.
    servers: Vec<Mutex<Option<Arc<Server>>>>,
    over: AtomicBool,
}

impl Fleet {
    fn new(ground: Ground, count: usize) -> Arc<Self> {
        let fleet = Arc::new(Self {
            ground,
            servers: (0..count).map(|_| Mutex::new(None)).collect(),
            over: AtomicBool::new(false),
        });
        for number in 0..count {
            let fleet = fleet.clone();
            std::thread::spawn(move || fleet.keep_up(number));
        }
        fleet
    }

    /// Starts a server whenever there is none.
    fn keep_up(&self, number: usize) {
        let deadly = STEPS.map(|step| format!("{step}=3%return(kill)")).join(";");
        while !self.over.load(Ordering::SeqCst) {
            let server = Arc::new(self.ground.server(&deadly));
            *self.servers[number].lock().unwrap() = Some(server.clone());
            while server.process.wait(Duration::from_millis(20)).is_none() {
                if self.over.load(Ordering::SeqCst) {
                    break;
                }
            }
            *self.servers[number].lock().unwrap() = None;
        }
    }

    fn any(&self, number: usize) -> Option<Arc<Server>> {
        let servers = self.servers.len();
        let mut from_there = (0..servers).map(|n| &self.servers[(number + n) % servers]);
        from_there.find_map(|server| server.lock().unwrap().clone())
    }

    /// The answer to a wish, however many servers die over it.
    async fn tell(&self, wish: &Wish) -> Answer {
        let mut number = wish.key.len();
        told(wish, async || {
            number += 1;
            Some(wish.send(&*self.any(number)?).await)
        })
        .await
    }
}

/// A client with a mind of its own: what it wished, and what it was told.
async fn client(fleet: Arc<Fleet>, products: Vec<i64>, seed: u64) -> Vec<(Wish, Answer)> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut holds = Vec::<String>::new();
    let mut told = Vec::new();
    for number in 0..20 {
        let id = products[random.random_range(0..products.len())];
        let quantity = random.random_range(1..4);
        let hold = (!holds.is_empty()).then(|| holds[random.random_range(0..holds.len())].clone());
        let (method, path, body) = match (random.random_range(0..10), hold) {
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
            (6..8, Some(hold)) => (Method::POST, format!("{hold}confirm/"), json!({})),
            (8, Some(hold)) => (Method::DELETE, hold, json!({})),
            _ => (
                Method::PATCH,
                product(id),
                json!({ "stock": random.random_range(20..60) }),
            ),
        };
        let wish = Wish {
            method,
            path,
            body,
            key: format!("{seed}-{number}"),
        };
        let answer = fleet.tell(&wish).await;
        if wish.path.ends_with("/reservations/") && answer.status == 201 {
            holds.push(answer.header("location").to_owned());
        }
        told.push((wish, answer));
    }
    told
}

async fn random_kills(ground: Ground, servers: usize, seed: u64) {
    let start = ground.server("");
    let products = vec![start.create(40).await, start.create(40).await];
    start.process.kill();
    drop(start);
    let fleet = Fleet::new(ground, servers);
    let clients = (0..6).map(|n| client(fleet.clone(), products.clone(), seed + n));
    let histories = join_all(clients).await;
    let history = histories.into_iter().flatten().collect::<Vec<_>>();
    fleet.over.store(true, Ordering::SeqCst);
    while fleet
        .servers
        .iter()
        .any(|server| server.lock().unwrap().is_some())
    {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    let server = fleet.ground.server("");
    let mut entries = HashMap::new();
    for id in &products {
        for entry in server.ledger(*id).await {
            let at = (*id, entry["version"].as_i64().unwrap());
            entries.insert(at, entry);
        }
    }
    // Each acknowledged request is exactly one entry, and no entry is anybody else's.
    let mut acknowledged = HashSet::new();
    for (wish, answer) in &history {
        let is_write = wish.method == Method::PATCH
            || answer.body["quantity"].is_i64() && answer.body["total"].is_i64();
        if !answer.status.is_success() || !is_write {
            continue;
        }
        let id = answer.body["product"]
            .as_i64()
            .or(answer.body["id"].as_i64())
            .unwrap();
        let at = (id, answer.body["version"].as_i64().unwrap());
        let entry = entries
            .get(&at)
            .unwrap_or_else(|| panic!("{wish:?} {answer:?}"));
        assert!(acknowledged.insert(at), "two answers, one effect: {wish:?}");
        if wish.method == Method::PATCH {
            assert_eq!(entry["stock_after"], wish.body["stock"], "{wish:?}");
        } else {
            assert_eq!(entry["id"], answer.body["id"], "{wish:?}");
            assert_eq!(entry["delta"], -answer.body["quantity"].as_i64().unwrap());
        }
    }
    assert_eq!(
        acknowledged.len() + products.len(),
        entries.len(),
        "nobody's effects"
    );
    let fences = |id: i64| {
        let mut of = entries
            .iter()
            .filter(|((product, _), _)| *product == id)
            .collect::<Vec<_>>();
        of.sort_by_key(|(at, _)| at.1);
        of.into_iter()
            .filter_map(|(_, entry)| entry["fence"].as_i64())
            .collect::<Vec<_>>()
    };
    for id in &products {
        assert!(fences(*id).is_sorted_by(|a, b| a < b), "fences rise");
    }
    // Asked again they say the same, and nothing happens.
    for (wish, answer) in &history {
        if wish.method == Method::DELETE || !answer.status.is_success() {
            continue;
        }
        let again = wish.send(&server).await.unwrap();
        assert_eq!(
            (again.status, &again.body),
            (answer.status, &answer.body),
            "{wish:?}"
        );
        assert_eq!(again.header("idempotent-replayed"), "true");
    }
    let mut count = 0;
    for id in &products {
        count += server.ledger(*id).await.len();
    }
    assert_eq!(count, entries.len());
    let refused = history
        .iter()
        .filter(|(_, answer)| !answer.status.is_success())
        .count();
    println!(
        "{} requests, {refused} refused, {} effects",
        history.len(),
        acknowledged.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn under_random_kills_the_ledger_of_two_servers_on_postgres_is_what_they_answered() {
    random_kills(Ground::postgres(), 2, 1000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn under_random_kills_the_ledger_of_one_server_on_sqlite_is_what_it_answered() {
    random_kills(Ground::sqlite(), 1, 2000).await;
}
