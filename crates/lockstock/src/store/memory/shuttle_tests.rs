//! The memory store under thousands of schedules, each with its own order of events. `./dev
//! test` runs these tests; by hand: `RUSTFLAGS="--cfg shuttle" cargo test -p lockstock
//! --no-default-features --lib memory`.

use std::num::NonZeroU32;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::{Either, select};
use shuttle::future::{block_on, spawn, yield_now};
use tokio::time::Instant;

use super::{Holding, Memory};
use crate::key::{Keys, LockKind};
use crate::store::request::{Mode, Outcome, ReleaseOutcome, Request};
use crate::token::ClientId;

const SCHEDULES: usize = 3000;
const LEASE: Duration = Duration::from_secs(3600);

fn request(kind: LockKind, mode: Mode, until: Option<Instant>) -> Request {
    let keys = Arc::new(Keys::of(kind, b"hot").expect("a name"));
    Request::new(ClientId::random(), keys, mode, LEASE, until)
}

/// Acquires, or is cancelled after `patience` steps of the other tasks.
async fn acquire(memory: &Memory, request: &Request, patience: Option<usize>) -> Option<Holding> {
    let granted = pin!(memory.acquire(request));
    let cancelled = pin!(async {
        match patience {
            Some(patience) => {
                for _ in 0..patience {
                    yield_now().await;
                }
            }
            None => std::future::pending().await,
        }
    });
    match select(granted, cancelled).await {
        Either::Left((Outcome::Acquired(holding), _)) => Some(holding),
        Either::Left((answer, _)) => panic!("an unbounded wait ended: {answer:?}"),
        // A grant of this moment is dropped with the future.
        Either::Right(_) => None,
    }
}

/// Several tasks hold in turn. The weights of the holders at any time add up to `max` at most.
fn contend(kind: LockKind, modes: &'static [(Mode, i64)], max: i64) {
    let schedule = move || {
        let memory = Memory::new();
        let inside = Arc::new(AtomicI64::new(0));
        let fence = Arc::new(AtomicU64::new(0));
        let tasks = modes.iter().enumerate().map(|(n, &(mode, weight))| {
            let (memory, inside, fence) = (memory.clone(), inside.clone(), fence.clone());
            spawn(async move {
                for round in 0..2 {
                    let request = request(kind, mode, None);
                    // Every other task is cancelled after a few steps.
                    let patience = (n % 2 == 1).then_some(n + round);
                    let Some(holding) = acquire(&memory, &request, patience).await else {
                        continue;
                    };
                    let now = inside.fetch_add(weight, Ordering::SeqCst) + weight;
                    assert!(now <= max, "{now} inside");
                    if mode == Mode::Exclusive {
                        let last = fence.swap(holding.fence, Ordering::SeqCst);
                        assert!(last < holding.fence, "fences rise");
                    }
                    yield_now().await;
                    inside.fetch_sub(weight, Ordering::SeqCst);
                    assert_eq!(holding.release(), ReleaseOutcome::Released);
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            block_on(task).expect("no task fails");
        }
        // Nothing is left behind.
        let last = request(kind, Mode::Exclusive, Some(Instant::now()));
        let answer = block_on(memory.acquire(&last));
        assert!(matches!(answer, Outcome::Acquired(_)), "{answer:?}");
    };
    shuttle::check_random(schedule, SCHEDULES);
}

#[test]
fn holders_are_exclusive_under_cancellation() {
    contend(LockKind::Lock, &[(Mode::Exclusive, 1); 4], 1);
}

#[test]
fn holders_never_exceed_the_permits() {
    const fn taking(taken: u32) -> Mode {
        Mode::Permits {
            max: NonZeroU32::new(2).unwrap(),
            taken: NonZeroU32::new(taken).unwrap(),
        }
    }
    const ONE: Mode = taking(1);
    const TWO: Mode = taking(2);
    let modes = &[(ONE, 1), (ONE, 1), (TWO, 2), (ONE, 1)];
    contend(LockKind::Semaphore, modes, 2);
}

#[test]
fn readers_or_a_writer() {
    let modes = &[
        (Mode::Read, 1),
        (Mode::Exclusive, 3),
        (Mode::Read, 1),
        (Mode::Exclusive, 3),
        (Mode::Read, 1),
    ];
    contend(LockKind::ReadWrite, modes, 3);
}

#[test]
fn timeouts_and_keep_leave_no_waiter_blocked() {
    shuttle::check_random(
        || {
            let memory = Memory::new();
            let holder = request(LockKind::Lock, Mode::Exclusive, None);
            let Outcome::Acquired(holding) = block_on(memory.acquire(&holder)) else {
                panic!("the lock is free");
            };
            let waiters = (0..3).map(|n| {
                let memory = memory.clone();
                spawn(async move {
                    // The second waits without a limit, and is cancelled.
                    let until = (n != 1).then(|| Instant::now() + LEASE / 2);
                    let request = request(LockKind::Lock, Mode::Exclusive, until);
                    let patience = (n == 1).then_some(5);
                    let answer = pin!(memory.acquire(&request));
                    let cancelled = pin!(async {
                        for _ in 0..patience.unwrap_or(usize::MAX) {
                            yield_now().await;
                        }
                    });
                    match select(answer, cancelled).await {
                        Either::Left((Outcome::Busy { .. }, _)) | Either::Right(_) => {}
                        Either::Left((answer, _)) => panic!("it is kept: {answer:?}"),
                    }
                })
            });
            let waiters = waiters.collect::<Vec<_>>();
            assert!(holding.keep());
            for waiter in waiters {
                block_on(waiter).expect("no task fails");
            }
        },
        SCHEDULES,
    );
}
