//! The documented deployment: two servers on one Redis and one Postgres behind nginx with
//! `deploy/nginx.conf`.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use lockstock_testkit::{Process, Redis, free_port};
use reqwest::{Client, Method};
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinSet;

use crate::harness::{PATIENCE, Response, Server, eventually, new_database, product};

const CONFIGURATION: &str = include_str!("../../../../deploy/nginx.conf");

/// Two servers behind nginx.
struct Deployment {
    url: String,
    ports: [u16; 2],
    servers: [Option<Server>; 2],
    redis: Redis,
    database: String,
    _nginx: Process,
    _folder: TempDir,
}

impl Deployment {
    /// `settings` are added to the configuration of nginx.
    async fn start(settings: &str) -> Self {
        let (redis, database) = (Redis::start(), new_database());
        let ports = [free_port(), free_port()];
        let servers = ports.map(|port| Some(server(&redis, &database, port)));
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let nginx = start_nginx(folder.path(), settings, port, ports);
        let deployment = Self {
            url: format!("http://127.0.0.1:{port}"),
            ports,
            servers,
            redis,
            database,
            _nginx: nginx,
            _folder: folder,
        };
        let client = client();
        eventually("nginx serves", async || {
            let url = format!("{}/api/products/", deployment.url);
            let response = client.get(url).send().await.ok()?;
            (response.status() == 200).then_some(())
        })
        .await;
        deployment
    }

    /// Restarts a server as docs/operations.md describes: stops it, starts it, and waits until it
    /// is ready.
    async fn restart(&mut self, index: usize) {
        let old = self.servers[index].take().unwrap();
        old.process.terminate();
        let status = old.process.wait(PATIENCE).expect("exits");
        assert_eq!(status.code(), Some(0), "{}", old.log());
        let new = server(&self.redis, &self.database, self.ports[index]);
        eventually("the server is ready", async || {
            (new.get("/readyz").await.status == 200).then_some(())
        })
        .await;
        self.servers[index] = Some(new);
    }
}

fn server(redis: &Redis, database: &str, port: u16) -> Server {
    let address = format!("127.0.0.1:{port}");
    Server::on(&redis.url(), database)
        .args(&["--listen", &address, "--drain-delay", "1s"])
        .args(&["--trusted-proxies", "127.0.0.1"])
        .start()
}

fn start_nginx(folder: &Path, settings: &str, port: u16, servers: [u16; 2]) -> Process {
    let deployed = CONFIGURATION
        .replace("one:8000", &format!("127.0.0.1:{}", servers[0]))
        .replace("two:8000", &format!("127.0.0.1:{}", servers[1]))
        .replace("listen 8000", &format!("listen 127.0.0.1:{port}"));
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|kind| format!("{kind}_temp_path {}/{kind};\n", folder.display()))
        .concat();
    let configuration = format!(
        "daemon off;\nuser root root;\npid {0}/nginx.pid;\nerror_log stderr;\n\
         events {{}}\nhttp {{\naccess_log off;\n{temporary}{settings}\n{deployed}}}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration).unwrap();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("nginx");
    command
        .env("PATH", format!("{path}:/usr/sbin"))
        .args([
            "-c".as_ref(),
            file.as_os_str(),
            "-p".as_ref(),
            folder.as_os_str(),
        ])
        .args(["-e", "stderr"])
        .stderr(Stdio::null());
    Process::spawn(command).expect("nginx is installed: run `./dev setup`")
}

fn client() -> Client {
    Client::builder().timeout(PATIENCE).build().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_request() {
    let mut deployment = Deployment::start("").await;
    let id = deployment.servers[0]
        .as_ref()
        .unwrap()
        .create(1_000_000)
        .await;
    let updated = deployment.servers[0].as_ref().unwrap().create(5).await;
    let stop = Arc::new(AtomicBool::new(false));
    let purchases = Arc::new(AtomicU64::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..6 {
        let (stop, purchases) = (stop.clone(), purchases.clone());
        let url = deployment.url.clone();
        clients.spawn(async move {
            let client = client();
            let mut requests = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                let buy = format!("{url}{}purchases/", product(id));
                let requests_to_send = [
                    client.post(buy).json(&json!({ "quantity": 1 })),
                    client.get(format!("{url}{}", product(id))),
                    client
                        .patch(format!("{url}{}", product(updated)))
                        .json(&json!({ "stock": 4 })),
                ];
                for request in requests_to_send {
                    let response = request.send().await.expect("no request is lost");
                    let status = response.status();
                    assert!([200, 201, 429].contains(&status.as_u16()), "{status}");
                    if status == 201 {
                        purchases.fetch_add(1, Ordering::Relaxed);
                    }
                    requests += 1;
                }
            }
            requests
        });
    }
    let under_load = async |purchases: &AtomicU64| {
        let before = purchases.load(Ordering::Relaxed);
        eventually("purchases go on", async || {
            (purchases.load(Ordering::Relaxed) > before + 20).then_some(())
        })
        .await;
    };
    for index in [0, 1] {
        under_load(&purchases).await;
        deployment.restart(index).await;
    }
    under_load(&purchases).await;
    stop.store(true, Ordering::Relaxed);
    let requests = clients.join_all().await.iter().sum::<u64>();
    let sold = purchases.load(Ordering::Relaxed);
    assert!(
        requests > 3 * sold - 6,
        "{requests} requests, {sold} purchases"
    );
    let stock = deployment.servers[0].as_ref().unwrap().stock(id).await;
    assert_eq!(u64::try_from(stock).unwrap(), 1_000_000 - sold);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressing_proxy_excludes_no_client() {
    let gzip = "gzip on; gzip_types application/json; gzip_min_length 0; gzip_proxied any;";
    let deployment = Deployment::start(gzip).await;
    let id = deployment.servers[0].as_ref().unwrap().create(10).await;
    let client = client();
    let url = format!("{}{}", deployment.url, product(id));
    let get = client.get(&url).header("Accept-Encoding", "gzip");
    let read = get.send().await.unwrap();
    assert_eq!(read.headers()["content-encoding"], "gzip");
    let etag = read.headers()["etag"].to_str().unwrap().to_owned();
    assert!(
        etag.starts_with("W/"),
        "compression makes the tag weak: {etag}"
    );
    let patch = client.patch(&url).header("If-Match", &etag);
    let patch = patch.json(&json!({ "stock": 9 })).send().await.unwrap();
    let patch = Response::read(patch).await.unwrap();
    assert_eq!(patch.status, 200, "{:?}", patch.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_reports_clients_and_publishes_only_the_api() {
    let deployment = Deployment::start("").await;
    let server = deployment.servers[0].as_ref().unwrap();
    server.create(1).await;
    server.create(1).await;
    let client = client();
    let page = format!("{}/api/products/?page_size=1", deployment.url);
    let page = client.get(&page).header("Host", "shop.example");
    let page = page.header("X-Forwarded-Proto", "gopher");
    let page = Response::read(page.send().await.unwrap()).await.unwrap();
    assert_eq!(
        page.body["next"],
        "http://shop.example/api/products/?page=2&page_size=1"
    );
    for path in ["/metrics", "/readyz", "/docs/", "/openapi.json"] {
        let request = client.request(Method::GET, format!("{}{path}", deployment.url));
        assert_eq!(request.send().await.unwrap().status(), 404, "{path}");
    }
}
