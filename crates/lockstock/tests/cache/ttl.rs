//! When values expire.

use std::collections::BTreeSet;
use std::time::Duration;

use lockstock::{Cache, MAX_TTL, MIN_TTL, Ttl};
use tokio::time::Instant;

use super::harness::SHORT;
use super::{LONG, gone, on_each_store, raw};

async fn remaining<C>(values: &Cache<u32, C>, key: &str) -> Duration {
    match values.ttl(key).await.unwrap() {
        Some(Ttl::After(remaining)) => remaining,
        ttl => panic!("{ttl:?}"),
    }
}

#[tokio::test]
async fn a_value_expires_with_its_ttl() {
    on_each_store(async |store| {
        let values = raw(&store, "values");
        let set_at = Instant::now();
        values.set("short", &"1".into(), SHORT).await.unwrap();
        values.set("long", &"2".into(), LONG).await.unwrap();
        gone(&values, "short").await;
        // Redis counts whole milliseconds.
        assert!(set_at.elapsed() + Duration::from_millis(1) >= SHORT);
        assert_eq!(values.get("short").await.unwrap(), None);
        assert_eq!(values.ttl("short").await.unwrap(), None);
        assert!(!values.touch("short", LONG).await.unwrap());
        assert!(!values.persist("short").await.unwrap());
        assert!(!values.replace("short", &"3".into(), LONG).await.unwrap());
        assert!(!values.delete("short").await.unwrap());
        assert!(values.add("short", &"4".into(), LONG).await.unwrap());
        assert_eq!(
            values.get("long").await.unwrap().as_deref(),
            Some(&b"2"[..])
        );
    })
    .await;
}

#[tokio::test]
async fn the_remaining_ttl_of_a_value_is_reported() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values");
        assert_eq!(values.ttl("a").await.unwrap(), None);
        values.set("a", &1, LONG).await.unwrap();
        let ttl = remaining(&values, "a").await;
        assert!(ttl <= LONG && ttl > LONG / 2, "{ttl:?}");
        values.set("a", &1, Ttl::Never).await.unwrap();
        assert_eq!(values.ttl("a").await.unwrap(), Some(Ttl::Never));
        values.set("a", &1, MAX_TTL).await.unwrap();
        assert!(remaining(&values, "a").await > MAX_TTL - LONG);
        values.set("a", &1, MIN_TTL).await.unwrap();
        gone(&values, "a").await;
    })
    .await;
}

#[tokio::test]
async fn a_write_replaces_the_ttl_of_the_earlier_value() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values");
        values.set("a", &1, SHORT).await.unwrap();
        values.set("a", &2, Ttl::Never).await.unwrap();
        values.set("b", &1, Ttl::Never).await.unwrap();
        assert!(values.replace("b", &2, SHORT).await.unwrap());
        values.set("c", &1, SHORT).await.unwrap();
        gone(&values, "b").await;
        gone(&values, "c").await;
        assert_eq!(values.get("a").await.unwrap(), Some(2));
    })
    .await;
}

#[tokio::test]
async fn a_touched_value_expires_with_the_new_ttl() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values");
        assert!(!values.touch("a", LONG).await.unwrap());
        assert!(!values.touch("a", Ttl::Never).await.unwrap());
        assert!(!values.contains("a").await.unwrap());
        values.set("a", &1, LONG).await.unwrap();
        assert!(values.touch("a", 2 * LONG).await.unwrap());
        assert!(remaining(&values, "a").await > LONG);
        for _ in 0..2 {
            assert!(values.touch("a", Ttl::Never).await.unwrap());
            assert_eq!(values.ttl("a").await.unwrap(), Some(Ttl::Never));
        }
        assert!(values.touch("a", SHORT).await.unwrap());
        gone(&values, "a").await;
    })
    .await;
}

#[tokio::test]
async fn a_persisted_value_does_not_expire() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values");
        assert!(!values.persist("a").await.unwrap());
        values.set("a", &1, LONG).await.unwrap();
        assert!(values.persist("a").await.unwrap());
        assert!(!values.persist("a").await.unwrap());
        assert_eq!(values.ttl("a").await.unwrap(), Some(Ttl::Never));
        assert_eq!(values.get("a").await.unwrap(), Some(1));
    })
    .await;
}

#[tokio::test]
async fn jitter_shortens_each_ttl_by_another_share() {
    on_each_store(async |store| {
        let values = store.cache::<u32>("values").jitter(0.25);
        let keys = (0..40).map(|n| n.to_string()).collect::<Vec<_>>();
        values.set_many(keys.iter().zip(0..), LONG).await.unwrap();
        values.set(&keys[0], &0, LONG).await.unwrap();
        assert!(values.touch(&keys[1], LONG).await.unwrap());
        let mut seconds = BTreeSet::new();
        for key in &keys {
            let ttl = remaining(&values, key).await;
            // 60 s: what a busy machine takes until the question.
            let shortest = LONG.mul_f64(0.75) - Duration::from_secs(60);
            assert!(ttl <= LONG && ttl >= shortest, "{ttl:?}");
            seconds.insert(ttl.as_secs());
        }
        // Of 900 seconds. All 40 within 5 of them: less likely than 10^-60.
        assert!(seconds.len() > 5, "{seconds:?}");
        values.set("never", &1, Ttl::Never).await.unwrap();
        assert_eq!(values.ttl("never").await.unwrap(), Some(Ttl::Never));
        // Not below the minimum.
        let all = values.jitter(1.0);
        for _ in 0..20 {
            all.set("a", &1, MIN_TTL).await.unwrap();
        }
    })
    .await;
}
