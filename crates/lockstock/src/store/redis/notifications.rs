//! What Redis tells of its own accord: to which waiter a lock was handed, which waiter waits
//! in vain, which holder has lost its lock, and that the connection broke, after which nobody
//! knows what was missed.
//!
//! One channel a process, whatever the number of its waiters.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};

use crate::token::Token;

/// The waiters of this process, by their tokens.
#[derive(Clone)]
pub(super) struct Notifications(Arc<Inner>);

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notifications")
    }
}

struct Inner {
    waiting: Mutex<HashMap<Token, Mailbox>>,
    left: Mutex<RecentlyLeft>,
    /// Counts the broken connections.
    breaks: watch::Sender<u64>,
    /// Whose locks were taken away.
    lost: mpsc::UnboundedSender<Token>,
}

/// What a waiter was told and has not heard. Most have what they want before they ever wait,
/// so this is kept small.
#[derive(Debug, Default)]
struct Mailbox {
    /// At most a few: a place in the queue is granted or kept from once, and each `ask`
    /// answers an event of the queue.
    told: VecDeque<Notification>,
    sleeper: Option<Waker>,
}

/// Those that left the queue lately, and how to give back what they are granted all the same: a
/// server that took over may not know that they left, and they are alive as far as it can tell.
#[derive(Default)]
struct RecentlyLeft {
    in_order: VecDeque<Token>,
    give_back: HashMap<Token, Box<dyn FnOnce() + Send>>,
}

/// How many are remembered.
const MAX_RECENTLY_LEFT: usize = 4096;

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Notification {
    /// The lock is ours, since `at` by the server's clock in µs.
    Held {
        fence: u64,
        lease: Duration,
        at: i64,
    },
    /// Nobody gets it for so long; we are out of the queue.
    Kept { left: Duration },
    /// Something changed that concerns us: ask again.
    Ask,
    /// The lock that we had was taken away.
    Lost,
}

impl Notifications {
    /// Whose locks are taken away comes out of the receiver.
    pub(super) fn new() -> (Self, mpsc::UnboundedReceiver<Token>) {
        let (lost, losers) = mpsc::unbounded_channel();
        let wakes = Self(Arc::new(Inner {
            waiting: Mutex::new(HashMap::new()),
            left: Mutex::default(),
            breaks: watch::Sender::new(0),
            lost,
        }));
        (wakes, losers)
    }

    /// Listens for `token` until the listening is dropped.
    pub(super) fn listen(&self, token: Token) -> Subscription<'_> {
        self.waiting().insert(token, Mailbox::default());
        Subscription { of: self, token }
    }

    /// Takes in what was pushed.
    pub(super) fn pushed(&self, push: &PushInfo) {
        match push.kind {
            PushKind::Message | PushKind::SMessage => {
                let [_, Value::BulkString(message)] = &push.data[..] else {
                    return;
                };
                // A message of a form that we do not know is of a version to come.
                let text = std::str::from_utf8(message).unwrap_or_default();
                let Some((token, wake)) = parse(text) else {
                    return;
                };
                if wake == Notification::Lost {
                    // Nobody to take it: the store is going.
                    let _ = self.0.lost.send(token);
                } else {
                    self.told(token, wake);
                }
            }
            PushKind::Disconnection => self.broken(),
            _ => {}
        }
    }

    fn told(&self, token: Token, wake: Notification) {
        if let Some(ear) = self.waiting().get_mut(&token) {
            ear.told.push_back(wake);
            if let Some(sleeper) = ear.sleeper.take() {
                sleeper.wake();
            }
            return;
        }
        // Gone in this moment, and its leaving is on the way; or it left long ago.
        let give_back = match wake {
            Notification::Held { .. } => self.lately_left().give_back.remove(&token),
            Notification::Kept { .. } | Notification::Ask | Notification::Lost => None,
        };
        if let Some(give_back) = give_back {
            give_back();
        }
    }

    /// `token` has left the queue, and does not want what it may be granted.
    pub(super) fn left(&self, token: Token, give_back: impl FnOnce() + Send + 'static) {
        let mut left = self.lately_left();
        left.in_order.push_back(token);
        left.give_back.insert(token, Box::new(give_back));
        if left.in_order.len() > MAX_RECENTLY_LEFT
            && let Some(oldest) = left.in_order.pop_front()
        {
            left.give_back.remove(&oldest);
        }
    }

    fn lately_left(&self) -> MutexGuard<'_, RecentlyLeft> {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something may have been pushed that nobody heard: every waiter asks again.
    pub(super) fn broken(&self) {
        self.0.breaks.send_modify(|breaks| *breaks += 1);
    }

    /// How many connections have broken.
    pub(super) fn breaks(&self) -> u64 {
        *self.0.breaks.borrow()
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Token, Mailbox>> {
        // Held for one operation of the map, and never across an await.
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens for what one waiter is told.
pub(super) struct Subscription<'a> {
    of: &'a Notifications,
    token: Token,
}

impl Subscription<'_> {
    /// What the waiter is told; `None` if more than `breaks` connections broke and it has to
    /// ask again.
    pub(super) async fn next(&mut self, breaks: u64) -> Option<Notification> {
        let mut broken = self.of.0.breaks.subscribe();
        tokio::select! {
            biased;
            wake = poll_fn(|context| self.heard(context)) => Some(wake),
            _ = broken.wait_for(|now| *now > breaks) => None,
        }
    }

    fn heard(&self, context: &mut Context<'_>) -> Poll<Notification> {
        let mut waiting = self.of.waiting();
        let ear = waiting.entry(self.token).or_default();
        match ear.told.pop_front() {
            Some(wake) => Poll::Ready(wake),
            None => {
                ear.sleeper = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl Drop for Subscription<'_> {
    fn drop(&mut self) {
        self.of.waiting().remove(&self.token);
    }
}

fn parse(message: &str) -> Option<(Token, Notification)> {
    let mut parts = message.split(':');
    let what = parts.next()?;
    let token = Token::parse(parts.next()?)?;
    let mut number = || parts.next()?.parse::<u64>().ok();
    let wake = match what {
        "held" => Notification::Held {
            fence: number()?,
            lease: Duration::from_millis(number()?),
            at: i64::try_from(number()?).ok()?,
        },
        "kept" => Notification::Kept {
            left: Duration::from_millis(number()?),
        },
        "ask" => Notification::Ask,
        "lost" => Notification::Lost,
        _ => return None,
    };
    Some((token, wake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_scripts_are_understood_and_no_others() {
        let token = Token::random(crate::token::ClientId::random());
        let held = format!("held:{token}:1763865225000001:3000:1763865225000000");
        let wake = Notification::Held {
            fence: 1_763_865_225_000_001,
            lease: Duration::from_secs(3),
            at: 1_763_865_225_000_000,
        };
        assert_eq!(parse(&held), Some((token, wake)));
        let left = Duration::from_millis(1500);
        assert_eq!(
            parse(&format!("kept:{token}:1500")),
            Some((token, Notification::Kept { left }))
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
}
