//! Computations that are under way in this process, at most one for each key of a store.
//!
//! Guarantees: of all callers that join a key, one leads and the others wait for its outcome. If
//! the leader panics or is cancelled before it has an outcome, one of the waiters leads in its
//! place. A write or a removal of the key ends the sharing: later callers do not join a flight
//! that began before, and its leader does not write.
//!
//! No task is started: a leader computes on the task of its caller. The mutexes are held for a few
//! operations on maps and numbers, never across an await.

use std::any::Any;
use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

use super::envelope::TagToken;
use crate::error::Error;

/// The flights of a store. Bounded by the number of its callers.
#[derive(Default)]
pub(crate) struct Flights {
    by_key: Mutex<HashMap<Vec<u8>, Arc<Flight>>>,
    /// The size of the map, for the many writes that meet no flight.
    count: AtomicUsize,
    /// How many flights have ended.
    ended: AtomicU64,
}

/// One computation, and the callers that wait for it.
struct Flight {
    /// What the value depends on. A caller that has seen later tokens does not join.
    tokens: Vec<TagToken>,
    /// The key was written or removed since, or another flight has taken its place.
    is_superseded: AtomicBool,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    phase: Phase,
    waiters: usize,
}

enum Phase {
    /// There is a leader.
    Computing,
    /// The leader is gone, and one of the waiters is notified to take its place.
    Abandoned,
    Done(Outcome),
}

/// The encoded value, or the reason why there is none.
pub(super) type Outcome = Result<Bytes, Failure>;

/// Why a computation has no value, for all callers that waited for it.
#[derive(Clone)]
pub(super) enum Failure {
    /// The error that the computation returned.
    Computation(Arc<dyn Any + Send + Sync>),
    /// The value cannot be encoded.
    Invalid(Error),
}

/// What a caller has to do after it has joined.
pub(super) enum Role<'a> {
    Lead(Lead<'a>),
    Wait(Waiter<'a>),
    /// The caller runs inside of the computation that it would wait for.
    Recursive,
}

/// The duty to compute. If it is dropped without an outcome, a waiter leads in its place.
pub(super) struct Lead<'a> {
    flights: &'a Flights,
    key: Vec<u8>,
    flight: Arc<Flight>,
    /// Another flight of the key may have ended after the caller had read the entry.
    pub(super) must_read_again: bool,
}

pub(super) struct Waiter<'a> {
    flights: &'a Flights,
    key: Vec<u8>,
    flight: Arc<Flight>,
}

tokio::task_local! {
    /// The computations that the current task is inside of.
    static COMPUTING: Arc<Computing>;
}

struct Computing {
    flight: Arc<Flight>,
    outer: Option<Arc<Computing>>,
}

impl Flights {
    /// Returns how many flights have ended. Read it before the entry is read.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::Acquire)
    }

    /// Joins the flight of `key`, or begins one. `ended_before` is from before the caller read the
    /// entry.
    pub(super) fn join(&self, key: &[u8], tokens: &[TagToken], ended_before: u64) -> Role<'_> {
        let mut by_key = self.by_key();
        let Some(flight) = joinable(&by_key, key, tokens) else {
            return Role::Lead(self.begin(&mut by_key, key, tokens, ended_before));
        };
        if is_inside_of(flight) {
            return Role::Recursive;
        }
        let flight = flight.clone();
        let mut state = flight.state();
        if let Phase::Abandoned = state.phase {
            state.phase = Phase::Computing;
            drop(state);
            return Role::Lead(self.lead_again(key, flight));
        }
        state.waiters += 1;
        drop(state);
        Role::Wait(Waiter {
            flights: self,
            key: key.to_vec(),
            flight,
        })
    }

    /// Begins a flight of `key` unless there is one.
    pub(super) fn try_lead(
        &self,
        key: &[u8],
        tokens: &[TagToken],
        ended_before: u64,
    ) -> Option<Lead<'_>> {
        let mut by_key = self.by_key();
        match joinable(&by_key, key, tokens) {
            Some(_) => None,
            None => Some(self.begin(&mut by_key, key, tokens, ended_before)),
        }
    }

    /// Ends the sharing of values of `key` whose computation has begun. To be called before the
    /// key is written or removed.
    pub(super) fn supersede(&self, key: &[u8]) {
        // A flight that is not counted yet began after this call.
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut by_key = self.by_key();
            if let Some(flight) = by_key.remove(key) {
                flight.is_superseded.store(true, Ordering::Release);
            }
            self.count.store(by_key.len(), Ordering::SeqCst);
        }
    }

    /// The same for all keys that begin with `prefix`.
    pub(super) fn supersede_all(&self, prefix: &[u8]) {
        if self.count.load(Ordering::SeqCst) > 0 {
            let mut by_key = self.by_key();
            by_key.retain(|key, flight| {
                let is_kept = !key.starts_with(prefix);
                if !is_kept {
                    flight.is_superseded.store(true, Ordering::Release);
                }
                is_kept
            });
            self.count.store(by_key.len(), Ordering::SeqCst);
        }
    }

    /// Begins a flight in the place of any other one of the key.
    fn begin<'a>(
        &'a self,
        by_key: &mut HashMap<Vec<u8>, Arc<Flight>>,
        key: &[u8],
        tokens: &[TagToken],
        ended_before: u64,
    ) -> Lead<'a> {
        let flight = Arc::new(Flight {
            tokens: tokens.to_vec(),
            is_superseded: AtomicBool::new(false),
            state: Mutex::new(State {
                phase: Phase::Computing,
                waiters: 0,
            }),
            changed: Notify::new(),
        });
        if let Some(earlier) = by_key.insert(key.to_vec(), flight.clone()) {
            earlier.is_superseded.store(true, Ordering::Release);
        }
        self.count.store(by_key.len(), Ordering::SeqCst);
        Lead {
            flights: self,
            key: key.to_vec(),
            flight,
            must_read_again: self.ended() != ended_before,
        }
    }

    /// Returns the duty of a leader that is gone.
    fn lead_again(&self, key: &[u8], flight: Arc<Flight>) -> Lead<'_> {
        Lead {
            flights: self,
            key: key.to_vec(),
            flight,
            // The leader may have written the entry before.
            must_read_again: true,
        }
    }

    fn remove(&self, by_key: &mut HashMap<Vec<u8>, Arc<Flight>>, key: &[u8], flight: &Arc<Flight>) {
        if by_key
            .get(key)
            .is_some_and(|other| Arc::ptr_eq(other, flight))
        {
            by_key.remove(key);
            self.count.store(by_key.len(), Ordering::SeqCst);
        }
    }

    fn by_key(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Arc<Flight>>> {
        // Poisoning is ignored: no change of the map can panic halfway.
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn joinable<'a>(
    by_key: &'a HashMap<Vec<u8>, Arc<Flight>>,
    key: &[u8],
    tokens: &[TagToken],
) -> Option<&'a Arc<Flight>> {
    by_key.get(key).filter(|flight| flight.tokens == tokens)
}

/// Returns whether the current task runs inside of the computation of `flight`.
fn is_inside_of(flight: &Arc<Flight>) -> bool {
    let is_inside = |innermost: &Arc<Computing>| {
        let mut computing = Some(innermost);
        while let Some(current) = computing {
            if Arc::ptr_eq(&current.flight, flight) {
                return true;
            }
            computing = current.outer.as_ref();
        }
        false
    };
    COMPUTING.try_with(is_inside).unwrap_or(false)
}

impl Flight {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lead<'_> {
    /// Runs the computation. A call for the same key inside of it is [recursive](Role::Recursive).
    pub(super) async fn run<T>(&self, computation: impl Future<Output = T>) -> T {
        let computing = Computing {
            flight: self.flight.clone(),
            outer: COMPUTING.try_with(Clone::clone).ok(),
        };
        COMPUTING.scope(Arc::new(computing), computation).await
    }

    /// Returns whether the value must not be written.
    pub(super) fn is_superseded(&self) -> bool {
        self.flight.is_superseded.load(Ordering::Acquire)
    }

    /// Gives the outcome to all callers that wait or join later. The flight ends when the leader is
    /// dropped, after it has written the value.
    pub(super) fn publish(&self, outcome: Outcome) {
        self.flight.state().phase = Phase::Done(outcome);
        self.flight.changed.notify_waiters();
    }
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut by_key = self.flights.by_key();
        let mut state = self.flight.state();
        let is_done = matches!(state.phase, Phase::Done(_));
        if is_done || state.waiters == 0 {
            self.flights.remove(&mut by_key, &self.key, &self.flight);
            // After the entry was written, and before a reader can find no flight.
            self.flights.ended.fetch_add(1, Ordering::AcqRel);
        }
        if !is_done {
            state.phase = Phase::Abandoned;
            self.flight.changed.notify_one();
        }
    }
}

impl<'a> Waiter<'a> {
    /// Waits for the outcome. Returns the lead if the leader is gone without one.
    pub(super) async fn wait(&self) -> Result<Outcome, Lead<'a>> {
        loop {
            // Registered before the phase is read, so that no change is missed.
            let mut changed = pin!(self.flight.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.flight.state();
                match &state.phase {
                    Phase::Done(outcome) => return Ok(outcome.clone()),
                    Phase::Abandoned => {
                        state.phase = Phase::Computing;
                        return Err(self.flights.lead_again(&self.key, self.flight.clone()));
                    }
                    Phase::Computing => {}
                }
            }
            changed.await;
        }
    }

    /// Begins a flight in the place of this one, which takes too long. `None` if another waiter has
    /// done so.
    pub(super) fn take_over(&self) -> Option<Lead<'a>> {
        let mut by_key = self.flights.by_key();
        let current = by_key.get(&self.key);
        if current.is_some_and(|current| !Arc::ptr_eq(current, &self.flight)) {
            return None;
        }
        let (key, tokens) = (&self.key, &self.flight.tokens);
        let mut lead = self.flights.begin(&mut by_key, key, tokens, 0);
        lead.must_read_again = true;
        Some(lead)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut by_key = self.flights.by_key();
        let mut state = self.flight.state();
        state.waiters -= 1;
        if state.waiters == 0 && matches!(state.phase, Phase::Abandoned) {
            self.flights.remove(&mut by_key, &self.key, &self.flight);
            self.flights.ended.fetch_add(1, Ordering::AcqRel);
        }
    }
}
