//! What frames have about locks, requests and products.

use futures_util::future::join_all;
use lockstock_testkit::Redis;
use reqwest::Method;
use serde_json::json;

use super::{Watcher, lock_name, on_each_store, patch_as};
use crate::harness::{Server, eventually, new_database, product};

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
async fn waiters_are_counted_until_the_lock_is_handed_over_to_them() {
    let redis = Redis::start();
    let stores = ["memory://".to_owned(), redis.url()];
    for store in stores {
        // The first update holds the lock for 2 s, and the others wait for it.
        let server = Server::on(&store, &new_database())
            .args(&["--after-update", "release"])
            .failing("update.locked=1*return(2000)")
            .start();
        let id = server.create(10).await;
        let mut watcher = Watcher::of(&server).await;
        watcher.expect("snapshot").await;
        let requests = async {
            let others = async {
                server.paused().await;
                let others = (0..4).map(|number| patch_as(&server, "other", id, number));
                join_all(others).await
            };
            let (first, others) = tokio::join!(patch_as(&server, "first", id, 9), others);
            assert!(others.iter().all(|response| response.status == 200));
            assert_eq!(first.status, 200);
        };
        let watching = async {
            watcher
                .lock(|lock| (lock["waiting"] == 4 && lock["state"] == "held").then_some(()))
                .await;
            let (mut handed_over, mut has_wait) = (0, false);
            watcher
                .lock(|lock| {
                    let count = |kind: &str| lock["granted"][kind].as_u64().unwrap_or(0);
                    handed_over += count("local") + count("remote");
                    has_wait |= lock["longest_wait_ms"].is_number();
                    (lock["state"] == "free" && lock["waiting"] == 0).then_some(())
                })
                .await;
            assert_eq!(handed_over, 4);
            assert!(has_wait);
        };
        tokio::join!(requests, watching);
        // The hold for which the others waited.
        let mut late = Watcher::of(&server).await;
        let snapshot = late.expect("snapshot").await;
        let episodes = snapshot["episodes"].as_array().unwrap();
        assert_eq!(episodes.len(), 5);
        let first = episodes.iter().find(|it| it["request"] == "first").unwrap();
        assert_eq!(
            (&first["waited"], &first["refused"]),
            (&json!(4), &json!(0))
        );
        assert_eq!(first["ended"], "released");
        assert!(first["longest_wait_ms"].as_f64().unwrap() > 0.0);
        assert!(first["to"].as_i64().unwrap() >= first["from"].as_i64().unwrap() + 2000);
    }
}

#[tokio::test]
async fn an_episode_shows_what_happened_before_there_was_a_watcher() {
    on_each_store(
        &["--update-lease", "1s", "--update-wait", "1ms"],
        async |server| {
            let id = server.create(10).await;
            eventually("an update is written", async || {
                // On a slow machine the lease may end before the commit.
                (patch_as(server, "first", id, 9).await.status == 200).then_some(())
            })
            .await;
            let refused = patch_as(server, "second", id, 8).await.status;
            let episode = eventually("the lease has ended", async || {
                let mut watcher = Watcher::of(server).await;
                let snapshot = watcher.expect("snapshot").await;
                let episodes = snapshot["episodes"].as_array().unwrap();
                episodes.iter().find(|it| it["ended"] == "kept").cloned()
            })
            .await;
            assert_eq!(episode["request"], "first");
            assert_eq!(episode["product"], id);
            assert_eq!(episode["lock"], lock_name(id));
            // On a slow machine the second request may come after the lease.
            if refused == 429 {
                assert_eq!(episode["refused"], 1);
            }
        },
    )
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
