//! Notifications that Redis pushes: a waiter was granted the lock, a waiter cannot succeed, a
//! holder has lost its lock. A broken connection is reported too, because notifications may
//! have been missed.
//!
//! One channel per client, for any number of waiters.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};

use crate::token::Token;

/// Distributes notifications to the waiters of this client. Cheap to clone.
#[derive(Clone)]
pub(super) struct Notifications(Arc<Inner>);

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notifications")
    }
}

struct Inner {
    mailboxes: Mutex<HashMap<Token, Mailbox>>,
    recently_left: Mutex<RecentlyLeft>,
    /// Number of broken connections.
    disconnects: watch::Sender<u64>,
    /// The receiver only locks a mutex for each. Further ones are dropped, because the connection
    /// must not wait.
    forced_releases: mpsc::Sender<Token>,
}

/// Notifications that a waiter has not received yet. Kept small: most requests get the lock
/// without waiting.
#[derive(Debug, Default)]
struct Mailbox {
    /// A few: a waiter is granted the lock or loses once, and each `ask` stands for a change of the
    /// queue that the waiter answers by asking Redis. At most [`MAX_UNREAD`].
    unread: VecDeque<Notification>,
    waker: Option<Waker>,
}

/// Tokens of requests that left the queue lately, and how to give back what they are granted
/// nevertheless: a replica that took over may not know that they left.
#[derive(Default)]
struct RecentlyLeft {
    in_order: VecDeque<Token>,
    give_back: HashMap<Token, Box<dyn FnOnce() + Send>>,
}

/// Maximum number of notifications that a waiter has not received yet. Only a server that is not
/// Redis sends more.
const MAX_UNREAD: usize = 256;
/// Maximum number of forced releases that are not noted yet.
const MAX_FORCED_RELEASES: usize = 65_536;
/// Number of requests that are remembered after they left.
const MAX_RECENTLY_LEFT: usize = 4096;

/// A message of a script, see `scripts/prelude.lua`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notification {
    /// The lock is granted to the waiter, since `granted_at_us` on the server's clock.
    Held {
        fence: u64,
        lease: Duration,
        granted_at_us: i64,
    },
    /// The lock may be free after this time: the waiter asks again then.
    Soon { within: Duration },
    /// The lock is kept for longer than the waiter waits. The waiter has left the queue.
    Kept { remaining: Duration },
    /// The state of the lock has changed: the waiter asks again.
    Ask,
    /// The lock was taken away from its holder.
    Lost,
}

impl Notifications {
    /// Creates a distributor, and a receiver of the token of each lock of this client that is
    /// taken away.
    pub(super) fn new() -> (Self, mpsc::Receiver<Token>) {
        let (forced_releases, receiver) = mpsc::channel(MAX_FORCED_RELEASES);
        let notifications = Self(Arc::new(Inner {
            mailboxes: Mutex::new(HashMap::new()),
            recently_left: Mutex::default(),
            disconnects: watch::Sender::new(0),
            forced_releases,
        }));
        (notifications, receiver)
    }

    /// Collects the notifications for `token` until the subscription is dropped.
    pub(super) fn listen(&self, token: Token) -> Subscription<'_> {
        self.mailboxes().insert(token, Mailbox::default());
        Subscription {
            notifications: self,
            token,
        }
    }

    /// Distributes a push message.
    pub(super) fn pushed(&self, push: &PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                let [_, Value::BulkString(message)] = &push.data[..] else {
                    return;
                };
                // An unknown message belongs to a later version.
                let text = std::str::from_utf8(message).unwrap_or_default();
                let Some((token, notification)) = parse(text) else {
                    return;
                };
                if notification == Notification::Lost {
                    // Fails while the store is being dropped, too.
                    let _ = self.0.forced_releases.try_send(token);
                } else {
                    self.deliver(token, notification);
                }
            }
            PushKind::Disconnection => self.disconnected(),
            _ => {}
        }
    }

    fn deliver(&self, token: Token, notification: Notification) {
        if let Some(mailbox) = self.mailboxes().get_mut(&token) {
            if mailbox.unread.len() < MAX_UNREAD {
                mailbox.unread.push_back(notification);
            }
            if let Some(waker) = mailbox.waker.take() {
                waker.wake();
            }
            return;
        }
        // The request has just been dropped, and its withdrawal is on the way; or it left.
        let give_back = match notification {
            Notification::Held { .. } => self.recently_left().give_back.remove(&token),
            Notification::Soon { .. }
            | Notification::Kept { .. }
            | Notification::Ask
            | Notification::Lost => None,
        };
        if let Some(give_back) = give_back {
            give_back();
        }
    }

    /// Notes that `token` has left the queue. Calls `give_back` if it is granted the lock
    /// nevertheless.
    pub(super) fn remember_left(&self, token: Token, give_back: impl FnOnce() + Send + 'static) {
        let mut left = self.recently_left();
        left.in_order.push_back(token);
        left.give_back.insert(token, Box::new(give_back));
        if left.in_order.len() > MAX_RECENTLY_LEFT
            && let Some(oldest) = left.in_order.pop_front()
        {
            left.give_back.remove(&oldest);
        }
    }

    fn recently_left(&self) -> MutexGuard<'_, RecentlyLeft> {
        self.0
            .recently_left
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes every waiter ask again: notifications may have been missed.
    pub(super) fn disconnected(&self) {
        self.0
            .disconnects
            .send_modify(|disconnects| *disconnects += 1);
    }

    /// Returns the number of broken connections.
    pub(super) fn disconnects(&self) -> u64 {
        *self.0.disconnects.borrow()
    }

    fn mailboxes(&self) -> MutexGuard<'_, HashMap<Token, Mailbox>> {
        // Locked for one map operation, never across an await.
        self.0
            .mailboxes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Receives the notifications for one waiter.
pub(super) struct Subscription<'a> {
    notifications: &'a Notifications,
    token: Token,
}

impl Subscription<'_> {
    /// Waits for a notification. Returns `None` if more than `disconnects` connections have
    /// broken, after which the waiter asks again.
    pub(super) async fn next(&mut self, disconnects: u64) -> Option<Notification> {
        let mut broken = self.notifications.0.disconnects.subscribe();
        tokio::select! {
            biased;
            notification = poll_fn(|context| self.poll_next(context)) => Some(notification),
            _ = broken.wait_for(|now| *now > disconnects) => None,
        }
    }

    fn poll_next(&self, context: &mut Context<'_>) -> Poll<Notification> {
        let mut mailboxes = self.notifications.mailboxes();
        let mailbox = mailboxes.entry(self.token).or_default();
        match mailbox.unread.pop_front() {
            Some(notification) => Poll::Ready(notification),
            None => {
                mailbox.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.notifications.mailboxes().remove(&self.token);
    }
}

/// Parses a message, see `scripts/prelude.lua`.
pub(super) fn parse(message: &str) -> Option<(Token, Notification)> {
    let mut parts = message.split(':');
    let kind = parts.next()?;
    let token = Token::parse(parts.next()?)?;
    let mut number = || parts.next()?.parse::<u64>().ok();
    let notification = match kind {
        "held" => Notification::Held {
            fence: number()?,
            lease: Duration::from_millis(number()?),
            granted_at_us: i64::try_from(number()?).ok()?,
        },
        "kept" => Notification::Kept {
            remaining: Duration::from_millis(number()?),
        },
        "soon" => Notification::Soon {
            within: Duration::from_millis(number()?),
        },
        "ask" => Notification::Ask,
        "lost" => Notification::Lost,
        _ => return None,
    };
    Some((token, notification))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_messages_are_parsed_and_others_ignored() {
        let token = Token::random(crate::token::ClientId::random());
        let held = format!("held:{token}:1763865225000001:3000:1763865225000000");
        let notification = Notification::Held {
            fence: 1_763_865_225_000_001,
            lease: Duration::from_secs(3),
            granted_at_us: 1_763_865_225_000_000,
        };
        assert_eq!(parse(&held), Some((token, notification)));
        let remaining = Duration::from_millis(1500);
        assert_eq!(
            parse(&format!("kept:{token}:1500")),
            Some((token, Notification::Kept { remaining }))
        );
        let within = Duration::from_millis(1000);
        assert_eq!(
            parse(&format!("soon:{token}:1000")),
            Some((token, Notification::Soon { within }))
        );
        let lost = parse(&format!("lost:{token}"));
        assert_eq!(lost, Some((token, Notification::Lost)));
        for odd in [
            "",
            "held",
            "held:x",
            "held:1:2",
            "kept:1:-5",
            "later:1:2:3:4",
            "held:1:2:3:x",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn messages_that_a_waiter_does_not_read_are_bounded() {
        let (notifications, mut forced_releases) = Notifications::new();
        let token = Token::random(crate::token::ClientId::random());
        let _subscription = notifications.listen(token);
        let push = |message: String| PushInfo {
            kind: PushKind::Message,
            data: vec![Value::Nil, Value::BulkString(message.into_bytes())],
        };
        let (ask, lost) = (push(format!("ask:{token}")), push(format!("lost:{token}")));
        for _ in 0..2 * MAX_FORCED_RELEASES {
            notifications.pushed(&ask);
            notifications.pushed(&lost);
        }
        assert_eq!(notifications.mailboxes()[&token].unread.len(), MAX_UNREAD);
        let released = std::iter::from_fn(|| forced_releases.try_recv().ok());
        assert_eq!(released.count(), MAX_FORCED_RELEASES);
    }
}
