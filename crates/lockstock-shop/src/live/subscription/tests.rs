use std::pin::Pin;

use futures_util::StreamExt;
use lockstock::Store;

use super::*;
use crate::live::ProductLocks;
use crate::storage::{self, StorageOptions};

/// A server's live state without the tasks that make frames.
async fn live(folder: &tempfile::TempDir) -> Live {
    let url = format!("sqlite://{}", folder.path().join("shop.sqlite3").display());
    let options = StorageOptions {
        max_connections: 2,
        timeout: Duration::from_secs(20),
        exclusive: false,
        key_retention: Duration::from_secs(60),
    };
    let storage = storage::open(&url, options).await.unwrap();
    let product_locks = ProductLocks {
        prefix: "lock-".to_owned(),
        suffix: String::new(),
    };
    Live::new(Store::memory(), storage, product_locks, 10)
}

type Events = Pin<Box<dyn Stream<Item = Result<Bytes, std::convert::Infallible>> + Send>>;

/// Returns the name of the next event.
async fn next(events: &mut Events) -> String {
    let event = events.next().await.expect("an event").unwrap();
    let text = String::from_utf8(event.to_vec()).unwrap();
    let mut lines = text.lines();
    let name = lines.find_map(|line| line.strip_prefix("event: "));
    name.unwrap_or_default().to_owned()
}

fn subscribe(live: &Live, last_event_id: Option<&str>) -> Events {
    Box::pin(live.subscribe(last_event_id).unwrap())
}

#[tokio::test]
async fn a_subscriber_that_does_not_read_gets_a_snapshot_instead_of_a_queue() {
    let folder = tempfile::tempdir().unwrap();
    let live = live(&folder).await;
    let mut events = subscribe(&live, None);
    assert_eq!(next(&mut events).await, "", "when to come back");
    assert_eq!(next(&mut events).await, "snapshot");
    live.0.ring.push(b"{}");
    assert_eq!(next(&mut events).await, "frame");
    // Polled once more, it has read everything.
    assert!(futures_util::poll!(events.next()).is_pending());
    for _ in 0..100 {
        live.0.ring.push(b"{}");
    }
    assert_eq!(next(&mut events).await, "reset");
    assert_eq!(next(&mut events).await, "snapshot");
    live.0.ring.push(b"{}");
    assert_eq!(next(&mut events).await, "frame");
}

#[tokio::test]
async fn a_subscriber_that_comes_back_reads_all_that_it_has_missed() {
    let folder = tempfile::tempdir().unwrap();
    let live = live(&folder).await;
    let mut first = subscribe(&live, None);
    next(&mut first).await;
    next(&mut first).await;
    live.0.ring.push(b"{}");
    let event = first.next().await.unwrap().unwrap();
    let text = String::from_utf8(event.to_vec()).unwrap();
    let id = text.lines().next().unwrap().strip_prefix("id: ").unwrap();
    for _ in 0..100 {
        live.0.ring.push(b"{}");
    }
    let mut second = subscribe(&live, Some(id));
    assert_eq!(next(&mut second).await, "");
    for _ in 0..100 {
        assert_eq!(next(&mut second).await, "frame");
    }
    assert!(futures_util::poll!(second.next()).is_pending());
    // Nothing is left after a pause in which no frames were made.
    live.0.ring.clear();
    let mut third = subscribe(&live, Some(id));
    assert_eq!(next(&mut third).await, "");
    assert_eq!(next(&mut third).await, "reset");
}

#[tokio::test]
async fn a_place_is_free_when_its_stream_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let live = live(&folder).await;
    let streams: Vec<_> = (0..10).map(|_| subscribe(&live, None)).collect();
    assert!(live.subscribe(None).is_err());
    drop(streams);
    assert!(live.subscribe(None).is_ok());
    live.close();
    assert!(live.subscribe(None).is_err());
}
