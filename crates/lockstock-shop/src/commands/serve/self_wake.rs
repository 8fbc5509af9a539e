//! Futures that wake themselves while they are polled.
//!
//! hyper's connections do, for each body: the handler asks for a part of it, which wakes the task that
//! reads the connection, and the part that arrives wakes the task of the handler; both are the same. The
//! runtime would put the task at the end of its queue, and wake another thread that looks for work. On an
//! idle machine that costs more than the request.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// Number of times that a future is polled in a row. Other tasks have a turn after that.
const MAX_POLLS: usize = 8;

/// The future is not being polled.
const IDLE: u8 = 0;
/// It is being polled.
const POLLED: u8 = 1;
/// It was woken while it was polled.
const WOKEN: u8 = 2;

/// Runs a future to its end. If it is woken while it is polled, polls it again at once.
pub(super) async fn poll_again_at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    let wakes = Arc::new(Wakes::default());
    let waker = Waker::from(wakes.clone());
    poll_fn(|context| {
        wakes.task.register(context.waker());
        for _ in 0..MAX_POLLS {
            wakes.state.store(POLLED, Ordering::SeqCst);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() || wakes.replace(POLLED, IDLE) == POLLED {
                return polled;
            }
        }
        wakes.state.store(IDLE, Ordering::SeqCst);
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}

/// Wakes a task, unless it is polling.
#[derive(Default)]
struct Wakes {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wakes {
    /// Changes the state to `to` if it is `from`. Returns what it was.
    fn replace(&self, from: u8, to: u8) -> u8 {
        let (success, failure) = (Ordering::SeqCst, Ordering::SeqCst);
        let replaced = self.state.compare_exchange(from, to, success, failure);
        replaced.unwrap_or_else(|other| other)
    }
}

impl Wake for Wakes {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.replace(POLLED, WOKEN) == IDLE {
            self.task.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use tokio::sync::Notify;
    use tokio::task::yield_now;

    use super::*;

    /// Counts the polls of a future.
    async fn counted<F: Future>(polls: &AtomicUsize, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            polls.fetch_add(1, Ordering::SeqCst);
            future.as_mut().poll(context)
        })
        .await
    }

    /// Wakes the task that polls it, once in each of `left` polls.
    async fn self_waking(mut left: usize) {
        poll_fn(|context| {
            if left == 0 {
                return Poll::Ready(());
            }
            left -= 1;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[tokio::test]
    async fn a_future_that_wakes_itself_is_polled_again_by_the_same_poll() {
        for (wakes, expected) in [(0, 1), (1, 1), (7, 1), (8, 2), (20, 3)] {
            let polls = AtomicUsize::new(0);
            counted(&polls, poll_again_at_once(self_waking(wakes))).await;
            assert_eq!(polls.into_inner(), expected, "{wakes}");
        }
    }

    #[tokio::test]
    async fn other_tasks_have_a_turn() {
        let looping = tokio::spawn(poll_again_at_once(self_waking(usize::MAX)));
        for _ in 0..10 {
            yield_now().await;
        }
        looping.abort();
        assert!(looping.await.unwrap_err().is_cancelled());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn no_wake_of_another_thread_is_lost() {
        let (here, there) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let (notified, notify) = (here.clone(), there.clone());
        let runtime = tokio::runtime::Handle::current();
        let other = thread::spawn(move || {
            for _ in 0..10_000 {
                notify.notify_one();
                runtime.block_on(notified.notified());
            }
        });
        let both = async {
            for _ in 0..10_000 {
                there.notified().await;
                here.notify_one();
            }
        };
        poll_again_at_once(both).await;
        other.join().unwrap();
    }
}
