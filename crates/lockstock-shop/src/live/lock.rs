//! One lock that requests of this process want, hold or keep: its state, what has happened to it since the
//! last frame, and its holds that have ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockstock::HolderId;
use tokio::time::Instant;

use super::clock::{Moment, millis};
use super::wire::{self, EpisodeEnd, EventKind, GrantedBy, LockState, LockStatus};

/// Maximum number of events of one lock in a second. Of a lock with more, only counts are sent.
const MAX_EVENTS_PER_SECOND: u32 = 50;

/// A hold that is shorter than this, and that no other request met, is uneventful.
const EVENTFUL: Duration = Duration::from_millis(100);

/// Whose request it is.
#[derive(Debug, Default)]
pub(crate) struct Requester {
    pub(crate) request: Arc<str>,
    /// The name of the API key, if the request has one.
    pub(crate) caller: Option<Arc<str>>,
    pub(crate) address: Option<IpAddr>,
}

/// A lock.
pub(super) struct Lock {
    pub(super) product: Option<i64>,
    /// Number of requests that wait.
    pub(super) waiting: u32,
    /// The newest hold that is not known to have ended.
    pub(super) hold: Option<Hold>,
    pub(super) counts: Counts,
    pub(super) events: Events,
    /// Number of events since the beginning of the current second.
    pub(super) recent_events: u32,
    pub(super) second_began_at: Instant,
    /// Whether the next frame contains the lock.
    pub(super) has_changed: bool,
}

/// What has happened since the last frame.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) granted: wire::GrantCounts,
    pub(super) refused: u32,
    pub(super) longest_wait: Option<Duration>,
}

/// A grant, and what other requests have met since.
pub(super) struct Hold {
    pub(super) requester: Arc<Requester>,
    pub(super) holder: HolderId,
    pub(super) fence: u64,
    pub(super) since: Instant,
    pub(super) until: Instant,
    pub(super) is_kept: bool,
    pub(super) waited: u32,
    pub(super) refused: u32,
    pub(super) longest_wait: Duration,
    /// Since when there have been waiters without a pause, as far as it was held.
    pub(super) waiting_since: Option<Instant>,
}

/// A hold that has ended.
pub(super) struct Episode {
    pub(super) lock: Arc<str>,
    pub(super) product: Option<i64>,
    pub(super) hold: Hold,
    pub(super) ended_at: Instant,
    pub(super) end: EpisodeEnd,
}

/// The events of a lock since the last frame.
pub(super) enum Events {
    Single(Vec<Event>),
    /// They were too many: a part of them would look like all.
    Counted,
}

impl Default for Events {
    fn default() -> Self {
        Self::Single(Vec::new())
    }
}

impl Events {
    /// Returns the number of single events.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Single(events) => events.len(),
            Self::Counted => 0,
        }
    }
}

/// How many events the next frame has room for. Those of locks for which requests compete are not
/// counted: they are shown first. Events without room are not collected, because under load they would
/// be most of the memory, and never be sent.
#[derive(Default)]
pub(super) struct EventRoom(AtomicUsize);

impl EventRoom {
    pub(super) fn set(&self, events: usize) {
        self.0.store(events, Ordering::Relaxed);
    }

    /// Returns whether there was room for one more.
    fn take(&self) -> bool {
        let left = self.0.load(Ordering::Relaxed);
        // Two at the same moment may share the last room.
        self.0.store(left.saturating_sub(1), Ordering::Relaxed);
        left > 0
    }
}

/// An event of a request.
pub(super) struct Event {
    pub(super) at: Instant,
    pub(super) requester: Arc<Requester>,
    pub(super) detail: EventDetail,
}

pub(super) enum EventDetail {
    Waiting,
    Granted {
        by: GrantedBy,
        waited: Duration,
        until: Instant,
        fence: u64,
        holder: HolderId,
    },
    Refused {
        waited: Duration,
        kept: bool,
        retry_after: Duration,
    },
    /// The request was cancelled, or failed, after this wait.
    GaveUp {
        kind: EventKind,
        waited: Duration,
    },
    Ended {
        kind: EventKind,
        held: Duration,
        until: Option<Instant>,
    },
}

/// A hold, when it ended, and how.
pub(super) type Ended = (Hold, Instant, EpisodeEnd);

impl Lock {
    pub(super) fn new(product: Option<i64>, now: Instant) -> Self {
        Self {
            product,
            waiting: 0,
            hold: None,
            counts: Counts::default(),
            events: Events::default(),
            recent_events: 0,
            second_began_at: now,
            has_changed: false,
        }
    }

    /// Whether the lock is held, kept or waited for.
    pub(super) fn is_busy(&self) -> bool {
        self.hold.is_some() || self.waiting > 0
    }

    /// Whether there is nothing to show or to send.
    pub(super) fn is_idle(&self) -> bool {
        !self.is_busy() && !self.has_changed
    }

    /// Removes the hold if its lease has ended.
    pub(super) fn expired(&mut self, now: Instant) -> Option<Ended> {
        let hold = self.hold.take_if(|hold| hold.until <= now)?;
        let end = match hold.is_kept {
            true => EpisodeEnd::Kept,
            false => EpisodeEnd::Expired,
        };
        let until = hold.until;
        Some(self.end(hold, until, end))
    }

    /// Ends a hold that was taken out of the lock. Those that still wait have waited until now.
    pub(super) fn end(&self, mut hold: Hold, at: Instant, end: EpisodeEnd) -> Ended {
        if let Some(since) = hold.waiting_since {
            let waited = at.saturating_duration_since(since);
            hold.longest_wait = hold.longest_wait.max(waited);
        }
        (hold, at, end)
    }

    /// Notes that a request begins to wait.
    pub(super) fn begin_wait(&mut self, now: Instant) {
        self.waiting += 1;
        if let Some(hold) = &mut self.hold {
            hold.waited += 1;
            hold.waiting_since.get_or_insert(now);
        }
    }

    /// Adds an event, if there is a watcher and there are not too many of them. Without `room` there is
    /// no watcher.
    pub(super) fn push(
        &mut self,
        now: Instant,
        room: Option<&EventRoom>,
        requester: &Arc<Requester>,
        detail: impl FnOnce() -> EventDetail,
    ) {
        let Some(room) = room else {
            return;
        };
        if now.saturating_duration_since(self.second_began_at) >= Duration::from_secs(1) {
            (self.second_began_at, self.recent_events) = (now, 0);
        }
        self.recent_events = self.recent_events.saturating_add(1);
        // A lone request waits too, for a moment.
        let is_lone = self.waiting + u32::from(self.hold.is_some()) <= 1 && !self.has_competitors();
        let Events::Single(events) = &mut self.events else {
            return;
        };
        if self.recent_events <= MAX_EVENTS_PER_SECOND && (!is_lone || room.take()) {
            events.push(Event {
                at: now,
                requester: requester.clone(),
                detail: detail(),
            });
        } else {
            self.events = Events::Counted;
        }
    }

    /// Notes that a request waits no more.
    pub(super) fn end_wait(&mut self, waited: Duration) {
        self.waiting = self.waiting.saturating_sub(1);
        self.counts.longest_wait = self.counts.longest_wait.max(Some(waited));
        if let Some(hold) = &mut self.hold {
            hold.longest_wait = hold.longest_wait.max(waited);
            if self.waiting == 0 {
                hold.waiting_since = None;
            }
        }
    }

    /// Whether several requests want the lock, or have wanted it since the last frame.
    pub(super) fn is_contended(&self) -> bool {
        self.waiting > 0 || self.has_competitors()
    }

    /// Whether requests were refused since the last frame, or have waited for the present holder.
    fn has_competitors(&self) -> bool {
        self.counts.refused > 0 || self.hold.as_ref().is_some_and(|hold| hold.waited > 0)
    }

    /// Describes the lock and what has happened to it since the last frame.
    pub(super) fn take_changes(
        &mut self,
        name: &str,
        server: &str,
        now: Moment,
        with_events: bool,
    ) -> LockStatus {
        let counts = std::mem::take(&mut self.counts);
        let events = match std::mem::take(&mut self.events) {
            Events::Single(events) if with_events => events,
            _ => Vec::new(),
        };
        self.has_changed = false;
        LockStatus {
            granted: counts.granted,
            refused: counts.refused,
            longest_wait_ms: counts.longest_wait.map(millis),
            events: events.iter().map(|event| event.to_wire(now)).collect(),
            ..self.status(name, server, now)
        }
    }

    /// Describes the lock as it is.
    pub(super) fn status(&self, name: &str, server: &str, now: Moment) -> LockStatus {
        let hold = self.hold.as_ref();
        LockStatus {
            name: name.to_owned(),
            product: self.product,
            state: hold.map_or(LockState::Free, |hold| match hold.is_kept {
                true => LockState::Kept,
                false => LockState::Held,
            }),
            holder: hold.map(|hold| wire::Holder {
                id: hold.holder.to_string(),
                server: Some(server.to_owned()),
                requester: hold.requester.to_wire(),
                since: Some(now.epoch_ms_of(hold.since)),
                until: Some(now.epoch_ms_of(hold.until)),
                fence: Some(hold.fence),
            }),
            waiting: self.waiting,
            ..LockStatus::default()
        }
    }
}

impl Requester {
    pub(super) fn to_wire(&self) -> wire::Requester {
        wire::Requester {
            request: Some(self.request.to_string()).filter(|id| !id.is_empty()),
            caller: self.caller.as_deref().map(str::to_owned),
            address: self.address.map(|address| address.to_string()),
        }
    }
}

impl Episode {
    /// Returns whether it was short, and no other request wanted the lock meanwhile.
    pub(super) fn is_uneventful(&self) -> bool {
        self.end == EpisodeEnd::Released
            && self.hold.waited == 0
            && self.hold.refused == 0
            && self.ended_at.saturating_duration_since(self.hold.since) < EVENTFUL
    }

    pub(super) fn to_wire(&self, now: Moment) -> wire::Episode {
        wire::Episode {
            lock: self.lock.to_string(),
            product: self.product,
            from: now.epoch_ms_of(self.hold.since),
            to: now.epoch_ms_of(self.ended_at),
            requester: self.hold.requester.to_wire(),
            waited: self.hold.waited,
            refused: self.hold.refused,
            longest_wait_ms: millis(self.hold.longest_wait),
            ended: self.end,
        }
    }
}

impl Event {
    pub(super) fn to_wire(&self, now: Moment) -> wire::Event {
        let mut event = wire::Event {
            at: now.epoch_ms_of(self.at),
            requester: self.requester.to_wire(),
            ..wire::Event::default()
        };
        match &self.detail {
            EventDetail::Waiting => event.kind = EventKind::Waiting,
            EventDetail::Granted {
                by,
                waited,
                until,
                fence,
                holder,
            } => {
                event.kind = EventKind::Granted;
                event.by = Some(*by);
                event.waited_ms = Some(millis(*waited));
                event.until = Some(now.epoch_ms_of(*until));
                event.fence = Some(*fence);
                event.holder = Some(holder.to_string());
            }
            EventDetail::Refused {
                waited,
                kept,
                retry_after,
            } => {
                event.kind = EventKind::Refused;
                event.waited_ms = Some(millis(*waited));
                event.kept = Some(*kept);
                event.retry_after_ms = Some(millis(*retry_after));
            }
            EventDetail::GaveUp { kind, waited } => {
                event.kind = *kind;
                event.waited_ms = Some(millis(*waited));
            }
            EventDetail::Ended { kind, held, until } => {
                event.kind = *kind;
                event.held_ms = Some(millis(*held));
                event.until = until.map(|until| now.epoch_ms_of(until));
            }
        }
        event
    }
}
