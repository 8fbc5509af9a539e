//! Futures that are polled step by step.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;

/// Polls once. A call on a memory store runs until it has to wait for another caller.
pub(crate) async fn step<T>(future: &mut Pin<Box<impl Future<Output = T>>>) -> Option<T> {
    poll_fn(|context| {
        Poll::Ready(match future.as_mut().poll(context) {
            Poll::Ready(done) => Some(done),
            Poll::Pending => None,
        })
    })
    .await
}

/// Polls at most `count` times, each time it is woken, and drops the future. Returns whether it was
/// done by then.
pub(crate) async fn run_for<T>(future: impl Future<Output = T>, mut count: usize) -> bool {
    let mut future = Box::pin(future);
    poll_fn(move |context| {
        if count == 0 {
            return Poll::Ready(false);
        }
        count -= 1;
        match future.as_mut().poll(context) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if count == 0 => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
