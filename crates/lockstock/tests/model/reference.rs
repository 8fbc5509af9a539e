//! The model of a lock: a holder and a queue, without threads, network or clock; and the steps
//! that a client may take.

use std::collections::VecDeque;

use proptest::prelude::*;
use proptest::strategy::{BoxedStrategy, Union};
use proptest_state_machine::ReferenceStateMachine;

/// Times are in milliseconds since the start. Steps happen at multiples of this.
pub(crate) const UNIT: u64 = 10_000;
/// No two events coincide: a lease ends a little after a multiple of the unit, and later with
/// each lease that ended before it; a wait ends half-way between two multiples.
const LEASE_ENDS: u64 = 100;
const WAIT_ENDS: u64 = UNIT / 2;

const CLIENTS: usize = 5;

/// The next action of a client, or the passage of time. Leases and waits are in units.
#[derive(Debug, Clone)]
pub(crate) enum Step {
    Try {
        client: usize,
        lease: u64,
    },
    /// Without `wait` there is no limit.
    Wait {
        client: usize,
        lease: u64,
        wait: Option<u64>,
    },
    /// A wait so short that no other event happens before its end.
    WaitBriefly {
        client: usize,
        lease: u64,
    },
    /// Acquires the free lock and waits until it is lost.
    LoseIt {
        client: usize,
    },
    Cancel {
        client: usize,
    },
    Release {
        client: usize,
    },
    Keep {
        client: usize,
    },
    Extend {
        client: usize,
        by: u64,
    },
    Renew {
        client: usize,
    },
    Drop {
        client: usize,
    },
    Pass {
        units: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Client {
    Idle,
    Waiting,
    /// Has a guard, of a lock that may be lost.
    Guard {
        lease: u64,
    },
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Holder {
    pub(crate) client: usize,
    pub(crate) ends: u64,
    pub(crate) kept: bool,
}

#[derive(Debug, Clone)]
struct Waiter {
    client: usize,
    lease: u64,
    until: Option<u64>,
}

/// The answer to a rejected waiter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Busy {
    pub(crate) kept: bool,
    pub(crate) remaining: u64,
}

#[derive(Debug, Clone)]
pub(crate) struct Model {
    pub(crate) now: u64,
    pub(crate) holder: Option<Holder>,
    queue: VecDeque<Waiter>,
    pub(crate) clients: [Client; CLIENTS],
    // The outcome of the last step:
    /// The clients that were granted the lock, in order.
    pub(crate) granted: Vec<usize>,
    pub(crate) rejected: [Option<Busy>; CLIENTS],
    /// Whether the client held the lock when it used its guard.
    pub(crate) was_holder: Option<bool>,
}

impl Model {
    pub(crate) fn is_holder(&self, client: usize) -> bool {
        self.holder
            .is_some_and(|holder| holder.client == client && !holder.kept)
    }

    fn grant(&mut self, client: usize, lease: u64) {
        self.holder = Some(Holder {
            client,
            ends: self.now + lease,
            kept: false,
        });
        self.clients[client] = Client::Guard { lease };
        self.granted.push(client);
    }

    fn hand_over(&mut self) {
        self.holder = None;
        if let Some(next) = self.queue.pop_front() {
            self.grant(next.client, next.lease);
        }
    }

    fn reject(&mut self, client: usize) {
        let holder = self.holder.expect("waiters have a holder before them");
        let remaining = holder.ends - self.now;
        self.rejected[client] = Some(Busy {
            kept: holder.kept,
            remaining,
        });
        self.clients[client] = Client::Idle;
    }

    fn acquire(&mut self, client: usize, lease: u64, until: Option<u64>) {
        let Some(holder) = self.holder else {
            return self.grant(client, lease);
        };
        let must_time_out = |until| until <= self.now || holder.kept && until < holder.ends;
        if until.is_some_and(must_time_out) {
            return self.reject(client);
        }
        self.clients[client] = Client::Waiting;
        self.queue.push_back(Waiter {
            client,
            lease,
            until,
        });
    }

    /// Ends a guard, and returns whether its client held the lock.
    fn end(&mut self, client: usize) -> bool {
        self.clients[client] = Client::Idle;
        self.is_holder(client)
    }

    fn keep(&mut self) {
        let holder = self.holder.as_mut().expect("a holder keeps it");
        holder.kept = true;
        let ends = holder.ends;
        let must_time_out = |waiter: &Waiter| waiter.until.is_some_and(|until| until < ends);
        let (losing, waiting) = std::mem::take(&mut self.queue)
            .into_iter()
            .partition(must_time_out);
        self.queue = waiting;
        let losing: VecDeque<Waiter> = losing;
        for loser in losing {
            self.reject(loser.client);
        }
    }

    fn pass(&mut self, until: u64) {
        loop {
            let lease_ends = self.holder.map(|holder| holder.ends);
            let wait_ends = self.queue.iter().filter_map(|waiter| waiter.until).min();
            let next = lease_ends.into_iter().chain(wait_ends).min();
            let Some(next) = next.filter(|next| *next <= until) else {
                break;
            };
            self.now = next;
            if lease_ends == Some(next) {
                self.hand_over();
            } else {
                let over = |waiter: &Waiter| waiter.until == Some(next);
                let index = self
                    .queue
                    .iter()
                    .position(over)
                    .expect("a waiter with this deadline");
                let client = self.queue[index].client;
                self.queue.remove(index);
                self.reject(client);
            }
        }
        self.now = until;
    }
}

/// On Redis, where time is real, no lease and no wait ends, except where a step awaits it.
pub(crate) struct Reference<const ON_REDIS: bool>;

impl<const ON_REDIS: bool> ReferenceStateMachine for Reference<ON_REDIS> {
    type State = Model;
    type Transition = Step;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model {
            now: 0,
            holder: None,
            queue: VecDeque::new(),
            clients: [Client::Idle; CLIENTS],
            granted: Vec::new(),
            rejected: [None; CLIENTS],
            was_holder: None,
        })
        .boxed()
    }

    fn transitions(model: &Model) -> BoxedStrategy<Step> {
        let (leases, waits) = if ON_REDIS {
            // Hours.
            (
                360..720_u64,
                prop_oneof![3 => Just(None), 1 => (360..720_u64).prop_map(Some)].boxed(),
            )
        } else {
            (0..4_u64, proptest::option::weighted(0.7, 0..6_u64).boxed())
        };
        let mut steps: Vec<(u32, BoxedStrategy<Step>)> = Vec::new();
        if !ON_REDIS {
            steps.push((4, (1..4_u64).prop_map(|units| Step::Pass { units }).boxed()));
        }
        for (client, state) in model.clients.iter().enumerate() {
            let mut may = |weight, step: BoxedStrategy<Step>| steps.push((weight, step));
            match state {
                Client::Idle => {
                    let lease = leases.clone();
                    may(
                        1,
                        lease
                            .clone()
                            .prop_map(move |lease| Step::Try { client, lease })
                            .boxed(),
                    );
                    may(
                        3,
                        (lease.clone(), waits.clone())
                            .prop_map(move |(lease, wait)| Step::Wait {
                                client,
                                lease,
                                wait,
                            })
                            .boxed(),
                    );
                    may(
                        1,
                        lease
                            .prop_map(move |lease| Step::WaitBriefly { client, lease })
                            .boxed(),
                    );
                    if ON_REDIS && model.holder.is_none() {
                        may(1, Just(Step::LoseIt { client }).boxed());
                    }
                }
                Client::Waiting => may(1, Just(Step::Cancel { client }).boxed()),
                Client::Guard { .. } => {
                    may(4, Just(Step::Release { client }).boxed());
                    may(
                        if ON_REDIS { 1 } else { 2 },
                        Just(Step::Keep { client }).boxed(),
                    );
                    may(
                        2,
                        (1..4_u64)
                            .prop_map(move |by| Step::Extend { client, by })
                            .boxed(),
                    );
                    may(2, Just(Step::Renew { client }).boxed());
                    may(2, Just(Step::Drop { client }).boxed());
                }
            }
        }
        Union::new_weighted(steps).boxed()
    }

    /// In a shrunk history a step may have become impossible.
    fn preconditions(model: &Model, step: &Step) -> bool {
        match *step {
            Step::Pass { .. } => true,
            Step::Try { client, .. }
            | Step::Wait { client, .. }
            | Step::WaitBriefly { client, .. } => model.clients[client] == Client::Idle,
            Step::LoseIt { client } => {
                model.clients[client] == Client::Idle && model.holder.is_none()
            }
            Step::Cancel { client } => model.clients[client] == Client::Waiting,
            Step::Release { client }
            | Step::Keep { client }
            | Step::Extend { client, .. }
            | Step::Renew { client }
            | Step::Drop { client } => matches!(model.clients[client], Client::Guard { .. }),
        }
    }

    fn apply(mut model: Model, step: &Step) -> Model {
        model.granted.clear();
        model.rejected = [None; CLIENTS];
        model.was_holder = None;
        let now = model.now;
        match *step {
            Step::Try { client, lease } => model.acquire(client, lease_of(lease), Some(now)),
            Step::WaitBriefly { client, lease } => {
                model.acquire(client, lease_of(lease), Some(now));
            }
            Step::Wait {
                client,
                lease,
                wait,
            } => {
                let until = wait.map(|wait| now + wait_of(wait));
                model.acquire(client, lease_of(lease), until);
            }
            Step::LoseIt { client } => {
                model.grant(client, 0);
                model.hand_over();
            }
            Step::Cancel { client } => {
                model.clients[client] = Client::Idle;
                model.queue.retain(|waiter| waiter.client != client);
            }
            Step::Release { client } => {
                let was_holder = model.end(client);
                model.was_holder = Some(was_holder);
                if was_holder {
                    model.hand_over();
                }
            }
            Step::Drop { client } => {
                if model.end(client) {
                    model.hand_over();
                }
            }
            Step::Keep { client } => {
                let was_holder = model.end(client);
                model.was_holder = Some(was_holder);
                if was_holder {
                    model.keep();
                }
            }
            Step::Extend { client, by } => {
                model.was_holder = Some(model.is_holder(client));
                if let Some(holder) = &mut model.holder
                    && model.was_holder == Some(true)
                {
                    holder.ends += by * UNIT;
                }
            }
            Step::Renew { client } => {
                model.was_holder = Some(model.is_holder(client));
                if let Some(holder) = &mut model.holder
                    && let Client::Guard { lease } = model.clients[client]
                    && model.was_holder == Some(true)
                {
                    holder.ends = now + lease;
                }
            }
            Step::Pass { units } => model.pass(now + units * UNIT),
        }
        model
    }
}

pub(crate) fn lease_of(units: u64) -> u64 {
    units * UNIT + LEASE_ENDS
}

pub(crate) fn wait_of(units: u64) -> u64 {
    units * UNIT + WAIT_ENDS
}
