//! A request that wants a lock, and what becomes of it.

use std::sync::Arc;
use std::time::Duration;

use lockstock::{GrantKind, Guard};
use tokio::time::Instant;

use super::super::lock::{Ended, EventDetail, EventRoom, Hold, Lock, Requester};
use super::super::wire::{EpisodeEnd, EventKind, GrantedBy};
use super::LockTable;

/// A request that wants a lock.
pub(crate) struct Followed {
    table: Arc<LockTable>,
    hash: u64,
    name: Arc<str>,
    requester: Arc<Requester>,
    asked_at: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Holding { fence: u64, since: Instant },
    Done,
}

impl Followed {
    /// Follows a request that begins to wait.
    pub(super) fn new(
        table: Arc<LockTable>,
        hash: u64,
        name: Arc<str>,
        requester: Arc<Requester>,
        asked_at: Instant,
    ) -> Self {
        Self {
            table,
            hash,
            name,
            requester,
            asked_at,
            stage: Stage::Waiting,
        }
    }

    pub(crate) fn granted(&mut self, guard: &Guard) {
        let by = match guard.grant_kind() {
            GrantKind::Local => GrantedBy::Local,
            GrantKind::Remote => GrantedBy::Remote,
            GrantKind::Expired => GrantedBy::Expired,
            _ => GrantedBy::Free,
        };
        let (waited, until) = (guard.waited(), guard.deadline());
        let (fence, holder) = (guard.fence(), guard.id());
        let requester = self.requester.clone();
        let since = self.change(|lock, ended, now, room| {
            lock.end_wait(waited);
            let granted = &mut lock.counts.granted;
            *match by {
                GrantedBy::Free => &mut granted.free,
                GrantedBy::Local => &mut granted.local,
                GrantedBy::Remote => &mut granted.remote,
                GrantedBy::Expired => &mut granted.expired,
            } += 1;
            lock.push(now, room, &requester, || EventDetail::Granted {
                by,
                waited,
                until,
                fence,
                holder,
            });
            let hold = Hold {
                requester,
                holder,
                fence,
                since: now,
                until,
                is_kept: false,
                waited: lock.waiting,
                refused: 0,
                longest_wait: Duration::ZERO,
                waiting_since: (lock.waiting > 0).then_some(now),
            };
            if let Some(previous) = lock.hold.replace(hold) {
                // It has been released, and reports that in a moment.
                ended.push(lock.end(previous, now, EpisodeEnd::Released));
            }
        });
        self.stage = Stage::Holding { fence, since };
    }

    pub(crate) fn rejected(&mut self, kept: bool, retry_after: Duration) {
        let (requester, asked_at) = (self.requester.clone(), self.asked_at);
        self.change(|lock, _, now, room| {
            let waited = now.saturating_duration_since(asked_at);
            lock.end_wait(waited);
            lock.counts.refused += 1;
            if let Some(hold) = &mut lock.hold {
                hold.refused += 1;
            }
            lock.push(now, room, &requester, || EventDetail::Refused {
                waited,
                kept,
                retry_after,
            });
        });
        self.stage = Stage::Done;
    }

    pub(crate) fn failed(&mut self) {
        match self.stage {
            Stage::Waiting => self.give_up(EventKind::Failed),
            // Until its lease ends, which the table notices by itself.
            Stage::Holding { .. } | Stage::Done => self.stage = Stage::Done,
        }
    }

    pub(crate) fn ended(&mut self, kind: EventKind) {
        let Stage::Holding { fence, since } = self.stage else {
            return;
        };
        self.stage = Stage::Done;
        let requester = self.requester.clone();
        self.change(|lock, ended, now, room| {
            let held = now.saturating_duration_since(since);
            let hold = lock.hold.as_mut().filter(|hold| hold.fence == fence);
            let until = hold.as_ref().map(|hold| hold.until);
            match (kind, hold) {
                (EventKind::Kept, Some(hold)) => hold.is_kept = true,
                (_, Some(_)) => {
                    let end = match kind {
                        EventKind::Lost => EpisodeEnd::Lost,
                        _ => EpisodeEnd::Released,
                    };
                    if let Some(hold) = lock.hold.take() {
                        ended.push(lock.end(hold, now, end));
                    }
                }
                // The next holder was faster.
                (_, None) => {}
            }
            lock.push(now, room, &requester, || EventDetail::Ended {
                kind,
                held,
                until: until.filter(|_| kind == EventKind::Kept),
            });
        });
    }

    fn give_up(&mut self, kind: EventKind) {
        self.stage = Stage::Done;
        let (requester, asked_at) = (self.requester.clone(), self.asked_at);
        self.change(|lock, _, now, room| {
            let waited = now.saturating_duration_since(asked_at);
            lock.end_wait(waited);
            lock.push(now, room, &requester, || EventDetail::GaveUp {
                kind,
                waited,
            });
        });
    }

    /// Changes the lock. Returns when.
    fn change(
        &self,
        change: impl FnOnce(&mut Lock, &mut Vec<Ended>, Instant, Option<&EventRoom>),
    ) -> Instant {
        let (now, room) = (Instant::now(), self.table.event_room());
        let mut shard = self.table.shard(self.hash);
        shard.with(self.hash, &self.name, now, room.is_some(), |lock, ended| {
            change(lock, ended, now, room);
        });
        now
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        match self.stage {
            Stage::Waiting => self.give_up(EventKind::Cancelled),
            // The handler has panicked: its guard releases the lock.
            Stage::Holding { .. } => self.ended(EventKind::Released),
            Stage::Done => {}
        }
    }
}
