//! Two servers on one Redis: each shows what happens at the other.

use lockstock_testkit::Redis;
use serde_json::{Value, json};

use super::{Watcher, lock_name, patch_as};
use crate::harness::{Server, eventually, new_database};

/// Returns the number of subscribers of the channel of the frames.
fn subscribers(redis: &Redis) -> String {
    let counted = redis
        .command(&["PUBSUB", "NUMSUB", "lockstock:board"])
        .unwrap();
    counted.lines().last().unwrap_or_default().to_owned()
}

/// Starts two servers on one Redis and one database.
fn servers(redis: &Redis, args: &[&str]) -> [Server; 2] {
    let database = new_database();
    [(); 2].map(|()| Server::on(&redis.url(), &database).args(args).start())
}

/// Returns how many messages Redis has published on the channel, of which it counts the calls.
fn published(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let line = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_publish:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_watcher_of_one_server_sees_the_requests_of_the_other() {
    let redis = Redis::start();
    let [one, two] = servers(&redis, &["--after-update", "release"]);
    let id = one.create(10).await;
    let mut watcher = Watcher::of(&one).await;
    let snapshot = watcher.expect("snapshot").await;
    let own = snapshot["server"].clone();
    // The other server asks once a second, and only while it is used.
    let mut stock = 100;
    let frame = loop {
        stock -= 1;
        assert_eq!(patch_as(&two, "theirs", id, stock).await.status, 200);
        assert_eq!(patch_as(&one, "ours", id, stock).await.status, 200);
        let frame = watcher.expect("frame").await;
        let locks = frame["locks"].as_array().into_iter().flatten();
        let theirs = locks.clone().any(|lock| {
            let events = lock["events"].as_array().into_iter().flatten();
            events.clone().any(|event| event["request"] == "theirs")
        });
        if theirs {
            break frame;
        }
    };
    assert_ne!(frame["server"], own);
    let lock = &frame["locks"][0];
    assert_eq!(lock["name"], lock_name(id));
    assert_eq!(lock["product"], id);

    // Its episodes and its name are in the next snapshot.
    let snapshot = eventually("an episode of the other server", async || {
        let mut late = Watcher::of(&one).await;
        let snapshot = late.expect("snapshot").await;
        let episodes = snapshot["episodes"].as_array().unwrap();
        let theirs = episodes.iter().any(|it| it["request"] == "theirs");
        theirs.then_some(snapshot)
    })
    .await;
    assert_eq!(snapshot["servers"], json!([own, frame["server"]]));
}

#[tokio::test]
async fn a_lock_that_another_server_keeps_is_in_the_snapshot_with_its_request() {
    let redis = Redis::start();
    let [one, two] = servers(&redis, &[]);
    let id = one.create(10).await;
    assert_eq!(patch_as(&two, "theirs", id, 9).await.status, 200);
    let holder = async || -> Option<Value> {
        let mut watcher = Watcher::of(&one).await;
        let snapshot = watcher.expect("snapshot").await;
        let mut locks = snapshot["locks"].as_array()?.iter();
        let lock = locks.find(|lock| lock["name"] == lock_name(id))?;
        assert_eq!(lock["state"], "kept");
        (lock["holder"]["request"] == "theirs").then(|| lock["holder"].clone())
    };
    // At first from the store, which does not know the request; then from the other server.
    let holder = eventually("the request is known", async || {
        // A refused request: only a server that is used asks whether it is watched.
        assert_eq!(
            patch_as(&two, "refused", one.create(1).await, 1)
                .await
                .status,
            200
        );
        holder().await
    })
    .await;
    assert_eq!(holder["address"], "127.0.0.1");
}

#[tokio::test]
async fn a_server_publishes_only_while_another_one_watches() {
    let redis = Redis::start();
    let [one, two] = servers(&redis, &["--after-update", "release"]);
    let id = one.create(10).await;
    let watcher = Watcher::of(&one).await;
    eventually("the server subscribes", async || {
        (subscribers(&redis) == "1").then_some(())
    })
    .await;
    let before = published(&redis);
    eventually("the other server publishes", async || {
        assert_eq!(patch_as(&two, "theirs", id, 1).await.status, 200);
        (published(&redis) > before).then_some(())
    })
    .await;
    drop(watcher);
    eventually("the server unsubscribes", async || {
        (subscribers(&redis) == "0").then_some(())
    })
    .await;
    // What was on its way.
    for _ in 0..20 {
        assert_eq!(patch_as(&two, "theirs", id, 1).await.status, 200);
    }
    let before = published(&redis);
    for _ in 0..50 {
        assert_eq!(patch_as(&two, "theirs", id, 1).await.status, 200);
    }
    assert_eq!(published(&redis), before);
}

#[tokio::test]
async fn a_lock_of_another_server_that_is_taken_away_is_free_at_both() {
    let redis = Redis::start();
    let [one, two] = servers(&redis, &[]);
    let id = one.create(10).await;
    let (mut here, mut there) = (Watcher::of(&one).await, Watcher::of(&two).await);
    here.expect("snapshot").await;
    there.expect("snapshot").await;
    eventually("both receive events", async || {
        (subscribers(&redis) == "2").then_some(())
    })
    .await;
    assert_eq!(patch_as(&two, "theirs", id, 9).await.status, 200);
    let granted = &there.events_of("theirs", &["granted", "kept"]).await[0];
    let holder = granted["holder"].as_str().unwrap();
    let name = lock_name(id);
    let path = format!("/api/locks/?lock={name}&holder={holder}");
    let released = one.send(one.request(reqwest::Method::DELETE, &path)).await;
    assert_eq!(released.status, 204);
    here.lock(|lock| {
        let mut events = lock["events"].as_array()?.iter();
        let is_forced = events.any(|it| it["kind"] == "forced" && it["holder"] == *holder);
        (is_forced && lock["state"] == "free").then_some(())
    })
    .await;
    there.events_of("theirs", &["forced"]).await;
    for server in [&one, &two] {
        let mut late = Watcher::of(server).await;
        assert_eq!(late.expect("snapshot").await["locks"], json!([]));
    }
}
