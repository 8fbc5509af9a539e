//! Values that a child of `fork` does not inherit.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::Duration;

use lockstock_fork::{PerProcess, generation, without_fork};

mod child;

#[test]
fn a_generation_is_that_of_a_process_and_higher_in_its_child() {
    if child::ran_alone(a_generation_is_that_of_a_process_and_higher_in_its_child) {
        return;
    }
    let before = generation();
    child::succeeds(|| {
        assert!(generation() > before);
        let parent = generation();
        child::succeeds(|| assert!(generation() > parent));
    });
    assert_eq!(generation(), before);
}

#[test]
fn all_threads_of_a_process_get_one_value() {
    let (value, made) = (PerProcess::new(), AtomicUsize::new(0));
    let start = Barrier::new(8);
    let seen: Vec<usize> = thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    *value.get_or_init(|| made.fetch_add(1, Ordering::Relaxed))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    assert!(seen.iter().all(|one| *one == seen[0]), "{seen:?}");
    assert_eq!(value.get(), Some(&seen[0]));
}

#[test]
fn a_child_makes_its_own_value_and_does_not_lock_the_inherited_one() {
    if child::ran_alone(a_child_makes_its_own_value_and_does_not_lock_the_inherited_one) {
        return;
    }
    let value = PerProcess::new();
    let inherited: &Mutex<u32> = value.get_or_init(|| Mutex::new(1));
    // As if a thread that the child does not have held it.
    let locked = inherited.lock().unwrap();
    child::succeeds(|| {
        assert!(value.get().is_none());
        assert_eq!(*value.get_or_init(|| Mutex::new(2)).lock().unwrap(), 2);
    });
    drop(locked);
    assert_eq!(*value.get().unwrap().lock().unwrap(), 1);
}

#[test]
fn a_child_does_not_drop_what_it_inherited() {
    if child::ran_alone(a_child_does_not_drop_what_it_inherited) {
        return;
    }
    let (inherited, own) = (Arc::new(()), Arc::new(()));
    let value = PerProcess::new();
    value.get_or_init(|| inherited.clone());
    let replaced = PerProcess::new();
    replaced.get_or_init(|| inherited.clone());
    child::succeeds(|| {
        drop(value);
        replaced.get_or_init(|| own.clone());
        drop(replaced);
        assert_eq!(Arc::strong_count(&inherited), 3);
        assert_eq!(Arc::strong_count(&own), 1);
    });
}

#[test]
fn a_failure_to_make_a_value_is_returned_and_not_kept() {
    let value = PerProcess::new();
    assert_eq!(value.get_or_try_init(|| Err("no memory")), Err("no memory"));
    assert_eq!(value.get_or_try_init(|| Ok::<_, ()>(1)), Ok(&1));
    assert_eq!(value.get_or_try_init(|| Err("unused")), Ok(&1));
}

#[test]
fn a_fork_waits_for_work_that_it_must_not_divide() {
    if child::ran_alone(a_fork_waits_for_work_that_it_must_not_divide) {
        return;
    }
    static MUTEX: Mutex<()> = Mutex::new(());
    let (begun, is_done) = (Barrier::new(2), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            without_fork(|| {
                let _locked = MUTEX.lock().unwrap();
                begun.wait();
                // Long enough that a fork which does not wait comes before the end.
                thread::sleep(Duration::from_millis(200));
                is_done.store(true, Ordering::Relaxed);
            });
        });
        begun.wait();
        child::succeeds(|| {
            assert!(is_done.load(Ordering::Relaxed));
            drop(MUTEX.lock().unwrap());
            // The child works and forks too.
            assert_eq!(without_fork(|| 1), 1);
            child::succeeds(|| assert_eq!(without_fork(|| 2), 2));
        });
    });
    assert_eq!(without_fork(|| 3), 3);
}
