//! The list of locks, and forced releases.

use lockstock_testkit::Redis;
use serde_json::json;

use super::{lock_name, on_each_store, patch_as};
use crate::harness::{Server, new_database};

#[tokio::test]
async fn a_kept_lock_is_listed_with_its_holder() {
    on_each_store(&[], async |server| {
        let (id, other) = (server.create(10).await, server.create(10).await);
        assert_eq!(patch_as(server, "one", id, 9).await.status, 200);
        assert_eq!(patch_as(server, "two", other, 9).await.status, 200);
        let all = server.get("/api/locks/").await;
        assert_eq!(all.status, 200);
        assert_eq!(all.header("cache-control"), "no-store");
        let names: Vec<_> = all.body["locks"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["name"])
            .collect();
        assert_eq!(names, [&json!(lock_name(id)), &json!(lock_name(other))]);
        let one = server
            .get(&format!("/api/locks/?lock={}", lock_name(id)))
            .await;
        assert_eq!(one.body["locks"].as_array().unwrap().len(), 1);
        let lock = &one.body["locks"][0];
        assert_eq!(lock["holder"]["request"], "one");
        assert_eq!(lock["state"], "kept");
        let brief = server.get("/api/locks/?longer=1h").await;
        assert_eq!(brief.body["locks"], json!([]));
        let invalid = server.get("/api/locks/?longer=soon").await;
        assert_eq!(invalid.status, 400);
        assert!(invalid.body["longer"].is_array(), "{:?}", invalid.body);
        let none = server.get("/api/locks/?lock=none").await;
        assert_eq!(none.body["locks"], json!([]));
    })
    .await;
}

#[tokio::test]
async fn the_lock_of_another_program_is_listed() {
    let redis = Redis::start();
    let server = Server::on(&redis.url(), &new_database()).start();
    redis
        .command(&["SET", "theirs", "x", "PX", "50000"])
        .unwrap();
    let listed = server.get("/api/locks/?lock=theirs").await.body;
    let lock = &listed["locks"][0];
    assert_eq!(lock["state"], "held");
    let holder = lock["holder"]["id"].as_str().unwrap();
    assert!(holder.starts_with("foreign:"), "{holder}");
    assert!(lock["holder"]["server"].is_null());
    assert!(lock["product"].is_null());
}
