//! What `lockstock top` knows and how it shows it: the locks with their last seconds, the sort order
//! and the filter.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};

use tokio::time::Instant;

use super::key::Key;
use super::stream::Update;
use crate::live::wire::{LockState, LockStatus};

/// Number of columns that are remembered of each lane.
pub(super) const MAX_COLUMNS: usize = 240;
/// Maximum number of locks.
const MAX_LOCKS: usize = 4096;

/// One column of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    Free,
    Held,
    Kept,
    Refused,
}

/// A lock, and its last seconds.
#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) status: LockStatus,
    /// Waiting requests, by server.
    waiting: BTreeMap<String, u32>,
    /// Grants and refusals since the current column began, and in each column before.
    pub(super) granted: VecDeque<u32>,
    pub(super) refused: VecDeque<u32>,
    /// The newest last.
    pub(super) columns: VecDeque<Column>,
    /// By the clock of this machine, when the lease ends.
    ends_at: Option<Instant>,
}

/// The order of the locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    Name,
    Waiting,
    Refused,
    Granted,
}

/// What the state line reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Live,
    Connecting,
    Paused,
    Disconnected(String),
}

/// The locks and how they are shown.
pub(super) struct View {
    pub(super) url: String,
    pub(super) servers: Vec<String>,
    pub(super) is_complete: bool,
    pub(super) condition: Condition,
    pub(super) order: Order,
    pub(super) filter: String,
    /// Whether the keys that are pressed change the filter.
    pub(super) is_typing: bool,
    pub(super) only_waiting: bool,
    lanes: BTreeMap<String, Lane>,
    last_event_id: Option<String>,
}

impl Lane {
    pub(super) fn waiting(&self) -> u32 {
        let in_frames = self.waiting.values().sum::<u32>();
        in_frames.max(u32::try_from(self.status.waiters.len()).unwrap_or(u32::MAX))
    }

    /// Returns the sum of the last second.
    pub(super) fn per_second(counts: &VecDeque<u32>) -> u32 {
        // The current column, which is not full, and the two before it.
        counts.iter().rev().skip(1).take(2).sum()
    }

    /// Returns how long the lock stays taken at most.
    pub(super) fn remaining(&self) -> Option<std::time::Duration> {
        let ends_at = self.ends_at?;
        (self.status.state != LockState::Free)
            .then(|| ends_at.saturating_duration_since(Instant::now()))
    }

    fn update(&mut self, server: &str, at: i64, lock: LockStatus) {
        let now = Instant::now();
        let counts = lock.granted;
        let granted = counts.free + counts.local + counts.remote + counts.expired;
        add(&mut self.granted, granted);
        add(&mut self.refused, lock.refused);
        if lock.waiting == 0 {
            self.waiting.remove(server);
        } else {
            self.waiting.insert(server.to_owned(), lock.waiting);
        }
        if lock.refused > 0 {
            self.mark(Column::Refused);
        } else if granted > 0 {
            self.mark(Column::Held);
        }
        // Another server that has it may be newer.
        let theirs = lock
            .holder
            .as_ref()
            .and_then(|holder| holder.server.as_deref());
        let shown = self.status.holder.as_ref();
        let shown = shown.and_then(|holder| holder.server.as_deref());
        let is_theirs = lock.state != LockState::Free && theirs == Some(server);
        if is_theirs || shown.is_none_or(|shown| shown == server) {
            let until = lock.holder.as_ref().and_then(|holder| holder.until);
            self.ends_at = until.and_then(|until| {
                let rest_ms = u64::try_from(until - at).unwrap_or_default();
                now.checked_add(std::time::Duration::from_millis(rest_ms))
            });
            self.status = lock;
        }
        self.mark(match self.status.state {
            LockState::Held => Column::Held,
            LockState::Kept => Column::Kept,
            LockState::Free => Column::Free,
        });
    }

    /// Shows `column` for the current half second, unless that shows something rarer.
    fn mark(&mut self, column: Column) {
        let rank = |column| match column {
            Column::Free => 0,
            Column::Kept => 1,
            Column::Held => 2,
            Column::Refused => 3,
        };
        match self.columns.back_mut() {
            Some(current) if rank(*current) >= rank(column) => {}
            Some(current) => *current = column,
            None => self.columns.push_back(column),
        }
    }

    /// Begins the next column. Returns `false` if there has been nothing for as long as a lane shows.
    fn advance(&mut self) -> bool {
        if self.ends_at.is_some_and(|at| at <= Instant::now()) {
            (self.status.state, self.status.holder, self.ends_at) = (LockState::Free, None, None);
        }
        self.columns.push_back(match self.status.state {
            LockState::Held => Column::Held,
            LockState::Kept => Column::Kept,
            LockState::Free => Column::Free,
        });
        self.granted.push_back(0);
        self.refused.push_back(0);
        if self.columns.len() > MAX_COLUMNS {
            self.columns.pop_front();
        }
        for counts in [&mut self.granted, &mut self.refused] {
            if counts.len() > 4 {
                counts.pop_front();
            }
        }
        self.waiting() > 0 || self.columns.iter().any(|column| *column != Column::Free)
    }
}

fn add(counts: &mut VecDeque<u32>, count: u32) {
    match counts.back_mut() {
        Some(current) => *current = current.saturating_add(count),
        None => counts.push_back(count),
    }
}

impl View {
    pub(super) fn new(url: String, filter: String) -> Self {
        Self {
            url,
            servers: Vec::new(),
            is_complete: true,
            condition: Condition::Live,
            order: Order::Name,
            filter,
            is_typing: false,
            only_waiting: false,
            lanes: BTreeMap::new(),
            last_event_id: None,
        }
    }

    /// Returns after which event the stream continues.
    pub(super) fn last_event_id(&self) -> Option<String> {
        self.last_event_id.clone()
    }

    /// Whether the user has paused the view. Its stream is closed meanwhile.
    pub(super) fn is_paused(&self) -> bool {
        self.condition == Condition::Paused
    }

    pub(super) fn apply(&mut self, update: Update) {
        self.condition = Condition::Live;
        match update {
            Update::Snapshot(id, snapshot) => {
                self.last_event_id = id;
                let list = snapshot.list;
                (self.servers, self.is_complete) = (list.servers, list.complete);
                for lane in self.lanes.values_mut() {
                    (lane.status.state, lane.status.holder) = (LockState::Free, None);
                    lane.status.waiters.clear();
                    lane.waiting.clear();
                }
                for lock in list.locks {
                    self.update(&list.server, list.at, lock);
                }
            }
            Update::Frame(id, frame) => {
                self.last_event_id = id;
                if !self.servers.contains(&frame.server) {
                    self.servers.push(frame.server.clone());
                }
                for lock in frame.locks {
                    self.update(&frame.server, frame.at, lock);
                }
            }
            Update::Bye => {}
        }
    }

    fn update(&mut self, server: &str, at: i64, lock: LockStatus) {
        if self.lanes.len() >= MAX_LOCKS && !self.lanes.contains_key(&lock.name) {
            return;
        }
        let lane = self.lanes.entry(lock.name.clone()).or_default();
        lane.update(server, at, lock);
    }

    /// Begins the next column of all lanes.
    pub(super) fn advance(&mut self) {
        if self.condition == Condition::Live {
            self.lanes.retain(|_, lane| lane.advance());
        }
    }

    pub(super) fn disconnected(&mut self, reason: &str) {
        self.condition = Condition::Disconnected(reason.to_owned());
    }

    pub(super) fn press(&mut self, key: Key) {
        match key {
            Key::Character(character) if self.is_typing => self.filter.push(character),
            Key::Backspace if self.is_typing => _ = self.filter.pop(),
            Key::Enter => self.is_typing = false,
            Key::Escape => {
                self.is_typing = false;
                self.filter.clear();
            }
            Key::Character('/') => self.is_typing = true,
            Key::Character('s') => {
                self.order = match self.order {
                    Order::Name => Order::Waiting,
                    Order::Waiting => Order::Refused,
                    Order::Refused => Order::Granted,
                    Order::Granted => Order::Name,
                }
            }
            Key::Character('w') => self.only_waiting = !self.only_waiting,
            Key::Character('p') => {
                self.condition = match self.condition {
                    Condition::Paused => Condition::Connecting,
                    _ => Condition::Paused,
                }
            }
            Key::Character(_) | Key::Backspace | Key::Resized | Key::Quit => {}
        }
    }

    /// Returns the locks to show, in their order.
    pub(super) fn shown(&self) -> Vec<&Lane> {
        let lanes = self.lanes.values();
        let mut lanes: Vec<_> = lanes
            .filter(|lane| lane.status.name.contains(&self.filter))
            .filter(|lane| !self.only_waiting || lane.waiting() > 0)
            .collect();
        match self.order {
            // They are sorted by name, and sorting is stable.
            Order::Name => {}
            Order::Waiting => lanes.sort_by_key(|lane| Reverse(lane.waiting())),
            Order::Refused => lanes.sort_by_key(|lane| Reverse(Lane::per_second(&lane.refused))),
            Order::Granted => lanes.sort_by_key(|lane| Reverse(Lane::per_second(&lane.granted))),
        }
        lanes
    }
}
