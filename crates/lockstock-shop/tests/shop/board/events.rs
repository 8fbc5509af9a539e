//! What frames have about locks, requests and products.

use reqwest::Method;
use serde_json::json;

use super::{Watcher, lock_name, on_each_store, patch_as};
use crate::harness::{Server, product};

#[tokio::test]
async fn a_watcher_sees_who_got_the_lock_and_who_was_refused() {
    on_each_store(&["--update-wait", "1ms"], async |server| {
        let id = server.create(10).await;
        let mut watcher = Watcher::of(server).await;
        let snapshot = watcher.expect("snapshot").await;
        assert_eq!(snapshot["locks"], json!([]));
        assert_eq!(snapshot["complete"], true);

        assert_eq!(patch_as(server, "first", id, 9).await.status, 200);
        let events = watcher
            .events_of("first", &["waiting", "granted", "kept"])
            .await;
        let [waiting, granted, kept] = &events[..] else {
            panic!("{events:?}")
        };
        assert_eq!(waiting["address"], "127.0.0.1");
        assert_eq!(granted["by"], "free");
        assert!(granted["waited_ms"].is_number() && granted["fence"].is_u64());
        assert!(granted["until"].as_i64() > granted["at"].as_i64());
        assert_eq!(kept["until"], granted["until"]);
        assert!(kept["held_ms"].is_number());

        assert_eq!(patch_as(server, "second", id, 8).await.status, 429);
        let refused = &watcher.events_of("second", &["refused"]).await[0];
        assert_eq!(refused["kept"], true);
        assert!(refused["retry_after_ms"].as_f64().unwrap() > 1000.0);

        // A watcher that comes later finds whose lock it is.
        let mut late = Watcher::of(server).await;
        let snapshot = late.expect("snapshot").await;
        let lock = &snapshot["locks"][0];
        assert_eq!(lock["name"], lock_name(id));
        assert_eq!(
            (&lock["product"], &lock["state"]),
            (&json!(id), &json!("kept"))
        );
        assert_eq!(lock["holder"]["request"], "first");
        assert_eq!(lock["holder"]["id"], granted["holder"]);
        assert_eq!(lock["holder"]["server"], snapshot["server"]);
    })
    .await;
}

#[tokio::test]
async fn a_waiter_is_counted_until_it_gets_the_lock() {
    on_each_store(&["--after-update", "release"], async |server| {
        let id = server.create(10).await;
        let mut watcher = Watcher::of(server).await;
        watcher.expect("snapshot").await;
        // A request that holds the lock until its body is complete does not exist: the body is read
        // before. So many requests at once, of which at least one has to wait.
        let requests = (0..20).map(|number| patch_as(server, "many", id, number));
        let responses = futures_util::future::join_all(requests).await;
        assert!(responses.iter().all(|response| response.status == 200));
        let (mut granted, mut handed_over) = (0, 0);
        watcher
            .lock(|lock| {
                let count = |kind: &str| lock["granted"][kind].as_u64().unwrap_or(0);
                handed_over += count("local") + count("remote");
                granted += count("free") + count("local") + count("remote") + count("expired");
                (granted == 20 && lock["state"] == "free" && lock["waiting"] == 0).then_some(())
            })
            .await;
        assert!(handed_over > 0);
    })
    .await;
}

#[tokio::test]
async fn a_written_product_is_in_the_next_frame() {
    let server = Server::embedded().start();
    let id = server.create(10).await;
    let mut watcher = Watcher::of(&server).await;
    let snapshot = watcher.expect("snapshot").await;
    assert_eq!(
        snapshot["products"],
        json!([{ "id": id, "name": "Canvas sneakers", "price": 49_900, "stock": 10,
            "reserved": 0, "available": 10, "version": 1 }])
    );
    let path = |part: &str| format!("{}{part}/", product(id));
    let reserve = server
        .request(Method::POST, &path("reservations"))
        .json(&json!({ "quantity": 3 }));
    assert_eq!(server.send(reserve).await.status, 201);
    let reserved = watcher.product(|it| (it["reserved"] == 3).then(|| it.clone()));
    assert_eq!(reserved.await["available"], 7);
    let buy = server
        .request(Method::POST, &path("purchases"))
        .json(&json!({ "quantity": 2 }));
    assert_eq!(server.send(buy).await.status, 201);
    watcher.product(|it| (it["stock"] == 8).then_some(())).await;
    assert_eq!(server.patch(id, json!({ "price": 100 })).await.status, 200);
    watcher
        .product(|it| (it["price"] == 100).then_some(()))
        .await;

    let new = server.create(5).await;
    watcher.product(|it| (it["id"] == new).then_some(())).await;
    let delete = server.request(Method::DELETE, &product(new));
    assert_eq!(server.send(delete).await.status, 204);
    let deleted = watcher.product(|it| (it["deleted"] == true).then(|| it.clone()));
    assert_eq!(deleted.await, json!({ "id": new, "deleted": true }));
}
