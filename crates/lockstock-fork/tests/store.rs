//! A `lockstock::blocking::Store` in a process that forks, and under signals.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::HashSet;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use lockstock::blocking::{Cache, Store};
use lockstock::{Acquired, Integer, LockKind, NearCache};
use lockstock_testkit::{Cluster, Redis};

mod child;

/// Longer than anything takes on a busy machine.
const LONG: Duration = Duration::from_secs(60);
const THREADS: u32 = 6;
const KEYS: u32 = 20;
/// How many children run at the same time.
const AT_ONCE: usize = 8;

fn open(url: &str) -> Store {
    Store::builder(url).timeout(LONG).open().unwrap()
}

fn expected(thread: u32, n: u32) -> String {
    format!("value {n} of thread {thread}")
}

fn write_all(values: &Cache<String>) {
    for (thread, n) in (0..THREADS).flat_map(|thread| (0..KEYS).map(move |n| (thread, n))) {
        let value = expected(thread, n);
        values.set(format!("{thread}:{n}"), &value, LONG).unwrap();
    }
}

fn read_all(values: &Cache<String>, thread: u32) {
    for n in 0..KEYS {
        let value = values.get(format!("{thread}:{n}")).unwrap();
        assert_eq!(value, Some(expected(thread, n)));
    }
}

/// Acquires and releases a lock, over the runtime.
fn lock(store: &Store, name: &str) {
    let lock = store.lock(name).lease(LONG).unwrap();
    lock.acquire().unwrap().release().unwrap();
}

/// Forks `count` children that each run `work`, while six threads read, write and lock.
fn fork_under_load(store: &Store, count: usize, work: impl Fn(usize)) {
    let values = store.cache::<String>("values");
    write_all(&values);
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        struct Done<'a>(&'a AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        // On a panic too: the other threads would never end.
        let done = Done(&is_done);
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (values, is_done) = (&values, &is_done);
                scope.spawn(move || {
                    while !is_done.load(Ordering::Relaxed) {
                        read_all(values, thread);
                        let value = expected(thread, 0);
                        values.set(format!("{thread}:0"), &value, LONG).unwrap();
                        if thread == 0 {
                            lock(store, "parent");
                        }
                    }
                })
            })
            .collect();
        let mut children = Vec::new();
        for number in 0..count {
            children.push(child::fork(|| work(number)));
            if children.len() == AT_ONCE {
                children.drain(..).for_each(child::Child::succeeds);
            }
        }
        children.into_iter().for_each(child::Child::succeeds);
        drop(done);
        threads
            .into_iter()
            .for_each(|thread| thread.join().unwrap());
    });
    (0..THREADS).for_each(|thread| read_all(&values, thread));
}

/// Returns a near cache of the values, which it has copied in part.
fn near(store: &Store) -> Cache<String> {
    let values = store.cache::<String>("values");
    write_all(&values);
    let near = values.near(NearCache::new(1024 * 1024));
    read_all(&near, 0);
    near
}

/// What a child does: values over its own sockets, a lock over its own runtime.
fn use_store(store: &Store, near: &Cache<String>, number: usize) {
    let values = store.cache::<String>("values");
    (0..THREADS).for_each(|thread| read_all(&values, thread));
    let own = format!("child {number}");
    values.set(&own, &own, LONG).unwrap();
    assert_eq!(values.get(&own).unwrap(), Some(own.clone()));
    store
        .cache("counts")
        .codec(Integer)
        .incr("children", 1, LONG)
        .unwrap();
    if number % 10 == 0 {
        (0..THREADS).for_each(|thread| read_all(near, thread));
    }
    store
        .cache::<String>("ids")
        .set(store.client_id().to_string(), &own, LONG)
        .unwrap();
    lock(store, &own);
    // As a thread that the parent does not have.
    thread::scope(|scope| scope.spawn(|| lock(store, "children")).join().unwrap());
}

#[test]
fn five_hundred_children_of_six_busy_threads_reply() {
    const CHILDREN: usize = 500;
    let redis = Redis::start();
    let store = open(&redis.url());
    let near = near(&store);
    fork_under_load(&store, CHILDREN, |number| use_store(&store, &near, number));
    let counts = store.cache("counts").codec(Integer);
    assert_eq!(counts.get("children").unwrap(), Some(CHILDREN as i64));
    // No two processes draw the same random numbers: tokens begin with the id of their client.
    let ids = redis.command(&["KEYS", "lockstock:cache:ids:*"]).unwrap();
    assert_eq!(ids.lines().collect::<HashSet<_>>().len(), CHILDREN);
}

#[test]
fn children_and_their_children_reach_a_cluster() {
    let cluster = Cluster::start();
    let store = open(&cluster.url());
    let near = near(&store);
    fork_under_load(&store, 20, |number| {
        use_store(&store, &near, number);
        child::succeeds(|| use_store(&store, &near, 1000 + number));
    });
    let counts = store.cache("counts").codec(Integer);
    assert_eq!(counts.get("children").unwrap(), Some(40));
}

#[test]
fn a_child_does_not_own_what_its_parent_holds() {
    let redis = Redis::start();
    let store = open(&redis.url());
    let report = store.lock("report").lease(LONG).unwrap();
    let is_free = || report.try_acquire().unwrap().held().is_some();
    let mut guard = Some(report.acquire().unwrap().auto_renew(LONG));
    child::succeeds(|| {
        let guard = guard.take().unwrap();
        assert!(guard.is_lost() && guard.renew().unwrap_err().is_invalid());
        assert!(guard.fence() > 0);
        drop(guard);
        store.drain().unwrap();
        assert!(!is_free());
    });
    let guard = guard.unwrap();
    assert!(!guard.is_lost());
    guard.renew().unwrap();
    // Work that ends in the child does not give the lock back there.
    let other = store.lock("other").lease(LONG).unwrap();
    let mut is_child = false;
    let outcome = other.with(LONG, |_| {
        // SAFETY: the child exits below.
        is_child = match unsafe { libc::fork() } {
            0 => true,
            id => {
                let mut status = 0;
                // SAFETY: `id` is a child that has not been waited for; `status` is valid.
                assert_eq!(unsafe { libc::waitpid(id, &raw mut status, 0) }, id);
                assert_eq!(status, 0);
                assert_eq!(store.locks().unwrap().len(), 2);
                false
            }
        };
    });
    if is_child {
        let is_held = matches!(outcome, Ok(Acquired::Held(())));
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!is_held)) }
    }
    assert!(outcome.unwrap().held().is_some());
    // An explicit release is carried out.
    let mut guard = Some(guard);
    child::succeeds(|| guard.take().unwrap().release().unwrap());
    assert!(is_free());
    assert!(guard.unwrap().release().unwrap_err().is_lost());
    let cart = store.lock_all(["a", "b"]).lease(LONG).unwrap();
    let mut guards = Some(cart.acquire().unwrap());
    child::succeeds(|| {
        let guards = guards.take().unwrap();
        assert!(guards.is_lost() && guards.fence_of("a").is_some());
        guards.release().unwrap();
    });
    assert!(cart.try_acquire().unwrap().held().is_some());
    assert!(guards.unwrap().release().unwrap_err().is_lost());
}

#[test]
fn a_memory_store_is_empty_in_a_child() {
    let store = Store::memory();
    let values = store.cache::<u8>("values");
    values.set("a", &1, LONG).unwrap();
    let guard = store.lock("report").lease(LONG).unwrap().acquire().unwrap();
    child::succeeds(|| {
        assert_eq!(values.get("a").unwrap(), None);
        values.set("a", &2, LONG).unwrap();
        assert!(store.lock_info(LockKind::Lock, "report").unwrap().is_none());
        lock(&store, "report");
    });
    assert_eq!(values.get("a").unwrap(), Some(1));
    guard.release().unwrap();
}

#[test]
#[cfg(target_os = "linux")]
fn a_process_has_no_thread_and_no_socket_until_a_call_needs_one() {
    let redis = Redis::start();
    let count = |folder: &str| std::fs::read_dir(folder).unwrap().count();
    let threads = || count("/proc/self/task");
    let files = || count("/proc/self/fd");
    // In a child, which begins with one thread.
    child::succeeds(|| {
        let before = files();
        let store = open(&redis.url());
        let values = store.cache::<String>("values");
        let lock = store.lock("report").lease(LONG).unwrap();
        assert_eq!((threads(), files()), (1, before));
        values.set("a", &"1".to_owned(), LONG).unwrap();
        values.get("a").unwrap();
        assert_eq!((threads(), files()), (1, before + 1));
        lock.acquire().unwrap().release().unwrap();
        assert_eq!(threads(), 2);
    });
}

/// Installs a handler that does nothing, so that a signal only interrupts.
fn handle_signals() {
    extern "C" fn handle(_: libc::c_int) {}
    // SAFETY: the handler is safe at any time, and the structure is valid.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(libc::c_int) as usize;
        assert_eq!(
            libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()),
            0
        );
    }
}

/// Calls `get` on a thread and interrupts it until it returns.
fn interrupted<T: Send + 'static>(get: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = thread::spawn(get);
    while !thread.is_finished() {
        // SAFETY: the thread has not been joined.
        unsafe { libc::pthread_kill(thread.as_pthread_t(), libc::SIGUSR1) };
        sleep(Duration::from_millis(5));
    }
    thread.join().unwrap()
}

#[test]
fn a_signal_ends_a_call_if_the_application_wants_that() {
    handle_signals();
    let redis = Redis::start();
    let (signals, server) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(Mutex::new(Some(redis))),
    );
    let url = server.lock().unwrap().as_ref().unwrap().url();
    let on_interrupt = {
        let (signals, server) = (signals.clone(), server.clone());
        move || match signals.fetch_add(1, Ordering::Relaxed) {
            0..3 => Ok(()),
            3 => Err("stop".into()),
            // Of the second call.
            4..10 => Ok(()),
            _ => {
                server.lock().unwrap().as_ref().unwrap().resume();
                Ok(())
            }
        }
    };
    let builder = Store::builder(url).timeout(LONG).on_interrupt(on_interrupt);
    let values = builder.open().unwrap().cache::<u8>("values");
    values.set("a", &1, LONG).unwrap();
    server.lock().unwrap().as_ref().unwrap().pause();
    let get = {
        let values = values.clone();
        move || values.get("a")
    };
    let error = interrupted(get.clone()).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("stop"));
    assert_eq!(signals.load(Ordering::Relaxed), 4);
    // The server replies only after the call has been interrupted seven times.
    assert_eq!(interrupted(get).unwrap(), Some(1));
    // Not the reply to the call that was ended.
    assert_eq!(values.get("b").unwrap(), None);
}
