//! The waiters of one name in this process: they stand in line here, and only the first of
//! them speaks to Redis. When it has the lock, it passes it on to the next in line without
//! asking anybody (cohort hand-over: Dice, Marathe, Shavit 2012, "Lock cohorting").
//!
//! Passing on is fair and safe by four bounds. Of one grant at most [`MAX_LOCAL_HANDOVERS`] holders
//! in a row, and none later than [`MAX_LOCAL_HANDOVER_TIME`] after it, so that other processes are passed
//! over no longer than that. Each holder has the same lease, at least nine tenths of it left,
//! and no more than that, so that nothing has to be renewed meanwhile and a holder that crashes
//! is in nobody's way for longer than it should be. Each has a fence of its own, out of a
//! block that was minted with the grant. And none once the connection broke: the store may
//! have forgotten us.

use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::notifications::Notifications;
use crate::key::Keys;
use crate::store::request::{Grant, Ownership, Request};
use crate::token::Token;

/// How many holders one grant is for, at most.
pub(crate) const MAX_LOCAL_HANDOVERS: u64 = 128;
/// For how long after a grant it is passed on.
const MAX_LOCAL_HANDOVER_TIME: Duration = Duration::from_millis(5);
/// After the end of a lease the next in line waits for so long before asking: the store may
/// be that late.
const AFTER_LEASE: Duration = Duration::from_millis(1);
/// For so long may the first be late. Let forward too early, the next only asks for itself.
const AFTER_WAKING: Duration = Duration::from_millis(100);

/// The lines of all names.
#[derive(Debug, Clone)]
pub(super) struct LocalQueues(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    wakes: Notifications,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<Arc<Keys>, LocalQueue>,
    /// Counts those who were first, of all lines.
    turns: u64,
}

#[derive(Debug, Default)]
struct LocalQueue {
    /// Whose turn it is: a place with another one is not in front any more.
    turn: u64,
    /// What the first has, once it has the lock.
    tenure: Option<LocalGrant>,
    /// Until when the first was told that the lock is kept.
    kept: Option<Instant>,
    /// When the first wakes at the latest, while it waits for the lock.
    wakes: Option<Instant>,
    /// Those behind the first.
    behind: VecDeque<Waiter>,
    /// How many may be behind before those who gave up are looked for.
    sweep_at: usize,
    watch: Option<Watch>,
}

/// Sees to it that those behind go on when the first is at its end. Ends with the line.
#[derive(Debug)]
struct Watch {
    wakes: Instant,
    task: AbortHandle,
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A lock that this process has.
#[derive(Debug, Clone)]
pub(super) struct LocalGrant {
    pub(super) claim: Ownership,
    pub(super) lease: Duration,
    pub(super) ends: Instant,
    pub(super) since: Instant,
    /// The fences that are left of the grant's.
    pub(super) fences: std::ops::RangeInclusive<u64>,
    /// How many connections had broken when the lock was granted.
    pub(super) breaks: u64,
}

#[derive(Debug)]
struct Waiter {
    attempt: Arc<Request>,
    told: oneshot::Sender<LocalOutcome>,
}

/// How standing in line ended.
#[derive(Debug)]
pub(crate) enum LocalOutcome {
    /// First: ask Redis.
    First(QueueHead),
    /// The lock was passed on.
    Passed(Grant),
    /// The lock is kept until then, which is longer than the wait.
    Kept(Instant),
    /// The store did not answer the first in line.
    Failed(String),
    /// The wait is over.
    TooLate,
}

impl LocalQueue {
    /// Forgets those who gave up, now and then: so often that they never outnumber the
    /// others by much, so seldom that it costs each newcomer next to nothing.
    fn sweep(&mut self) {
        if self.behind.len() >= self.sweep_at {
            self.behind.retain(|waiter| !waiter.told.is_closed());
            self.sweep_at = (self.behind.len() * 2).max(64);
        }
    }

    /// When it is certain that the first does nothing any more for those behind: its lease has
    /// ended; or it should have woken and has not, because nobody polls it.
    fn front_ends(&self) -> Option<Instant> {
        match &self.tenure {
            Some(tenure) => Some(tenure.ends + AFTER_LEASE),
            None => self.wakes.map(|wakes| wakes + AFTER_WAKING),
        }
    }

    /// What `waiter` would be passed.
    fn passable(&mut self, waiter: &Waiter, breaks: u64, now: Instant) -> Option<Grant> {
        let tenure = self.tenure.as_mut()?;
        let left = tenure.ends.saturating_duration_since(now);
        let fair = now < tenure.since + MAX_LOCAL_HANDOVER_TIME;
        let lease = waiter.attempt.lease;
        let safe = lease == tenure.lease && left >= lease * 9 / 10 && left <= lease;
        if !fair || !safe || tenure.breaks != breaks {
            return None;
        }
        Some(Grant {
            claim: tenure.claim,
            fence: tenure.fences.next()?,
            deadline: tenure.ends,
            place: None,
        })
    }
}

impl LocalQueues {
    pub(super) fn new(wakes: Notifications, mut losers: mpsc::UnboundedReceiver<Token>) -> Self {
        let state = Mutex::default();
        let lines = Arc::new(Inner { state, wakes });
        // Ends with the wakes, which the lines keep.
        let inner = Arc::downgrade(&lines);
        tokio::spawn(async move {
            while let Some(token) = losers.recv().await
                && let Some(inner) = inner.upgrade()
            {
                Self(inner).taken_away(token);
            }
        });
        Self(lines)
    }

    /// Lets the next in line step forward where the first had the lock by `token`, and has it
    /// no longer: it may hang, and not know.
    fn taken_away(&self, token: Token) {
        let mut state = self.state();
        let lost = |line: &LocalQueue| {
            let tenure = line.tenure.as_ref();
            tenure.is_some_and(|tenure| tenure.claim.token == token)
        };
        let line = state.lines.iter().find(|(_, line)| lost(line));
        if let Some((keys, turn)) = line.map(|(keys, line)| (keys.clone(), line.turn)) {
            let next = self.next(&mut state, &keys, turn);
            drop(state);
            next.map(NextWaiter::call);
        }
    }

    /// Stands in line for the lock until first, or until `until`.
    pub(super) async fn stand(&self, attempt: &Arc<Request>) -> LocalOutcome {
        let keys = &attempt.keys;
        {
            let mut state = self.state();
            let state = &mut *state;
            let Some(line) = state.lines.get_mut(keys) else {
                state.turns += 1;
                let line = LocalQueue {
                    turn: state.turns,
                    ..LocalQueue::default()
                };
                state.lines.insert(keys.clone(), line);
                return LocalOutcome::First(self.place(keys, state.turns));
            };
            if let Some(ends) = line.kept
                && Instant::now() < ends
                && attempt.until.is_some_and(|until| until < ends)
            {
                return LocalOutcome::Kept(ends);
            }
            let (told, hears) = oneshot::channel();
            line.sweep();
            // There it is found when the future is dropped.
            *attempt.line() = Some(hears);
            let attempt = attempt.clone();
            line.behind.push_back(Waiter { attempt, told });
            self.watch(keys, line);
        }
        let told = poll_fn(|context| match &mut *attempt.line() {
            // Lines are never dropped with somebody in them.
            Some(hears) => Pin::new(hears)
                .poll(context)
                .map(|told| told.unwrap_or(LocalOutcome::TooLate)),
            None => Poll::Ready(LocalOutcome::TooLate),
        });
        let told = match attempt.until {
            None => told.await,
            Some(until) => tokio::select! {
                biased;
                told = told => told,
                () = sleep_until(until) => {
                    return attempt.leave_line().unwrap_or(LocalOutcome::TooLate);
                }
            },
        };
        attempt.line().take();
        told
    }

    /// Sees to it that those in `line` do not wait for a holder beyond its lease: it may hang.
    fn watch(&self, keys: &Arc<Keys>, line: &mut LocalQueue) {
        let Some(wakes) = line.front_ends() else {
            return;
        };
        // A watch that wakes too early sleeps again.
        let watched = line
            .watch
            .as_ref()
            .is_some_and(|watch| watch.wakes <= wakes);
        if watched || line.behind.is_empty() {
            return;
        }
        let (all, keys) = (self.clone(), keys.clone());
        let task = tokio::spawn(async move {
            let mut next = Some(wakes);
            while let Some(wakes) = next {
                sleep_until(wakes).await;
                next = all.look(&keys);
            }
        });
        line.watch = Some(Watch {
            wakes,
            task: task.abort_handle(),
        });
    }

    /// Lets the next in line step forward if the lease of the first has ended, and answers when
    /// to look again.
    fn look(&self, keys: &Arc<Keys>) -> Option<Instant> {
        let mut state = self.state();
        let line = state.lines.get_mut(keys)?;
        match (line.front_ends(), &mut line.watch) {
            (Some(ends), Some(watch)) if ends > Instant::now() => {
                watch.wakes = ends;
                Some(ends)
            }
            (ends, watch) => {
                // Whoever steps forward is watched when it has the lock.
                *watch = None;
                ends?;
                let turn = line.turn;
                let next = self.next(&mut state, keys, turn);
                drop(state);
                next.map(NextWaiter::call);
                None
            }
        }
    }

    /// Whose turn it is after `turn`, unless that is over. Whoever is not called leaves the
    /// turn to those behind.
    fn next(&self, state: &mut State, keys: &Arc<Keys>, turn: u64) -> Option<NextWaiter> {
        let line = state.lines.get_mut(keys)?;
        if line.turn != turn {
            return None;
        }
        line.tenure = None;
        line.wakes = None;
        while let Some(waiter) = line.behind.pop_front() {
            if !waiter.told.is_closed() {
                state.turns += 1;
                line.turn = state.turns;
                let place = self.place(keys, line.turn);
                return Some(NextWaiter { waiter, place });
            }
        }
        state.lines.remove(keys);
        None
    }

    fn place(&self, keys: &Arc<Keys>, turn: u64) -> QueueHead {
        QueueHead {
            lines: Some(self.clone()),
            keys: keys.clone(),
            turn,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Held for a few operations of the map, and never across an await.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever steps forward next.
#[derive(Debug)]
pub(super) struct NextWaiter {
    waiter: Waiter,
    place: QueueHead,
}

impl NextWaiter {
    pub(super) fn attempt(&self) -> &Arc<Request> {
        &self.waiter.attempt
    }

    /// Whether somebody waits behind it.
    pub(super) fn is_waited_for(&self) -> bool {
        self.place.is_waited_for()
    }

    /// Tells it. Whether it was still there; else those behind it step forward.
    pub(super) fn call(self) -> bool {
        let told = self.waiter.told.send(LocalOutcome::First(self.place));
        told.is_ok()
    }
}

/// The first place in a line. Dropping it lets the next one step forward.
#[derive(Debug)]
pub(crate) struct QueueHead {
    /// `None` once nobody's.
    lines: Option<LocalQueues>,
    keys: Arc<Keys>,
    turn: u64,
}

impl QueueHead {
    /// Whether somebody waits behind.
    pub(super) fn is_waited_for(&self) -> bool {
        self.in_line(|_, line| !line.behind.is_empty())
            .unwrap_or_default()
    }

    /// Until then we are heard of again.
    pub(super) fn sleeps_until(&self, wakes: Instant) {
        self.in_line(|lines, line| {
            line.wakes = Some(wakes);
            lines.watch(&self.keys, line);
        });
    }

    /// The lock is ours.
    pub(super) fn hold(&self, tenure: LocalGrant) {
        self.in_line(|lines, line| {
            line.tenure = Some(tenure);
            line.kept = None;
            lines.watch(&self.keys, line);
        });
    }

    /// The lock is ours until then.
    pub(crate) fn set_ends(&self, ends: Instant) {
        self.in_line(|lines, line| {
            if let Some(tenure) = &mut line.tenure {
                tenure.ends = ends;
                lines.watch(&self.keys, line);
            }
        });
    }

    /// Passes the lock on to the next in line, if that is fair and safe.
    pub(crate) fn pass_on(&self) -> bool {
        let Some(lines) = &self.lines else {
            return false;
        };
        let now = Instant::now();
        let breaks = lines.0.wakes.breaks();
        let mut state = lines.state();
        let state = &mut *state;
        let Some(line) = state.lines.get_mut(&self.keys) else {
            return false;
        };
        if line.turn != self.turn {
            return false;
        }
        while let Some(next) = line.behind.pop_front() {
            let Some(grant) = line.passable(&next, breaks, now) else {
                line.behind.push_front(next);
                return false;
            };
            state.turns += 1;
            let place = Some(lines.place(&self.keys, state.turns));
            match next
                .told
                .send(LocalOutcome::Passed(Grant { place, ..grant }))
            {
                Ok(()) => {
                    line.turn = state.turns;
                    return true;
                }
                // It left in this moment. Dropped as it is, its place would lock the lines
                // a second time.
                Err(LocalOutcome::Passed(mut grant)) => {
                    grant.place.iter_mut().for_each(QueueHead::forget)
                }
                Err(_) => {}
            }
        }
        false
    }

    /// Whose turn it is next. It is not ours any more.
    pub(super) fn next(&self) -> Option<NextWaiter> {
        let lines = self.lines.as_ref()?;
        lines.next(&mut lines.state(), &self.keys, self.turn)
    }

    /// Lets the next in line step forward, to ask for itself.
    pub(crate) fn step_back(&self) {
        self.next().map(NextWaiter::call);
    }

    /// Tells those in line who cannot wait until `ends` that they wait in vain, and those who
    /// are still to come.
    pub(crate) fn tell_kept(&self, ends: Instant) {
        self.in_line(|_, line| {
            line.kept = Some(ends);
            let in_vain = |waiter: &Waiter| waiter.attempt.until.is_some_and(|until| until < ends);
            let (losing, waiting) = std::mem::take(&mut line.behind)
                .into_iter()
                .partition::<VecDeque<_>, _>(in_vain);
            line.behind = waiting;
            for loser in losing {
                let _ = loser.told.send(LocalOutcome::Kept(ends));
            }
        });
    }

    /// Tells all in line that the store does not answer.
    pub(super) fn tell_failed(&self, why: &str) {
        self.in_line(|_, line| {
            for waiter in line.behind.drain(..) {
                let _ = waiter.told.send(LocalOutcome::Failed(why.to_owned()));
            }
        });
    }

    fn forget(&mut self) {
        self.lines = None;
    }

    fn in_line<T>(&self, act: impl FnOnce(&LocalQueues, &mut LocalQueue) -> T) -> Option<T> {
        let lines = self.lines.as_ref()?;
        let mut state = lines.state();
        let line = state.lines.get_mut(&self.keys)?;
        (line.turn == self.turn).then(|| act(lines, line))
    }
}

impl Drop for QueueHead {
    fn drop(&mut self) {
        self.step_back();
    }
}
