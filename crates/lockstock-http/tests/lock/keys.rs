//! Keys of requests.

use std::sync::{Arc, Mutex};

use super::*;

#[tokio::test]
async fn the_route_of_axum_is_the_key_in_nested_routers_too() {
    let store = Store::memory();
    let layer = LockLayer::cooldown(&store, Key::matched_path(), LEASE);
    let ok = async || "ok";
    let inner = Router::new()
        .route("/{id}/", on_post(ok))
        .route("/{id}", on_post(ok))
        .route("/files/{*rest}", on_post(ok))
        .layer(layer.clone());
    let app = Router::new()
        .nest("/shops/{shop}/reports", inner)
        .fallback(on_post(ok).layer(layer));
    for (path, status) in [
        ("/shops/a/reports/1/", 200),
        ("/shops/a/reports/1/", 429),
        ("/shops/a/reports/%31", 429),
        ("/shops/b/reports/1/", 200),
        ("/shops/a/reports/2/", 200),
        ("/shops/a/reports/files/x/y", 200),
        ("/shops/a/reports/files/x/y", 429),
        ("/shops/a/reports/files/x%2Fy", 200),
        // No route, no lock.
        ("/elsewhere/", 200),
        ("/elsewhere/", 200),
    ] {
        assert_eq!(send(&app, post(path)).await.status, status, "{path}");
    }
    let lock = store.lock("/shops/a/reports/1").lease(LEASE).unwrap();
    assert!(matches!(
        lock.try_acquire().await.unwrap(),
        Acquired::Busy(_)
    ));
}

#[tokio::test]
async fn a_template_describes_the_whole_path_of_a_nested_router() {
    let store = Store::memory();
    let layer = LockLayer::cooldown(&store, Key::path("/v1/reports/{name}/"), LEASE);
    let inner = Router::new()
        .route(PATH, on_post(async || "ok"))
        .layer(layer);
    let app = Router::new().nest("/v1", inner);
    for status in [200, 429] {
        assert_eq!(send(&app, post("/v1/reports/weekly/")).await.status, status);
    }
}

#[tokio::test]
async fn the_first_request_that_the_template_does_not_describe_is_logged() {
    let lines = Arc::new(Mutex::new(Vec::new()));
    let subscriber = tracing_subscriber::fmt()
        .without_time()
        .with_ansi(false)
        .with_writer({
            let lines = lines.clone();
            move || Lines(lines.clone())
        })
        .finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let app = app(
        &Gate::open(),
        &LockLayer::exclusive(&Store::memory(), Key::path("/report/{name}/"), LEASE),
    );
    for _ in 0..3 {
        assert_eq!(send(&app, post("/reports/weekly/")).await.status, 200);
    }
    let log = String::from_utf8(lines.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("without a lock").count(), 1, "{log}");
    assert!(
        log.contains("its path does not match /report/{name}/"),
        "{log}"
    );
    assert!(log.contains("path=\"/reports/weekly/\""), "{log}");
}

#[tokio::test]
async fn a_key_of_any_length_is_the_lock_name() {
    on_each_store(async |[one, _]| {
        let app = app(&Gate::open(), &exclusive(&one));
        let lock = one.lock("/reports/weekly/").lease(LEASE).unwrap();
        let held = lock.acquire().await.unwrap();
        assert_eq!(send(&app, post("/reports/weekly")).await.status, 429);
        held.release().await.unwrap();
        let long = format!("/reports/{}/", "%00%7B".repeat(3000));
        assert_eq!(send(&app, post(&long)).await.status, 200);
        for odd in [
            "/reports/%FF%2F%7B%7D/",
            "/reports/lockstock:x/",
            "/reports/%0A/",
        ] {
            assert_eq!(send(&app, post(odd)).await.status, 200, "{odd}");
        }
    })
    .await;
}

#[tokio::test]
async fn a_request_without_a_key_needs_no_lock() {
    let gate = Gate::closed();
    let app = app(&gate, &exclusive(&Store::memory()));
    let clients = [(); 2].map(|()| sending(&app, post("/free/")));
    gate.entered().await;
    gate.entered().await;
    gate.release(2);
    for client in clients {
        assert_eq!(client.await.unwrap().body, "no lock");
    }
}

struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
