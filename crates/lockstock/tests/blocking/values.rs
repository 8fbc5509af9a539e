use std::time::Duration;

use bytes::Bytes;
use lockstock::blocking::{Cache, Store};
use lockstock::{Integer, MAX_KEY_BYTES, MAX_TTL, MAX_VALUE_BYTES, Raw, Ttl};
use lockstock_testkit::Redis;

use super::harness::{self, SHORT};
use super::{on_each_store, open};

const LONG: Duration = Duration::from_secs(3600);

pub(crate) fn raw(store: &Store, namespace: &str) -> Cache<Bytes, Raw> {
    store.cache(namespace).codec(Raw)
}

#[test]
fn a_written_value_is_read() {
    on_each_store(|store| {
        let values = raw(&store, "values");
        assert_eq!(values.get("a").unwrap(), None);
        let bytes: Vec<u8> = (0..=255).collect();
        for value in [
            &b""[..],
            b"1",
            b"\r\n",
            &bytes,
            &[7; 16 * 1024 - 10],
            &[7; 300_000],
            &[7; 3_000_000],
        ] {
            values.set("a", &value.to_vec().into(), LONG).unwrap();
            assert_eq!(values.get("a").unwrap().as_deref(), Some(value));
        }
        assert!(values.delete("a").unwrap());
        assert!(!values.delete("a").unwrap());
        assert_eq!(values.get("a").unwrap(), None);
    });
}

#[test]
fn conditions_and_times_to_live() {
    on_each_store(|store| {
        let values = store.cache::<String>("values");
        let (one, two) = ("one".to_owned(), "two".to_owned());
        assert!(!values.replace("a", &one, LONG).unwrap());
        assert!(values.add("a", &one, LONG).unwrap());
        assert!(!values.add("a", &two, LONG).unwrap());
        assert!(values.replace("a", &two, Ttl::Never).unwrap());
        assert_eq!(values.get("a").unwrap(), Some(two));
        assert_eq!(values.ttl("a").unwrap(), Some(Ttl::Never));
        assert!(values.touch("a", LONG).unwrap());
        assert!(matches!(values.ttl("a").unwrap(), Some(Ttl::After(ttl)) if ttl <= LONG));
        assert!(values.persist("a").unwrap());
        assert!(!values.persist("a").unwrap());
        assert!(values.touch("a", Ttl::Never).unwrap());
        assert!(values.contains("a").unwrap());
        assert!(!values.contains("b").unwrap());
        assert!(!values.touch("b", LONG).unwrap());
        assert_eq!(values.ttl("b").unwrap(), None);
        values.set("short", &one, SHORT).unwrap();
        while values.contains("short").unwrap() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(values.version(2).get("a").unwrap(), None);
    });
}

#[test]
fn integers_are_counted() {
    on_each_store(|store| {
        let counts = store.cache("counts").codec(Integer);
        assert_eq!(counts.incr("a", 5, LONG).unwrap(), 5);
        assert_eq!(counts.decr("a", 7, LONG).unwrap(), -2);
        counts.set("a", &i64::MAX, LONG).unwrap();
        assert!(counts.incr("a", 1, LONG).unwrap_err().is_malformed());
        assert!(counts.decr("a", i64::MIN, LONG).unwrap_err().is_invalid());
        let words = store.cache::<String>("counts");
        words.set("a", &"no number".to_owned(), LONG).unwrap();
        assert!(counts.incr("a", 1, LONG).unwrap_err().is_malformed());
        assert!(counts.get("a").unwrap_err().is_malformed());
    });
}

#[test]
fn invalid_arguments_are_rejected() {
    on_each_store(|store| {
        let values = raw(&store, "values");
        let long = vec![b'x'; MAX_KEY_BYTES + 1];
        for key in [&b""[..], &long] {
            assert!(values.get(key).unwrap_err().is_invalid());
            assert!(values.delete(key).unwrap_err().is_invalid());
        }
        for ttl in [Duration::ZERO, 2 * MAX_TTL] {
            assert!(values.set("a", &"".into(), ttl).unwrap_err().is_invalid());
        }
        let large = vec![0; MAX_VALUE_BYTES + 1].into();
        assert!(values.set("a", &large, LONG).unwrap_err().is_invalid());
    });
}

#[test]
fn many_threads_each_get_their_own_values() {
    on_each_store(|store| {
        std::thread::scope(|scope| {
            for thread in 0..8_u32 {
                let values = store.cache::<String>("values");
                scope.spawn(move || {
                    for n in 0..200 {
                        let (key, value) = (format!("{thread}:{n}"), format!("{n}:{thread}"));
                        values.set(&key, &value, LONG).unwrap();
                        assert_eq!(values.get(&key).unwrap(), Some(value));
                    }
                });
            }
        });
    });
}

#[test]
fn entries_are_those_of_asynchronous_callers() {
    let redis = Redis::start();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(harness::connect(&redis.url()));
    let (theirs, ours) = (
        store.cache::<f64>("rates"),
        open(&redis.url()).cache::<f64>("rates"),
    );
    ours.set("EUR", &1.09, LONG).unwrap();
    assert_eq!(runtime.block_on(theirs.get("EUR")).unwrap(), Some(1.09));
    let keys = redis.command(&["KEYS", "lockstock:cache:*"]).unwrap();
    assert_eq!(keys, "lockstock:cache:rates:1:EUR");
    let (theirs, ours) = (theirs.django_keys(), ours.django_keys());
    runtime.block_on(theirs.set("GBP", &1.27, LONG)).unwrap();
    assert_eq!(ours.get("GBP").unwrap(), Some(1.27));
}

#[test]
fn each_database_is_separate() {
    let redis = Redis::start();
    let on = |db: u8| {
        let url = redis.url();
        let url = url.trim_end_matches("/0").trim_end_matches('/').to_owned();
        open(&format!("{url}/{db}")).cache::<u8>("values")
    };
    on(1).set("a", &1, LONG).unwrap();
    assert_eq!(on(2).get("a").unwrap(), None);
    assert_eq!(on(1).get("a").unwrap(), Some(1));
}

#[test]
fn a_key_of_another_type_is_malformed() {
    let redis = Redis::start();
    let values = raw(&open(&redis.url()), "values");
    let list = ["LPUSH", "lockstock:cache:values:1:a", "1"];
    redis.command(&list).unwrap();
    assert!(values.get("a").unwrap_err().is_malformed());
    assert_eq!(values.get("b").unwrap(), None);
}

#[tokio::test]
#[should_panic(expected = "Cannot start a runtime from within a runtime")]
async fn a_call_in_an_asynchronous_task_panics() {
    let _ = Store::memory().cache::<u8>("values").get("a");
}

#[tokio::test]
async fn a_call_on_a_thread_for_blocking_work_does_not() {
    let store = Store::memory();
    let get = move || store.cache::<u8>("values").get("a");
    assert_eq!(
        tokio::task::spawn_blocking(get).await.unwrap().unwrap(),
        None
    );
}
