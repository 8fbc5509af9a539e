//! The list of locks, and forced releases.

use lockstock_testkit::Redis;
use reqwest::Method;
use serde_json::{Value, json};

use super::{Watcher, lock_name, on_each_store, patch_as};
use crate::access::KeyFile;
use crate::harness::{Response, Server, eventually, new_database};

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
        for malformed in ["soon", "", "1us", "9999999s"] {
            let invalid = server.get(&format!("/api/locks/?longer={malformed}")).await;
            assert_eq!(invalid.status, 400, "{malformed}");
            assert!(invalid.body["longer"].is_array(), "{:?}", invalid.body);
        }
        let too_long = server
            .get(&format!("/api/locks/?lock={}", "x".repeat(2000)))
            .await;
        assert_eq!(
            (too_long.status.as_u16(), &too_long.body["locks"]),
            (200, &json!([]))
        );
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

/// Sends a forced release.
async fn force(server: &Server, secret: &str, name: &str, holder: &str) -> Response {
    let path = format!("/api/locks/?lock={name}&holder={holder}");
    let mut request = server.request(Method::DELETE, &path);
    if !secret.is_empty() {
        request = request.bearer_auth(secret);
    }
    server.send(request).await
}

#[tokio::test]
async fn a_lock_can_be_taken_away_from_the_holder_that_was_seen() {
    on_each_store(&[], async |server| {
        let id = server.create(10).await;
        let name = lock_name(id);
        let mut watcher = Watcher::of(server).await;
        watcher.expect("snapshot").await;
        assert_eq!(patch_as(server, "first", id, 9).await.status, 200);
        let holder = async || {
            let listed = server.get(&format!("/api/locks/?lock={name}")).await.body;
            listed["locks"][0]["holder"]["id"]
                .as_str()
                .map(str::to_owned)
        };
        let first = holder().await.unwrap();
        let other = force(server, "", &name, &"0".repeat(32)).await;
        assert_eq!(
            (other.status.as_u16(), &other.body["code"]),
            (409, &json!("other_holder"))
        );
        assert_eq!(force(server, "", &name, &first).await.status, 204);
        assert_eq!(holder().await, None);
        watcher.events_of("first", &["forced"]).await;
        assert_eq!(force(server, "", &name, &first).await.status, 404);
        // The product can be changed at once.
        assert_eq!(patch_as(server, "second", id, 8).await.status, 200);
        for (name, holder) in [
            ("", &*first),
            (&name, ""),
            (&name, "foreign:0011223344556677"),
        ] {
            let invalid = force(server, "", name, holder).await;
            assert_eq!(invalid.status, 400, "{name} {holder}");
            assert!(invalid.body["lock"].is_array() || invalid.body["holder"].is_array());
        }
        let metrics = server.get("/metrics").await.body;
        let metrics = metrics.as_str().unwrap();
        assert!(metrics.contains("lockstock_forced_releases_total 1\n"));
    })
    .await;
}

#[tokio::test]
async fn a_forced_release_needs_the_highest_scope_and_is_logged_with_its_caller() {
    let file = KeyFile::new();
    let (writer, admin) = (file.add("till", "write"), file.add("ops", "admin"));
    let server = file.server().start();
    let create = server
        .request(Method::POST, "/api/products/")
        .bearer_auth(&writer)
        .json(&json!({ "name": "Mug", "price": 1, "stock": 5 }));
    let id = server.send(create).await.body["id"].as_i64().unwrap();
    let patch = server
        .request(Method::PATCH, &crate::harness::product(id))
        .bearer_auth(&writer)
        .json(&json!({ "stock": 4 }));
    assert_eq!(server.send(patch).await.status, 200);
    let name = lock_name(id);
    let list = server
        .request(Method::GET, "/api/locks/")
        .bearer_auth(&writer);
    let listed = server.send(list).await.body;
    let holder = &listed["locks"][0]["holder"];
    assert_eq!(holder["caller"], "till");
    let holder = holder["id"].as_str().unwrap();
    assert_eq!(force(&server, "", &name, holder).await.status, 401);
    assert_eq!(force(&server, &writer, &name, holder).await.status, 403);
    assert_eq!(force(&server, &admin, &name, holder).await.status, 204);
    let line = eventually("it is logged", async || {
        let log = server.log();
        let mut lines = log
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.find(|line| line["message"] == "a lock was released by force")
    })
    .await;
    assert_eq!(
        (&line["caller"], &line["lock"]),
        (&json!("ops"), &json!(name))
    );
    assert_eq!(line["holder"], *holder);
}
