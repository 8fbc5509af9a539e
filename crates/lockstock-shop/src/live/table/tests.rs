use std::sync::Arc;
use std::time::Duration;

use lockstock::{Guard, Store};

use super::*;
use crate::live::wire::LockState;

const MANY: FrameLimits = FrameLimits {
    locks: 500,
    events: 1000,
};

fn table() -> Arc<LockTable> {
    Arc::new(LockTable::new(ProductLocks {
        prefix: "product-".to_owned(),
        suffix: String::new(),
    }))
}

fn begin(table: &Arc<LockTable>, name: &str) -> Option<Followed> {
    table.begin(name, Requester::default())
}

/// Follows a request that gets the lock.
async fn hold(table: &Arc<LockTable>, store: &Store, name: &str) -> (Followed, Guard) {
    let lock = store.lock(name).lease(Duration::from_secs(60)).unwrap();
    let guard = lock.acquire().await.unwrap();
    let mut request = begin(table, name).unwrap();
    request.granted(&guard);
    (request, guard)
}

fn changes(table: &LockTable) -> (Vec<LockStatus>, Vec<wire::Episode>) {
    table.take_changes("server", Moment::now(), MANY)
}

#[tokio::test]
async fn a_request_that_is_dropped_while_it_waits_is_cancelled() {
    let table = table();
    table.set_watched(true);
    let request = begin(&table, "product-7").unwrap();
    let (locks, _) = changes(&table);
    assert_eq!((locks[0].waiting, locks[0].product), (1, Some(7)));
    drop(request);
    let (locks, _) = changes(&table);
    assert_eq!(locks[0].waiting, 0);
    assert_eq!(locks[0].events[0].kind, EventKind::Cancelled);
    // It is forgotten.
    assert!(changes(&table).0.is_empty());
    assert!(table.statuses("server", Moment::now()).is_empty());
}

#[tokio::test]
async fn a_handler_that_panics_releases_its_lock() {
    let table = table();
    table.set_watched(true);
    let lock = Store::memory()
        .lock("a")
        .lease(Duration::from_secs(60))
        .unwrap();
    let guard = lock.acquire().await.unwrap();
    let mut request = begin(&table, "a").unwrap();
    request.granted(&guard);
    assert_eq!(changes(&table).0[0].state, LockState::Held);
    drop(request);
    let (locks, episodes) = changes(&table);
    assert_eq!(locks[0].state, LockState::Free);
    assert_eq!(episodes[0].ended, EpisodeEnd::Released);
}

#[tokio::test]
async fn a_lock_with_many_events_is_counted() {
    let table = table();
    table.set_watched(true);
    for _ in 0..100 {
        let mut request = begin(&table, "hot").unwrap();
        request.rejected(false, Duration::from_secs(1));
    }
    let (locks, _) = changes(&table);
    assert_eq!(locks[0].refused, 100);
    assert!(locks[0].events.is_empty());
}

#[tokio::test]
async fn lone_requests_without_room_in_the_next_frame_are_counted() {
    let table = table();
    table.set_watched(true);
    let few = FrameLimits {
        locks: 500,
        events: 10,
    };
    let take = || table.take_changes("server", Moment::now(), few).0;
    take();
    let store = Store::memory();
    let mut requests = Vec::new();
    for number in 0..100 {
        requests.push(hold(&table, &store, &format!("lock-{number}")).await);
    }
    let mut refused = begin(&table, "lock-99").unwrap();
    refused.rejected(false, Duration::from_secs(1));
    let locks = take();
    assert!(locks.iter().all(|lock| lock.granted.free == 1));
    let events = locks.iter().map(|lock| lock.events.len()).sum::<usize>();
    assert!((2..=10).contains(&events), "{events}");
    // From the next frame on, its events are shown again.
    let mut refused = begin(&table, "lock-99").unwrap();
    refused.rejected(false, Duration::from_secs(1));
    let locks = take();
    assert_eq!((locks.len(), locks[0].events.len()), (1, 2));
}

#[tokio::test]
async fn a_full_table_ignores_further_locks_until_there_is_room() {
    let table = table();
    let requests: Vec<_> = (0..20_000)
        .map(|number| begin(&table, &format!("lock-{number}")))
        .collect();
    let followed = requests.iter().flatten().count();
    assert!((1000..=4096).contains(&followed), "{followed}");
    let shown = table.statuses("server", Moment::now()).len();
    assert_eq!(shown, followed);
    drop(requests);
    assert!(table.statuses("server", Moment::now()).is_empty());
    assert!(begin(&table, "lock-0").is_some());
}

#[tokio::test]
async fn without_a_watcher_only_ended_holds_are_remembered() {
    let table = table();
    let lock = Store::memory()
        .lock("a")
        .lease(Duration::from_secs(60))
        .unwrap();
    for _ in 0..2000 {
        let guard = lock.acquire().await.unwrap();
        let mut request = begin(&table, "a").unwrap();
        request.granted(&guard);
        guard.release().await.unwrap();
        request.ended(EventKind::Released);
    }
    table.set_watched(true);
    let (locks, episodes) = changes(&table);
    assert!(locks.is_empty() && episodes.is_empty());
    let remembered = table.episodes(Moment::now()).len();
    assert_eq!(remembered, 64, "of one lock, those of one shard");
}

#[tokio::test]
async fn a_hold_that_others_met_is_not_displaced_by_uneventful_ones() {
    let table = table();
    let lease = Duration::from_secs(60);
    let lock = Store::memory().lock("a").lease(lease).unwrap();
    for number in 0..1000 {
        let guard = lock.acquire().await.unwrap();
        let mut request = begin(&table, "a").unwrap();
        request.granted(&guard);
        if number % 100 == 0 {
            begin(&table, "a").unwrap().rejected(false, lease);
        }
        guard.release().await.unwrap();
        request.ended(EventKind::Released);
    }
    let episodes = table.episodes(Moment::now());
    assert_eq!(episodes.len(), 64);
    let met = episodes.iter().filter(|episode| episode.refused == 1);
    assert_eq!(met.count(), 10);
}

#[tokio::test]
async fn a_small_frame_has_the_locks_for_which_requests_compete() {
    let table = table();
    table.set_watched(true);
    let store = Store::memory();
    let mut held = Vec::new();
    for number in 0..100 {
        held.push(hold(&table, &store, &format!("lock-{number}")).await);
    }
    let _waiter = begin(&table, "lock-77").unwrap();
    let few = FrameLimits {
        locks: 10,
        events: 4,
    };
    let take = || table.take_changes("server", Moment::now(), few).0;
    let first = take();
    assert_eq!((first.len(), &*first[0].name), (10, "lock-77"));
    let events = first.iter().map(|lock| lock.events.len()).sum::<usize>();
    assert!(events <= 4, "{events}");
    // The others follow.
    let mut seen = first;
    while seen.len() < 100 {
        let next = take();
        assert!(!next.is_empty());
        seen.extend(next);
    }
    assert!(take().is_empty());
}
