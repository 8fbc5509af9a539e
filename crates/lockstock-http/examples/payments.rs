//! Payments that are made once even if the request is repeated.
//!
//! `cargo run -p lockstock-http --example payments [STORE]`, with `memory://` or a Redis URL.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use lockstock::Store;
use lockstock_http::{BoxError, IdempotencyLayer};
use serde_json::{Value, json};

type Counter = Arc<AtomicU64>;

async fn pay(
    State(counter): State<Counter>,
    Json(order): Json<Value>,
) -> (StatusCode, Json<Value>) {
    let id = counter.fetch_add(1, Ordering::Relaxed) + 1;
    let payment = json!({ "id": id, "amount": order["amount"] });
    (StatusCode::CREATED, Json(payment))
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let store = std::env::args().nth(1).unwrap_or("memory://".to_owned());
    let once = IdempotencyLayer::in_store(&Store::connect(&store).await?).require();
    let app = Router::new()
        .route("/payments/", post(pay).layer(once.clone()))
        .with_state(Counter::default());

    let listener = tokio::net::TcpListener::bind("127.0.0.1:3000").await?;
    println!("Send it twice: the second response has Idempotent-Replayed. Another amount is 422:");
    println!(
        "curl -i http://{}/payments/ -H 'Idempotency-Key: 7f3a' --json '{{\"amount\": 12.5}}'",
        listener.local_addr()?
    );
    let shutdown = async { drop(tokio::signal::ctrl_c().await) };
    axum::serve(listener, app)
        .with_graceful_shutdown(shutdown)
        .await?;
    once.drain().await;
    Ok(())
}
