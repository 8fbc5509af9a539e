//! A `lockstock::blocking::Store` in a process that forks, and under signals.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::collections::HashSet;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, sleep};
use std::time::Duration;

use lockstock::blocking::{Cache, Store};
use lockstock::{Acquired, Integer, LockKind, NearCache};
use lockstock_testkit::{Authority, Cluster, Redis};

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
    if number.is_multiple_of(10) {
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
    if child::ran_alone(five_hundred_children_of_six_busy_threads_reply) {
        return;
    }
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
    if child::ran_alone(children_and_their_children_reach_a_cluster) {
        return;
    }
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
    if child::ran_alone(a_child_does_not_own_what_its_parent_holds) {
        return;
    }
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
                await_success(id);
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
fn a_fork_during_the_first_lock_of_a_process_leaves_a_child_that_can_lock() {
    if child::ran_alone(a_fork_during_the_first_lock_of_a_process_leaves_a_child_that_can_lock) {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    for _ in 0..40 {
        // In a child, which has locked nothing yet.
        child::succeeds(|| {
            thread::scope(|scope| {
                scope.spawn(|| lock(&store, "parent"));
                for _ in 0..4 {
                    child::succeeds(|| lock(&store, "child"));
                }
            });
        });
    }
}

#[test]
fn a_computation_that_returns_in_a_child_too_uses_no_connection_of_the_parent() {
    if child::ran_alone(a_computation_that_returns_in_a_child_too_uses_no_connection_of_the_parent)
    {
        return;
    }
    let redis = Redis::start();
    let store = open(&redis.url());
    let values = store.cache::<String>("values");
    let mut is_child = false;
    let value = values.get_or_try_set("a", LONG, || {
        // SAFETY: the child exits below.
        is_child = match unsafe { libc::fork() } {
            0 => {
                limit_child();
                true
            }
            id => {
                await_success(id);
                false
            }
        };
        Ok::<_, std::convert::Infallible>(format!("child: {is_child}"))
    });
    if is_child {
        let is_right = value.is_ok_and(|value| value == "child: true")
            // What it has computed is not written: the parent computes too.
            && values.get("a").is_ok_and(|value| value.is_none());
        // SAFETY: ends the process.
        unsafe { libc::_exit(i32::from(!is_right)) }
    }
    assert_eq!(value.unwrap(), "child: false");
    assert_eq!(values.get("a").unwrap().as_deref(), Some("child: false"));
}

/// Ends a child that hangs, which then has failed.
fn limit_child() {
    // SAFETY: has no preconditions.
    unsafe { libc::alarm(30) };
}

/// Waits until a child has exited, and fails unless it succeeded.
fn await_success(id: libc::pid_t) {
    let mut status = 0;
    // SAFETY: `id` is a child that has not been waited for; `status` is valid.
    while unsafe { libc::waitpid(id, &raw mut status, 0) } != id {
        let failure = io::Error::last_os_error();
        assert_eq!(failure.kind(), io::ErrorKind::Interrupted, "{failure}");
    }
    assert_eq!(status, 0);
}

#[test]
fn a_memory_store_is_empty_in_a_child() {
    if child::ran_alone(a_memory_store_is_empty_in_a_child) {
        return;
    }
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
    if child::ran_alone(a_process_has_no_thread_and_no_socket_until_a_call_needs_one) {
        return;
    }
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
        assert_eq!((threads(), files()), (1, before + 1));
        lock.acquire().unwrap().keep().unwrap();
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
    if child::ran_alone(a_signal_ends_a_call_if_the_application_wants_that) {
        return;
    }
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

#[test]
fn a_signal_handler_that_forks_leaves_the_reply_to_the_parent() {
    if child::ran_alone(a_signal_handler_that_forks_leaves_the_reply_to_the_parent) {
        return;
    }
    handle_signals();
    let redis = Arc::new(Redis::start());
    let is_child = Arc::new(AtomicBool::new(false));
    let on_interrupt = {
        let (redis, is_child) = (redis.clone(), is_child.clone());
        let has_forked = AtomicBool::new(false);
        move || {
            if !has_forked.swap(true, Ordering::Relaxed) {
                // SAFETY: the child exits below.
                match unsafe { libc::fork() } {
                    0 => {
                        limit_child();
                        is_child.store(true, Ordering::Relaxed);
                    }
                    id => {
                        await_success(id);
                        redis.resume();
                    }
                }
            }
            Ok(())
        }
    };
    let builder = Store::builder(redis.url());
    let store = builder
        .timeout(Duration::from_secs(10))
        .on_interrupt(on_interrupt);
    let values = store.open().unwrap().cache::<u8>("values");
    values.set("a", &1, LONG).unwrap();
    redis.pause();
    let value = interrupted(move || {
        let value = values.get("a");
        if is_child.load(Ordering::Relaxed) {
            let is_interrupted = value.is_err_and(|error| error.to_string().contains("fork"));
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!is_interrupted)) }
        }
        value
    });
    assert_eq!(value.unwrap(), Some(1));
}

#[test]
fn a_signal_ends_a_call_that_sends_over_tls() {
    if child::ran_alone(a_signal_ends_a_call_that_sends_over_tls) {
        return;
    }
    handle_signals();
    let authority = Authority::new();
    let redis = Redis::start_tls(&authority.issue(&["localhost"]));
    let url = format!(
        "{}?ssl_ca_certs={}",
        redis.url(),
        authority.file().display()
    );
    let signals = AtomicUsize::new(0);
    let on_interrupt = move || match signals.fetch_add(1, Ordering::Relaxed) {
        3 => Err("stop".into()),
        _ => Ok(()),
    };
    let builder = Store::builder(url).timeout(Duration::from_secs(10));
    let values = builder.on_interrupt(on_interrupt).open().unwrap();
    let values = values.cache::<String>("values").max_value_bytes(usize::MAX);
    values.set("a", &"1".to_owned(), LONG).unwrap();
    redis.pause();
    // More than all buffers on the way take.
    let value = "x".repeat(32 * 1024 * 1024);
    let error = interrupted(move || values.set("a", &value, LONG)).unwrap_err();
    let reason = std::error::Error::source(&error).map(ToString::to_string);
    assert_eq!(reason.as_deref(), Some("stop"), "{error}");
}
