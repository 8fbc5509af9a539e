//! The frames of the last minute, and the subscribers that read them.
//!
//! A frame is serialized once, and all subscribers get the same bytes. A subscriber has a position in
//! the ring and no queue of its own: one that is too slow finds that its position is gone, and gets a
//! snapshot.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::Instant;

/// How long a frame can be read.
const RETENTION: Duration = Duration::from_secs(60);
/// Maximum size of the ring. At five frames a second that is 27 KB for each.
const MAX_BYTES: usize = 8 << 20;
/// How long a snapshot is valid for further subscribers, if no frame comes.
const SNAPSHOT_VALIDITY: Duration = Duration::from_millis(100);
/// Number of frames after which a subscriber that has read none is too slow: some five seconds.
const MAX_LAG: u64 = 25;

/// The frames.
pub(super) struct Ring {
    /// Distinguishes the frames of this process from those of an earlier one.
    process: String,
    frames: Mutex<Frames>,
    latest: watch::Sender<Latest>,
}

/// What wakes subscribers.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latest {
    /// The number of the next frame.
    pub(super) next: u64,
    /// No further frame comes.
    pub(super) is_closed: bool,
}

struct Frames {
    frames: VecDeque<Sent>,
    bytes: usize,
    /// The number of the next frame.
    next: u64,
    snapshot: Option<Snapshot>,
}

/// A snapshot, as it was before the next frame.
struct Snapshot {
    taken_at: Instant,
    next: u64,
    event: Bytes,
}

struct Sent {
    at: Instant,
    event: Bytes,
}

/// What a subscriber finds at its position.
pub(super) enum Found {
    Frame(Bytes),
    /// No frame yet.
    Nothing,
    /// The position is too old, or not of this process.
    Gone,
}

impl Ring {
    pub(super) fn new() -> Self {
        Self {
            process: format!("{:08x}", rand::random::<u32>()),
            frames: Mutex::new(Frames {
                frames: VecDeque::new(),
                bytes: 0,
                // The id of the first frame follows that of a snapshot before it.
                next: 1,
                snapshot: None,
            }),
            latest: watch::Sender::new(Latest {
                next: 1,
                is_closed: false,
            }),
        }
    }

    /// Returns what wakes a subscriber.
    pub(super) fn subscribe(&self) -> watch::Receiver<Latest> {
        self.latest.subscribe()
    }

    /// Adds a frame, a JSON text of one line.
    pub(super) fn push(&self, json: &[u8]) {
        let now = Instant::now();
        let next = {
            let mut frames = self.frames();
            let event = event("frame", &self.id(frames.next), json);
            frames.bytes += event.len();
            frames.frames.push_back(Sent { at: now, event });
            frames.next += 1;
            while frames.bytes > MAX_BYTES
                || frames
                    .frames
                    .front()
                    .is_some_and(|sent| sent.at + RETENTION < now)
            {
                let Some(sent) = frames.frames.pop_front() else {
                    break;
                };
                frames.bytes -= sent.event.len();
            }
            frames.next
        };
        self.latest.send_modify(|latest| latest.next = next);
    }

    /// Forgets all frames. A subscriber that comes back gets a snapshot.
    pub(super) fn clear(&self) {
        let mut frames = self.frames();
        frames.frames.clear();
        frames.bytes = 0;
        frames.snapshot = None;
        // A gap, which no position can bridge.
        frames.next += 1;
        let next = frames.next;
        drop(frames);
        self.latest.send_modify(|latest| latest.next = next);
    }

    /// Ends all subscriptions.
    pub(super) fn close(&self) {
        self.latest.send_modify(|latest| latest.is_closed = true);
    }

    pub(super) fn is_closed(&self) -> bool {
        self.latest.borrow().is_closed
    }

    /// Returns what a subscriber finds that has read all frames before `position`.
    pub(super) fn find(&self, position: u64) -> Found {
        let frames = self.frames();
        let Some(behind) = frames.next.checked_sub(position) else {
            return Found::Gone;
        };
        if behind == 0 {
            return Found::Nothing;
        }
        let index = frames
            .frames
            .len()
            .checked_sub(usize::try_from(behind).unwrap_or(usize::MAX));
        match index.and_then(|index| frames.frames.get(index)) {
            Some(sent) => Found::Frame(sent.event.clone()),
            None => Found::Gone,
        }
    }

    /// Whether a subscriber that reads at this position is too slow.
    pub(super) fn is_too_slow(&self, position: u64) -> bool {
        self.frames().next.saturating_sub(position) > MAX_LAG
    }

    /// Returns the position after the frame with this id.
    pub(super) fn position_after(&self, id: &str) -> Option<u64> {
        let (process, number) = id.split_once('-')?;
        let number = number.parse::<u64>().ok()?;
        (process == self.process).then_some(number.checked_add(1)?)
    }

    /// Returns a snapshot as an event, and the position that follows it. Subscribers that come at
    /// almost the same time share one, which `take` makes.
    pub(super) fn snapshot<T: Serialize>(&self, take: impl FnOnce() -> T) -> (Bytes, u64) {
        {
            let frames = self.frames();
            if let Some(snapshot) = &frames.snapshot
                && snapshot.next == frames.next
                && snapshot.taken_at.elapsed() < SNAPSHOT_VALIDITY
            {
                return (snapshot.event.clone(), snapshot.next);
            }
        }
        let (taken_at, next) = (Instant::now(), self.frames().next);
        let json = serde_json::to_vec(&take()).unwrap_or_default();
        let event = event("snapshot", &self.id(next - 1), &json);
        self.frames().snapshot = Some(Snapshot {
            taken_at,
            next,
            event: event.clone(),
        });
        (event, next)
    }

    fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.process)
    }

    fn frames(&self) -> MutexGuard<'_, Frames> {
        // No change can panic halfway.
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes an event of a stream. `data` has no line break.
fn event(name: &str, id: &str, data: &[u8]) -> Bytes {
    let mut event = Vec::with_capacity(data.len() + id.len() + name.len() + 32);
    event.extend_from_slice(b"id: ");
    event.extend_from_slice(id.as_bytes());
    event.extend_from_slice(b"\nevent: ");
    event.extend_from_slice(name.as_bytes());
    event.extend_from_slice(b"\ndata: ");
    event.extend_from_slice(data);
    event.extend_from_slice(b"\n\n");
    event.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_frames_make_room() {
        let ring = Ring::new();
        let large = vec![b' '; 1 << 20];
        for _ in 0..20 {
            ring.push(&large);
        }
        assert!(ring.frames().bytes <= MAX_BYTES);
        assert!(matches!(ring.find(1), Found::Gone));
        assert!(matches!(ring.find(20), Found::Frame(_)));
        assert!(matches!(ring.find(21), Found::Nothing));
        assert!(matches!(ring.find(22), Found::Gone), "the future");
    }

    #[test]
    fn only_ids_of_this_process_are_positions() {
        let ring = Ring::new();
        let id = ring.id(7);
        assert_eq!(ring.position_after(&id), Some(8));
        assert_eq!(Ring::new().position_after(&id), None);
        for unknown in ["", "7", "x-7", &format!("{id}x")] {
            assert_eq!(ring.position_after(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_snapshot_is_followed_by_the_next_frame() {
        let ring = Ring::new();
        let (first, position) = ring.snapshot(|| "a");
        // Unless the machine is so slow that it is outdated.
        let shared = ring.snapshot(|| "a");
        assert_eq!(shared, (first.clone(), position));
        ring.push(b"{}");
        let (second, next) = ring.snapshot(|| "b");
        assert!(second != first && next == position + 1);
    }
}
