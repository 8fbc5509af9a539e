//! What Redis tells of its own accord: to which waiter a lock was handed, which waiter waits
//! in vain, and that the connection broke, after which nobody knows what was missed.
//!
//! One channel a process, whatever the number of its waiters.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{PushInfo, PushKind, Value};
use tokio::sync::{mpsc, watch};

use crate::token::Token;

/// The waiters of this process, by their tokens.
#[derive(Clone)]
pub(super) struct Wakes(Arc<Inner>);

struct Inner {
    waiting: Mutex<HashMap<Token, mpsc::UnboundedSender<Wake>>>,
    /// Counts the broken connections.
    breaks: watch::Sender<u64>,
}

/// What a waiter is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
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
}

impl Wakes {
    pub(super) fn new() -> Self {
        Self(Arc::new(Inner {
            waiting: Mutex::new(HashMap::new()),
            breaks: watch::Sender::new(0),
        }))
    }

    /// Listens for `token` until the listening is dropped.
    pub(super) fn listen(&self, token: Token) -> Listening {
        let (told, wakes) = mpsc::unbounded_channel();
        self.waiting().insert(token, told);
        Listening {
            of: self.clone(),
            token,
            wakes,
            breaks: self.0.breaks.subscribe(),
        }
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
                if let Some((token, wake)) = parse(text)
                    && let Some(waiter) = self.waiting().get(&token)
                {
                    // Gone in this moment: its leaving gives the lock back.
                    let _ = waiter.send(wake);
                }
            }
            PushKind::Disconnection => self.broken(),
            _ => {}
        }
    }

    /// Something may have been pushed that nobody heard: every waiter asks again.
    pub(super) fn broken(&self) {
        self.0.breaks.send_modify(|breaks| *breaks += 1);
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<Token, mpsc::UnboundedSender<Wake>>> {
        // Held for one operation of the map, and never across an await.
        self.0
            .waiting
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A waiter's ear.
pub(super) struct Listening {
    of: Wakes,
    token: Token,
    /// At most a few: a place in the queue is granted or kept from once, and each `ask`
    /// answers an event of the queue.
    wakes: mpsc::UnboundedReceiver<Wake>,
    breaks: watch::Receiver<u64>,
}

impl Listening {
    /// What the waiter is told; `None` if the connection broke and it has to ask again.
    pub(super) async fn next(&mut self) -> Option<Wake> {
        tokio::select! {
            biased;
            wake = self.wakes.recv() => wake,
            _ = self.breaks.changed() => None,
        }
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.of.waiting().remove(&self.token);
    }
}

fn parse(message: &str) -> Option<(Token, Wake)> {
    let mut parts = message.split(':');
    let what = parts.next()?;
    let token = Token::parse(parts.next()?)?;
    let mut number = || parts.next()?.parse::<u64>().ok();
    let wake = match what {
        "held" => Wake::Held {
            fence: number()?,
            lease: Duration::from_millis(number()?),
            at: i64::try_from(number()?).ok()?,
        },
        "kept" => Wake::Kept {
            left: Duration::from_millis(number()?),
        },
        "ask" => Wake::Ask,
        _ => return None,
    };
    Some((token, wake))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_the_scripts_are_understood_and_no_others() {
        let token = Token::random();
        let held = format!("held:{token}:1763865225000001:3000:1763865225000000");
        let wake = Wake::Held {
            fence: 1_763_865_225_000_001,
            lease: Duration::from_secs(3),
            at: 1_763_865_225_000_000,
        };
        assert_eq!(parse(&held), Some((token, wake)));
        let left = Duration::from_millis(1500);
        assert_eq!(
            parse(&format!("kept:{token}:1500")),
            Some((token, Wake::Kept { left }))
        );
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
