//! Metrics, and what Prometheus makes of them: the alerts and the dashboard of `deploy/`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use lockstock_testkit::{Process, Redis, free_port};
use reqwest::{Client, Method, Url};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::harness::{Server, binary, eventually, new_database, product, sqlite};

const DASHBOARD: &str = include_str!("../../../../deploy/grafana.json");
const OPERATIONS: &str = include_str!("../../../../docs/operations.md");
const ALERTS: &str = include_str!("../../../../deploy/alerts.yml");

/// Sells, reserves, and refuses for stock.
async fn trade(server: &Server) -> i64 {
    let id = server.create(5).await;
    for (resource, quantity, status) in [
        ("purchases", 2, 201),
        ("reservations", 3, 201),
        ("purchases", 1, 409),
        ("reservations", 1, 409),
    ] {
        let path = format!("{}{resource}/", product(id));
        let order = json!({ "quantity": quantity });
        let request = server.request(Method::POST, &path).json(&order);
        assert_eq!(server.send(request).await.status, status, "{path}");
    }
    id
}

async fn sales_are_counted(server: &Server) {
    trade(server).await;
    let metrics = server.get("/metrics").await.body;
    let text = metrics.as_str().unwrap();
    for line in [
        "lockstock_units_sold_total 2",
        "lockstock_units_reserved_total 3",
        r#"lockstock_orders_total{order="purchase",outcome="done"} 1"#,
        r#"lockstock_orders_total{order="purchase",outcome="insufficient"} 1"#,
        r#"lockstock_orders_total{order="reserve",outcome="done"} 1"#,
        r#"lockstock_orders_total{order="reserve",outcome="insufficient"} 1"#,
        r#"lockstock_orders_total{order="confirm",outcome="expired"} 0"#,
        concat!(
            r#"lockstock_build_info{version=""#,
            env!("CARGO_PKG_VERSION"),
            r#""} 1"#
        ),
        "lockstock_database_connections_max 8",
        r#"lockstock_database_connections{state="in_use"} 0"#,
        "process_resident_memory_bytes ",
        "process_open_fds ",
        "process_max_fds ",
        "process_start_time_seconds ",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn sales_connections_and_the_process_are_in_the_metrics() {
    sales_are_counted(&Server::embedded().start()).await;
    sales_are_counted(&Server::on("memory://", &new_database()).start()).await;
}

#[tokio::test]
async fn a_server_has_as_many_worker_threads_as_requested() {
    let threads = async |number: &str| {
        let options = ["--worker-threads", number];
        let server = Server::embedded().args(&options).start();
        let metrics = server.get("/metrics").await.body;
        let lines = metrics.as_str().unwrap().lines();
        let mut numbers = lines.filter_map(|line| line.strip_prefix("process_threads "));
        numbers.next().unwrap().parse::<f64>().unwrap()
    };
    // Blocking calls have threads of their own, of which two servers differ by a few.
    assert!(threads("40").await - threads("1").await > 30.0);
}

/// Returns the names in a section of docs/operations.md: those in the first column of its table.
fn documented(section: &str) -> BTreeSet<&'static str> {
    let heading = format!("\n## {section}\n");
    let section = OPERATIONS.split_once(&heading).unwrap().1;
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = rows.flat_map(|row| row.split('|').nth(1).unwrap().split('`').skip(1).step_by(2));
    names.collect()
}

#[tokio::test]
async fn the_documented_metrics_are_those_of_a_server() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let keys = folder.path().join("keys").display().to_string();
    let mut new_key = binary();
    new_key.args([
        "key", "new", "web", "--scope", "admin", "--json", "--file", &keys,
    ]);
    let key: Value = serde_json::from_slice(&new_key.output().unwrap().stdout).unwrap();
    let server = Server::on(&redis.url(), &new_database())
        .args(&["--api-key-file", &keys])
        .start();
    let send = async |method, path: &str, body: Value| {
        let request = server.request(method, path).json(&body);
        let request = request.bearer_auth(key["secret"].as_str().unwrap());
        let response = server.send(request).await;
        assert!(response.status.is_success(), "{path}: {response:?}");
        response.body
    };
    let new = json!({ "name": "Mug", "price": 1, "stock": 5 });
    send(Method::POST, "/api/products/", new).await;
    send(Method::PATCH, "/api/products/1/", json!({ "stock": 4 })).await;
    let order = json!({ "quantity": 1 });
    send(Method::POST, "/api/products/1/purchases/", order).await;
    let metrics = send(Method::GET, "/metrics", json!({})).await;
    let types = metrics.as_str().unwrap().lines();
    let types = types.filter_map(|line| line.strip_prefix("# TYPE "));
    let exported: BTreeSet<_> = types.filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(documented("Metrics"), exported);
}

#[test]
fn each_alert_is_documented() {
    let alerts = ALERTS.lines();
    let alerts = alerts.filter_map(|line| line.trim_start().strip_prefix("- alert: "));
    assert_eq!(documented("Alerts"), alerts.collect::<BTreeSet<_>>());
}

/// A Prometheus that scrapes a server, with the rules of `deploy/alerts.yml`.
struct Prometheus {
    url: String,
    client: Client,
    _process: Process,
}

impl Prometheus {
    fn start(folder: &Path, server: &Server) -> Self {
        let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/alerts.yml");
        let target = server.url.strip_prefix("http://").unwrap();
        let configuration = json!({
            "global": { "scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms" },
            "rule_files": [rules],
            "scrape_configs": [
                { "job_name": "lockstock", "static_configs": [{ "targets": [target] }] },
            ],
        });
        let file = folder.join("prometheus.yml");
        // JSON is YAML.
        fs::write(&file, configuration.to_string()).unwrap();
        let port = free_port();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                folder.join("data").display()
            ))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = Process::spawn(command).expect("prometheus is installed: run `./dev setup`");
        Self {
            url: format!("http://127.0.0.1:{port}/api/v1"),
            client: Client::new(),
            _process: process,
        }
    }

    /// Returns `None` while Prometheus starts.
    async fn ask(&self, path: &str, query: &[(&str, &str)]) -> Option<Value> {
        let url = format!("{}/{path}", self.url);
        let url = Url::parse_with_params(&url, query).unwrap();
        let response = self.client.get(url).send().await.ok()?;
        let status = response.status();
        let body = response.text().await.ok()?;
        assert!(status.is_success() || status == 503, "{query:?}: {body}");
        let reply: Value = serde_json::from_str(&body).ok()?;
        Some(reply["data"].clone())
    }

    /// Waits until an expression has a value. An expression that is malformed fails the test.
    async fn has_series(&self, expression: &str) {
        eventually(expression, async || {
            let data = self.ask("query", &[("query", expression)]).await?;
            let series = data["result"].as_array()?;
            (!series.is_empty()).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn prometheus_evaluates_each_expression_of_the_dashboard_and_the_alerts() {
    let (redis, folder) = (Redis::start(), tempfile::tempdir().unwrap());
    let server = Server::on(&redis.url(), &sqlite(&folder.path().join("shop.sqlite3")))
        .args(&["--after-update", "release"])
        .start();
    let prometheus = Prometheus::start(folder.path(), &server);
    let id = trade(&server).await;
    let mut load = JoinSet::new();
    let url = format!("{}{}", server.url, product(id));
    load.spawn(async move {
        let client = Client::new();
        for stock in (3..1000).cycle() {
            let change = json!({ "stock": stock });
            let _ = client.patch(&url).json(&change).send().await;
        }
    });

    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels
        .iter()
        .filter_map(|panel| panel["targets"].as_array());
    let mut count = 0;
    for target in targets.flatten() {
        let expression = target["expr"].as_str().unwrap();
        let expression = expression
            .replace("$__rate_interval", "5s")
            .replace("$instance", ".*");
        prometheus.has_series(&expression).await;
        count += 1;
    }
    assert!(count > 20, "{count}");

    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let metrics = ALERTS.split(|c| !is_word(c)).filter(|word| {
        let is_metric = word.starts_with("lockstock_") || word.starts_with("process_");
        is_metric && *word != "lockstock_"
    });
    for metric in metrics.collect::<BTreeSet<_>>() {
        prometheus.has_series(metric).await;
    }
    let rules = eventually("each alert is evaluated", async || {
        let data = prometheus.ask("rules", &[]).await?;
        let rules = data["groups"][0]["rules"].as_array()?.clone();
        let are_evaluated = rules.iter().all(|rule| rule["health"] != "unknown");
        are_evaluated.then_some(rules)
    })
    .await;
    assert_eq!(rules.len(), ALERTS.matches("- alert:").count());
    for rule in rules {
        assert_eq!(rule["health"], "ok", "{rule}");
        assert_ne!(rule["state"], "firing", "{rule}");
    }
}

#[test]
fn each_alert_fires_for_its_fault_only() {
    let tests = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/alerts.test.yml");
    let tested = Command::new("promtool")
        .args(["test", "rules", tests])
        .output()
        .expect("promtool is installed: run `./dev setup`");
    let output = String::from_utf8_lossy(&tested.stdout);
    assert!(tested.status.success(), "{output}");
    let cases = include_str!("../../../../deploy/alerts.test.yml");
    for line in ALERTS.lines() {
        if let Some(name) = line.trim().strip_prefix("- alert: ") {
            // Silent in one case, firing in the other.
            assert!(cases.matches(name).count() >= 2, "{name} is not tested");
        }
    }
}
