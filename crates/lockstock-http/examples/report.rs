//! Slow reports: each at most once per ten seconds, and at most two at a time.
//!
//! `cargo run -p lockstock-http --example report [STORE]`, with `memory://` or a Redis URL.

use std::time::Duration;

use axum::Router;
use axum::extract::Path;
use axum::routing::post;
use lockstock::Store;
use lockstock_http::{BoxError, ConcurrencyLimitLayer, HeldLock, Key, LockLayer};

async fn make(Path(name): Path<String>, held: HeldLock) -> String {
    tokio::time::sleep(Duration::from_secs(3)).await;
    format!("{name}, made under fence {}\n", held.fence)
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let store = std::env::args().nth(1).unwrap_or("memory://".to_owned());
    let store = Store::connect(&store).await?;
    let once = LockLayer::cooldown(&store, Key::matched_path(), Duration::from_secs(10));
    let two = ConcurrencyLimitLayer::new(&store, Key::from_fn(|_| Some("reports".to_owned())), 2);
    let app = Router::new()
        .route("/reports/{name}/", post(make))
        // Added last, so outermost: a rejected request takes no permit.
        .layer(two)
        .layer(once.clone());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("A second request within ten seconds is 429; of a, b and c at once, one is 429:");
    println!(
        "curl -i -X POST http://{}/reports/weekly/",
        listener.local_addr()?
    );
    println!(
        "for name in a b c; do curl -i -X POST http://{}/reports/$name/ & done; wait",
        listener.local_addr()?
    );
    let shutdown = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await?;
    once.drain().await;
    Ok(())
}
