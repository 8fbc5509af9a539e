//! Random histories of one lock and several clients, each compared step by step with a plain
//! model of a lock (`reference.rs`): one holder, waiters in order of arrival, fences that rise,
//! exact remaining times of a busy lock, and guards that detect their loss. A failing history is
//! shrunk and printed.
//!
//! In memory the clock is paused and advances only by steps of the history, so that times are
//! exact and histories cheap. On Redis time is real, and only what does not depend on time is
//! compared. There the clients of every other history are processes of their own to Redis, and their
//! waiters grow so old that they have to confirm what they are granted.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/soak.rs"]
mod soak;

mod reference;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockstock::{Acquired, Busy, Guard, Lock, Store};
use lockstock_testkit::Redis;
use proptest::test_runner::Config;
use proptest_state_machine::{StateMachineTest, prop_state_machine};
use reference::{Client, Model, Reference, Step, UNIT, lease_of, wait_of};
use soak::size;
use tokio::runtime::{Builder, Runtime};
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Longer than anything takes on Redis on a busy machine, and far shorter than any lease there
/// except [`BRIEF`].
const TIMEOUT: Duration = Duration::from_secs(15);
const BRIEF: Duration = Duration::from_millis(60);
/// Age from which a waiter of another process confirms a grant.
const CONFIRMED_AGE: Duration = Duration::from_millis(250);

static REDIS: LazyLock<Redis> = LazyLock::new(Redis::start);

fn config(cases: u32) -> Config {
    Config {
        cases,
        // The printed history is enough to repeat a failure.
        failure_persistence: None,
        // On Redis each attempt to shrink a history may take the whole timeout.
        max_shrink_time: 60_000,
        ..Config::default()
    }
}

prop_state_machine! {
    #![proptest_config(config(size(600, 50_000)))]
    #[test]
    fn the_memory_store_matches_the_model(sequential 1..40 => Real<false>);
}

prop_state_machine! {
    #![proptest_config(config(size(25, 2_000)))]
    #[test]
    fn the_redis_store_matches_the_model(sequential 1..40 => Real<true>);
}

/// The lock, and the state of each client.
struct Real<const ON_REDIS: bool> {
    /// That of each client: one for all, or one for each.
    stores: Vec<Store>,
    ages: bool,
    name: String,
    begun: Instant,
    hands: Vec<Hand>,
    last_fence: u64,
}

enum Hand {
    Idle,
    Waiting(JoinHandle<lockstock::Result<Acquired>>),
    Guard(Guard),
}

/// The outcome of a step.
#[derive(Default)]
struct Outcome {
    rejected: Vec<(usize, Busy)>,
    ended: Option<lockstock::Result<()>>,
}

impl<const ON_REDIS: bool> StateMachineTest for Real<ON_REDIS> {
    type SystemUnderTest = (Runtime, Self);
    type Reference = Reference<ON_REDIS>;

    fn init_test(model: &Model) -> Self::SystemUnderTest {
        static CASES: AtomicU64 = AtomicU64::new(0);
        let mut runtime = Builder::new_current_thread();
        match ON_REDIS {
            true => runtime.enable_all(),
            // Without I/O a yield costs no system call.
            false => runtime.enable_time().start_paused(true),
        };
        let runtime = runtime.build().unwrap();
        let case = CASES.fetch_add(1, Ordering::Relaxed);
        let is_shared = !ON_REDIS || case.is_multiple_of(2);
        let stores = runtime.block_on(async {
            let url = REDIS.url();
            let connect = || Store::connect_within(&url, TIMEOUT);
            let mut stores = Vec::<Store>::new();
            for client in 0..model.clients.len() {
                stores.push(match ON_REDIS {
                    true if is_shared && client > 0 => stores[0].clone(),
                    true => connect().await.unwrap(),
                    false if client > 0 => stores[0].clone(),
                    false => Store::memory(),
                });
            }
            stores
        });
        let real = Self {
            begun: runtime.block_on(async { Instant::now() }),
            stores,
            ages: !is_shared,
            name: format!("case-{case}"),
            hands: model.clients.iter().map(|_| Hand::Idle).collect(),
            last_fence: 0,
        };
        (runtime, real)
    }

    fn apply(
        (runtime, mut real): Self::SystemUnderTest,
        model: &Model,
        step: Step,
    ) -> Self::SystemUnderTest {
        runtime.block_on(async {
            let mut outcome = real.execute(&step, model).await;
            real.settle(model, &mut outcome).await;
            real.compare(model, outcome).await;
        });
        (runtime, real)
    }
}

impl<const ON_REDIS: bool> Real<ON_REDIS> {
    fn lock(&self, client: usize, lease: Duration) -> Lock {
        let store = &self.stores[client];
        store.lock(&self.name).lease(lease).unwrap()
    }

    fn take(&mut self, client: usize) -> Guard {
        match std::mem::replace(&mut self.hands[client], Hand::Idle) {
            Hand::Guard(guard) => guard,
            _ => panic!("client {client} has no guard"),
        }
    }

    fn guard(&mut self, client: usize) -> &mut Guard {
        match &mut self.hands[client] {
            Hand::Guard(guard) => guard,
            _ => panic!("client {client} has no guard"),
        }
    }

    async fn execute(&mut self, step: &Step, model: &Model) -> Outcome {
        let mut outcome = Outcome::default();
        let hands_over = matches!(step, Step::Release { .. } | Step::Drop { .. });
        let is_awaited = self
            .hands
            .iter()
            .any(|hand| matches!(hand, Hand::Waiting(_)));
        if self.ages && hands_over && is_awaited {
            sleep(CONFIRMED_AGE).await;
        }
        match *step {
            Step::Try { client, lease } => {
                let lock = self.lock(client, millis(lease_of(lease)));
                self.hands[client] =
                    Hand::Waiting(tokio::spawn(async move { lock.try_acquire().await }));
            }
            Step::WaitBriefly { client, lease } => {
                let lock = self.lock(client, millis(lease_of(lease)));
                let wait = match ON_REDIS {
                    true => Duration::from_millis(10),
                    false => Duration::from_nanos(1),
                };
                let answer = lock.acquire_within(wait).await;
                self.hands[client] = Hand::Waiting(tokio::spawn(async move { answer }));
            }
            Step::Wait {
                client,
                lease,
                wait,
            } => {
                let lock = self.lock(client, millis(lease_of(lease)));
                self.hands[client] = Hand::Waiting(tokio::spawn(async move {
                    match wait {
                        Some(wait) => lock.acquire_within(millis(wait_of(wait))).await,
                        None => lock.acquire().await.map(Acquired::Held),
                    }
                }));
            }
            Step::LoseIt { client } => {
                let Acquired::Held(guard) = self.lock(client, BRIEF).try_acquire().await.unwrap()
                else {
                    panic!("it was free")
                };
                guard.lost().await;
                self.hands[client] = Hand::Guard(guard);
            }
            Step::Cancel { client } => match std::mem::replace(&mut self.hands[client], Hand::Idle)
            {
                Hand::Waiting(waiting) => waiting.abort(),
                _ => panic!("client {client} does not wait"),
            },
            Step::Release { client } => outcome.ended = Some(self.take(client).release().await),
            Step::Keep { client } => outcome.ended = Some(self.take(client).keep().await),
            Step::Extend { client, by } => {
                outcome.ended = Some(self.guard(client).extend(millis(by * UNIT)).await);
            }
            Step::Renew { client } => outcome.ended = Some(self.guard(client).renew().await),
            Step::Drop { client } => drop(self.take(client)),
            Step::Pass { .. } => sleep_until(self.begun + millis(model.now)).await,
        }
        outcome
    }

    /// Lets every consequence of the step take effect.
    async fn settle(&mut self, model: &Model, outcome: &mut Outcome) {
        if !ON_REDIS {
            // All tasks wait only for the clock, which is paused.
            for _ in 0..50 {
                yield_now().await;
            }
            return self.collect(outcome).await;
        }
        // Redis replies to this after it has received the requests before it.
        yield_now().await;
        for store in &self.stores {
            store.ping().await.unwrap();
        }
        let begun = Instant::now();
        loop {
            self.collect(outcome).await;
            if self.agrees(model) || begun.elapsed() > TIMEOUT {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
        if model.holder.is_none() {
            // A lock that was dropped or lost is free soon, and not at once.
            let probe = self.lock(0, TIMEOUT).acquire_within(TIMEOUT).await.unwrap();
            let Acquired::Held(guard) = probe else {
                panic!("it has no holder: {probe:?}")
            };
            guard.release().await.unwrap();
        }
    }

    /// Collects the answers of the waiters that have finished.
    async fn collect(&mut self, outcome: &mut Outcome) {
        for (client, hand) in self.hands.iter_mut().enumerate() {
            let Hand::Waiting(waiting) = hand else {
                continue;
            };
            if !waiting.is_finished() {
                continue;
            }
            *hand = match waiting.await.unwrap().unwrap() {
                Acquired::Held(guard) => Hand::Guard(guard),
                Acquired::Busy(busy) => {
                    outcome.rejected.push((client, busy));
                    Hand::Idle
                }
            };
        }
    }

    fn agrees(&self, model: &Model) -> bool {
        self.hands.iter().zip(&model.clients).all(|pair| {
            matches!(
                pair,
                (Hand::Idle, Client::Idle)
                    | (Hand::Waiting(_), Client::Waiting)
                    | (Hand::Guard(_), Client::Guard { .. })
            )
        })
    }

    async fn compare(&mut self, model: &Model, outcome: Outcome) {
        let hands = self.hands.iter().map(|hand| match hand {
            Hand::Idle => "idle".to_owned(),
            Hand::Waiting(_) => "waiting".to_owned(),
            Hand::Guard(guard) => format!("guard {}", guard.fence()),
        });
        let hands: Vec<_> = hands.collect();
        assert!(
            self.agrees(model),
            "{hands:?} instead of {:?}",
            model.clients
        );
        // Timers are late by up to two milliseconds for each lease that ended; on Redis the
        // clock of the model is paused.
        let inexact = millis(if ON_REDIS { 1000 * UNIT / 20 } else { 95 });
        let near = |one: Duration, other: Duration| one.abs_diff(other) <= inexact;

        let (mut owners, last_fence) = (0, &mut self.last_fence);
        for &client in &model.granted {
            let Hand::Guard(guard) = &self.hands[client] else {
                panic!("client {client} was granted the lock")
            };
            assert!(guard.fence() > *last_fence, "of client {client}");
            *last_fence = guard.fence();
        }
        for (client, hand) in self.hands.iter().enumerate() {
            let Hand::Guard(guard) = hand else { continue };
            let lost = timeout(Duration::ZERO, guard.lost()).await.is_ok();
            assert_eq!(
                lost,
                !model.is_holder(client),
                "whether client {client} has lost the lock"
            );
            assert_eq!(lost, guard.remaining().is_zero());
            if !lost {
                owners += 1;
                let remaining = millis(model.holder.unwrap().ends - model.now);
                assert!(
                    near(guard.remaining(), remaining),
                    "{:?} of {remaining:?}",
                    guard.remaining()
                );
            }
        }
        assert!(owners <= 1, "{owners} at once");

        let expected: Vec<_> = model
            .rejected
            .iter()
            .enumerate()
            .filter_map(|(client, busy)| Some((client, (*busy)?)))
            .collect();
        assert_eq!(
            expected.len(),
            outcome.rejected.len(),
            "{expected:?}, not {:?}",
            outcome.rejected
        );
        for ((client, expected), (rejected, busy)) in expected.into_iter().zip(outcome.rejected) {
            assert_eq!(client, rejected);
            assert_eq!(busy.is_kept(), expected.kept);
            let remaining = busy.retry_after().unwrap();
            assert!(
                near(remaining, millis(expected.remaining)),
                "{remaining:?} of {}",
                expected.remaining
            );
        }
        match (model.was_holder, outcome.ended) {
            (None, None) | (Some(true), Some(Ok(()))) => {}
            (Some(false), Some(Err(error))) if error.is_lost() => {}
            (was_holder, ended) => panic!("{ended:?} with {was_holder:?} in the model"),
        }
    }
}

fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}
