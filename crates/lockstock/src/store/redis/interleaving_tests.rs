//! Grants that are pushed, and confirmed in time, late or never: every order of events, for a holder
//! and two waiters of three clients, with the real scripts on a real Redis.
//!
//! A step is one operation of a client, or the end of a lease. Before each step the keys are set to
//! what the steps before have led to. Orders that have led to the same situation go on in the same
//! ways, so each step is run once from each situation. No time passes: a lease ends by a step,
//! which removes the holder as Redis does. A late message or a frozen process is a client whose next
//! step comes late or never. The waiters are older than the age from which a grant is confirmed.
//!
//! Guarantees, after each step:
//!
//! - A client that believes that it holds the lock is the holder, so at most one does. It stops
//!   believing so by the end of its lease, because its deadline is not later.
//! - Each grant has a higher fence than the grant before, and ends only by its holder or its lease.
//! - No grant precedes that of a waiter that is in the queue and arrived earlier. A waiter leaves
//!   the queue only by a grant or by itself.
//! - A lock that is released goes to a waiter, if there is one. Each waiter behind a short grant is
//!   notified of its end.
//!
//! At the end of each order no client waits, and nothing is left in Redis.

mod keys;

use std::collections::HashMap;
use std::mem::take;

use lockstock_testkit::Redis;
use redis::{Client, Connection};

use self::keys::{CLIENTS, Holder, Server, Stored};
use super::attempt::Ownership;
use super::notifications::Notification;
use super::operation::{AcquireArgs, Operation};
use super::replies::{AcquireReply, parse_acquire, parse_release};
use crate::lease::MAX_LEASE;
use crate::store::request::ReleaseOutcome;
use crate::token::Token;

const HOUR_US: u64 = 3_600_000_000;

/// Number of lease ends that may come at any time. Further ones come when all clients wait.
const EARLY_LEASE_ENDS: u32 = 3;

const HOLDER: usize = 0;
/// The waiters, in order of arrival. Each may be frozen, withdraw or give up.
const FIRST: usize = 1;
const SECOND: usize = 2;
/// Asks after all others are done.
const NEWCOMER: usize = 3;

/// How long each client has waited when it asks, so that they arrived in this order.
const WAITED_US: [u64; CLIENTS] = [3 * HOUR_US, 2 * HOUR_US, HOUR_US, 0];

#[derive(Debug, Clone, Copy)]
enum Step {
    /// Asks for the first time, to confirm a grant, or because the lock may be free.
    Ask(usize),
    /// Leaves the queue, and gives back what was granted.
    Withdraw(usize),
    /// Leaves the queue, and accepts what was granted.
    GiveUp(usize),
    Release(usize),
    /// Does nothing any more.
    Freeze(usize),
    LeaseEnds,
}

/// What the steps so far have led to.
#[derive(Clone)]
struct State {
    stored: Stored,
    clients: [ClientState; CLIENTS],
    ownerships: [Option<Ownership>; CLIENTS],
    last_fence: u64,
    early_lease_ends: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct ClientState {
    phase: Phase,
    is_frozen: bool,
    is_queued: bool,
    /// Has a notification of a grant, unread.
    is_notified: bool,
    /// The lock may be free: the waiter knows that a lease has ended.
    may_ask: bool,
    /// How often it may ask without a reason, as after a broken connection.
    repeats: u32,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Phase {
    #[default]
    Idle,
    Waiting,
    /// Believes that it holds the lock.
    Holding,
    /// Its lease has ended, and it has not released the lock yet.
    Lost,
    Done,
}

/// All that the steps after a state depend on: the holder, the clients, and how many leases may
/// end early. The queue is in the states of the clients.
type Situation = (Option<(String, usize, bool)>, [ClientState; CLIENTS], u32);

/// How often the orders came to what the test is about.
#[derive(Debug, Default)]
struct Seen {
    operations: usize,
    /// A grant ended before its waiter confirmed it.
    retired: usize,
    /// A waiter asked after its grant had ended, and was queued again or granted a new one.
    late: usize,
    /// A waiter withdrew after it was granted the lock.
    given_back: usize,
    /// A holder released after its lease had ended.
    released_late: usize,
}

#[test]
fn no_order_of_late_confirmations_and_lease_ends_makes_two_holders() {
    let redis = Redis::start();
    let client = Client::open(redis.url()).unwrap();
    let mut connections = [(); 2].map(|()| client.get_connection().unwrap());
    let mut orders = Orders::new(&mut connections);
    let mut state = State {
        stored: Stored::default(),
        clients: Default::default(),
        ownerships: [None; CLIENTS],
        last_fence: 0,
        early_lease_ends: EARLY_LEASE_ENDS,
    };
    for waiter in [FIRST, SECOND] {
        state.clients[waiter].repeats = 1;
    }
    let state = orders.take(&state, Step::Ask(HOLDER));
    let count = orders.explore(&state);
    let situations = orders.explored.len();
    println!("{count} orders, {situations} situations, {:?}", orders.seen);
    let Seen {
        retired,
        late,
        given_back,
        released_late,
        ..
    } = orders.seen;
    for count in [retired, late, given_back, released_late] {
        assert!(count > 0, "{:?}", orders.seen);
    }
}

/// All orders of steps that continue the current one.
struct Orders<'a> {
    server: Server<'a>,
    /// The steps up to now.
    order: Vec<Step>,
    /// Number of orders that continue a situation.
    explored: HashMap<Situation, u64>,
    seen: Seen,
}

impl<'a> Orders<'a> {
    fn new(connections: &'a mut [Connection; 2]) -> Self {
        Self {
            server: Server::new(connections),
            order: Vec::new(),
            explored: HashMap::new(),
            seen: Seen::default(),
        }
    }

    /// Runs every order that continues a state, and returns their number.
    fn explore(&mut self, state: &State) -> u64 {
        let situation = self.situation(state);
        if let Some(&orders) = self.explored.get(&situation) {
            return orders;
        }
        let steps = state.possible_steps();
        if steps.is_empty() {
            self.finish(state);
        }
        let mut orders = u64::from(steps.is_empty());
        for step in steps {
            self.order.push(step);
            let next = self.take(state, step);
            orders += self.explore(&next);
            if let Some(client @ (FIRST | SECOND)) = step.client()
                && next.clients[client].phase != Phase::Done
            {
                self.order.push(Step::Freeze(client));
                let frozen = self.take(&next, Step::Freeze(client));
                orders += self.explore(&frozen);
                self.order.pop();
            }
            self.order.pop();
        }
        self.explored.insert(situation, orders);
        orders
    }

    fn situation(&self, state: &State) -> Situation {
        let holder = state.stored.holder.as_ref().map(|holder| {
            let mark = holder.value.split(':').nth(1).unwrap_or_default();
            (
                mark.to_owned(),
                self.client_of(holder.token),
                holder.is_short,
            )
        });
        (holder, state.clients.clone(), state.early_lease_ends)
    }

    /// Checks the end of an order.
    fn finish(&mut self, state: &State) {
        for client in &state.clients[..NEWCOMER] {
            let is_done = client.phase == Phase::Done || client.is_frozen;
            self.check(is_done, "no waiter waits for a lock that is free");
        }
        let mut end = state.clone();
        if state.clients.iter().any(|client| client.is_frozen) {
            // It costs the newcomer the ends of two grants at most.
            for _ in 0..3 {
                end = self.take(&end, Step::Ask(NEWCOMER));
                if end.clients[NEWCOMER].phase == Phase::Holding {
                    break;
                }
                end = self.take(&end, Step::LeaseEnds);
                // It asks when the lease ends that it knows of.
                end.clients[NEWCOMER].may_ask = true;
            }
            end = self.take(&end, Step::Release(NEWCOMER));
        }
        let is_free = end.stored.holder.is_none() && end.stored.queue.is_empty();
        self.check(is_free, "nothing is left in Redis");
    }

    /// Takes a step, checks the guarantees, and returns what it leads to.
    fn take(&mut self, before: &State, step: Step) -> State {
        let mut after = before.clone();
        let attempt = |client: usize| &self.server.attempts[client];
        let acquire = |client| AcquireArgs::waiting(attempt(client));
        let (client, operation) = match step {
            Step::Ask(client) => {
                let (args, waited_us) = (acquire(client), WAITED_US[client]);
                (client, Operation::Acquire { args, waited_us })
            }
            Step::Withdraw(client) | Step::GiveUp(client) => {
                let give_back = matches!(step, Step::Withdraw(_));
                let args = acquire(client);
                (client, Operation::Leave { args, give_back })
            }
            Step::Release(client) => {
                let (ownership, last_used) = (before.ownerships[client].unwrap(), None);
                let release = Operation::Release {
                    ownership,
                    last_used,
                };
                (client, release)
            }
            Step::Freeze(client) => {
                after.clients[client].is_frozen = true;
                return after;
            }
            Step::LeaseEnds => {
                self.end_lease(&mut after);
                return after;
            }
        };
        self.seen.operations += 1;
        let holder = before.stored.holder.as_ref();
        let is_granted = holder.is_some_and(|holder| self.client_of(holder.token) == client);
        let (reply, stored, notifications) = self.server.call(&before.stored, client, operation);
        after.stored = stored;
        let this = &mut after.clients[client];
        if let Step::Ask(_) = step {
            if this.is_notified && !is_granted {
                self.seen.late += 1;
            }
            let is_first = this.phase == Phase::Idle;
            let has_reason = take(&mut this.is_notified) || take(&mut this.may_ask);
            if !is_first && !has_reason {
                this.repeats -= 1;
            }
        }
        match operation {
            Operation::Release { .. } => {
                let released = parse_release(&reply).unwrap();
                let expected = match is_granted {
                    true => ReleaseOutcome::Released,
                    false => ReleaseOutcome::NotHeld,
                };
                self.seen.released_late += usize::from(!is_granted);
                this.phase = Phase::Done;
                self.check(released == expected, "a release ends its own grant only");
            }
            _ => match parse_acquire(&self.server.attempts[client], &reply).unwrap() {
                AcquireReply::Granted(grant) => {
                    let has_withdrawn = matches!(step, Step::Withdraw(_));
                    let is_whole = grant.deadline > reply.sent_at + MAX_LEASE / 2;
                    this.is_queued = false;
                    this.phase = Phase::Holding;
                    after.ownerships[client] = Some(grant.ownership);
                    self.check(is_whole, "a confirmed grant has its whole lease");
                    self.check(!has_withdrawn, "a withdrawal gives the lock back");
                }
                AcquireReply::Busy(holder) => {
                    let has_left = !matches!(step, Step::Ask(_));
                    this.is_queued = !has_left;
                    this.phase = match has_left {
                        true => Phase::Done,
                        false => Phase::Waiting,
                    };
                    let is_given_back = is_granted && matches!(step, Step::Withdraw(_));
                    self.seen.given_back += usize::from(is_given_back);
                    self.check(holder.queued != has_left, "a waiter is in the queue");
                    let has_lost = is_granted && !is_given_back;
                    self.check(!has_lost, "a grant is there until its lease ends");
                }
            },
        }
        self.notify(&mut after, &notifications);
        self.check_step(before, client, &mut after);
        after
    }

    /// Ends the lease of the holder. Each other waiter knows of its end, or of an earlier one.
    fn end_lease(&mut self, state: &mut State) {
        state.early_lease_ends = state.early_lease_ends.saturating_sub(1);
        let holder = state.stored.holder.take().unwrap();
        let granted = self.client_of(holder.token);
        for (client, this) in state.clients.iter_mut().enumerate() {
            match this.phase {
                Phase::Holding if client == granted => this.phase = Phase::Lost,
                Phase::Waiting if client == granted => self.seen.retired += 1,
                Phase::Waiting => this.may_ask = true,
                _ => {}
            }
        }
    }

    /// Delivers notifications. All but that of a grant are read at once.
    fn notify(&self, state: &mut State, notifications: &[(Token, Notification)]) {
        let mut knows_end = [false; CLIENTS];
        let mut is_short = false;
        for &(token, notification) in notifications {
            let client = self.client_of(token);
            let this = &mut state.clients[client];
            match notification {
                Notification::Held { lease, .. } => {
                    is_short |= lease < MAX_LEASE;
                    this.is_queued = false;
                    let is_waiting = this.phase == Phase::Waiting;
                    self.check(!this.is_notified, "a waiter is granted the lock once");
                    // Otherwise the reply to the same call was the grant.
                    this.is_notified = is_waiting;
                    self.check(
                        !is_waiting || lease < MAX_LEASE,
                        "a grant that is pushed to an old waiter is short",
                    );
                }
                Notification::Soon { .. } | Notification::Ask => {
                    knows_end[client] = true;
                    this.may_ask = true;
                }
                other => panic!("{other:?} after {:?}", self.order),
            }
        }
        for (this, knows_end) in state.clients.iter().zip(knows_end) {
            let is_behind = is_short && this.is_queued;
            self.check(
                knows_end || !is_behind,
                "a waiter knows when a short grant ends",
            );
        }
    }

    /// Checks the guarantees after an operation of `actor`.
    fn check_step(&self, before: &State, actor: usize, after: &mut State) {
        let holder = after.stored.holder.clone();
        for (client, this) in after.clients.iter().enumerate() {
            if this.phase == Phase::Holding {
                let ownership = after.ownerships[client].unwrap();
                let is_holder = holder.as_ref().is_some_and(|holder| {
                    (holder.token, holder.fence, holder.is_short)
                        == (ownership.token, ownership.last_fence, false)
                });
                self.check(is_holder, &format!("client {client} is the holder"));
            }
        }
        let waiting = (0..CLIENTS).filter(|client| after.clients[*client].is_queued);
        let waiting = waiting.collect::<Vec<_>>();
        let queue = after.stored.queue.iter().map(|(member, _)| {
            let token = member.rsplit(':').next().and_then(Token::parse);
            self.client_of(token.unwrap())
        });
        let queue = queue.collect::<Vec<_>>();
        self.check(queue == waiting, "the queue is in order of arrival");
        let ended = before.stored.holder.as_ref().filter(|before| {
            let is_same = |holder: &Holder| holder.fence == before.fence;
            !holder.as_ref().is_some_and(is_same)
        });
        let is_by_itself = ended.is_none_or(|ended| self.client_of(ended.token) == actor);
        self.check(is_by_itself, "no client ends the grant of another");
        let Some(holder) = holder else {
            let is_left = ended.is_none() || queue.is_empty();
            return self.check(is_left, "a lock that is released goes to a waiter");
        };
        if before.stored.holder.is_some() && ended.is_none() {
            return;
        }
        let granted = self.client_of(holder.token);
        self.check(holder.fence > after.last_fence, "fences rise");
        after.last_fence = holder.fence;
        let is_done = after.clients[granted].phase == Phase::Done;
        self.check(!is_done, "no client is granted the lock after it has left");
        let is_first = queue.first().is_none_or(|first| granted < *first);
        self.check(is_first, "the lock goes to the first in the queue");
    }

    fn check(&self, holds: bool, what: &str) {
        assert!(holds, "violated: {what}; after {:?}", self.order);
    }

    fn client_of(&self, token: Token) -> usize {
        let mut tokens = self
            .server
            .attempts
            .iter()
            .map(|attempt| attempt.request.token);
        tokens.position(|known| known == token).unwrap()
    }
}

impl Step {
    fn client(self) -> Option<usize> {
        match self {
            Self::Ask(client)
            | Self::Withdraw(client)
            | Self::GiveUp(client)
            | Self::Release(client)
            | Self::Freeze(client) => Some(client),
            Self::LeaseEnds => None,
        }
    }
}

impl State {
    fn possible_steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for (client, this) in self.clients[..NEWCOMER].iter().enumerate() {
            if this.is_frozen {
                continue;
            }
            match this.phase {
                Phase::Idle => steps.push(Step::Ask(client)),
                Phase::Waiting => {
                    if this.is_notified || this.may_ask || this.repeats > 0 {
                        steps.push(Step::Ask(client));
                    }
                    if client != HOLDER {
                        steps.extend([Step::Withdraw(client), Step::GiveUp(client)]);
                    }
                }
                Phase::Holding | Phase::Lost => steps.push(Step::Release(client)),
                Phase::Done => {}
            }
        }
        if self.stored.holder.is_some() && (self.early_lease_ends > 0 || steps.is_empty()) {
            steps.push(Step::LeaseEnds);
        }
        steps
    }
}
