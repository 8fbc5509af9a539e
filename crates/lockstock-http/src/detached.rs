//! Handlers that outlive a disconnected client.
//!
//! A server drops the future of a request when the client disconnects. A write must not stop
//! halfway because of that, and its lock must not stay taken, so the rest of the handler then runs on
//! a task of its own.
//!
//! A disconnect must not cancel the handler, but losing the lock must, even if an inner layer has
//! moved the handler to a task. A layer that stops handlers therefore puts a [`Cancellation`] into the
//! request, and every layer that runs a handler observes it.

use std::future::pending;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Request;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

/// Handlers of one layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct DetachedTasks(TaskTracker);

impl DetachedTasks {
    /// Runs a handler until it finishes or is cancelled.
    ///
    /// # Cancellation
    ///
    /// Dropping this future does not stop the handler: the rest of it runs on a task of its own. If
    /// `cancellation` stops the handler, this future never resolves: the layer that cancelled has
    /// dropped it or is about to.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        cancellation: Cancellation,
        handler: impl Future<Output = T> + Send + 'static,
    ) -> T {
        let handler = async move {
            tokio::select! {
                biased;
                () = cancellation.0.cancelled() => None,
                output = handler => Some(output),
            }
        };
        let handler = self.0.track_future(handler.in_current_span());
        match (Attached(Some(handler.boxed()))).await {
            Some(output) => output,
            None => pending().await,
        }
    }

    /// Runs a task whose end is not awaited: here as far as it gets, and the rest on a task of its own
    /// once there is something to do for it. A task that is spawned at once would wake another thread,
    /// only to wait.
    ///
    /// # Panics
    ///
    /// Outside a tokio runtime.
    pub(crate) fn begin(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut task = self.0.track_future(task.in_current_span()).boxed();
        let begun = Arc::new(Begun {
            state: Mutex::new(BegunState::Polled),
            runtime: Handle::current(),
        });
        let waker = Waker::from(begun.clone());
        if task
            .poll_unpin(&mut Context::from_waker(&waker))
            .is_pending()
        {
            begun.wait(task);
        }
    }

    /// Waits until every handler and every task has finished.
    pub(crate) async fn drain(&self) {
        // `wait` returns only after `close`. A closed tracker still accepts new tasks.
        self.0.close();
        self.0.wait().await;
    }
}

/// A handler that its caller runs. If the caller drops it, a task runs the rest.
struct Attached<T: Send + 'static>(Option<BoxFuture<'static, T>>);

impl<T: Send + 'static> Future for Attached<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        // Not put back if it panics: it must not be polled again.
        let Some(mut handler) = self.0.take() else {
            return Poll::Pending;
        };
        let polled = handler.poll_unpin(context);
        if polled.is_pending() {
            self.0 = Some(handler);
        }
        polled
    }
}

impl<T: Send + 'static> Drop for Attached<T> {
    fn drop(&mut self) {
        if let Some(handler) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(handler.map(drop));
        }
    }
}

/// A task that was polled once, and is spawned when it is woken.
struct Begun {
    state: Mutex<BegunState>,
    runtime: Handle,
}

enum BegunState {
    /// It is being polled, or has ended.
    Polled,
    /// It was woken, while it was polled or when it was spawned.
    Woken,
    Waiting(BoxFuture<'static, ()>),
}

impl Begun {
    /// Keeps the task until it is woken.
    fn wait(&self, task: BoxFuture<'static, ()>) {
        let mut state = self.state();
        match *state {
            BegunState::Woken => drop(self.runtime.spawn(task)),
            _ => *state = BegunState::Waiting(task),
        }
    }

    fn state(&self) -> MutexGuard<'_, BegunState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Begun {
    fn wake(self: Arc<Self>) {
        let before = std::mem::replace(&mut *self.state(), BegunState::Woken);
        if let BegunState::Waiting(task) = before {
            self.runtime.spawn(task);
        }
    }
}

/// Stops the handler of a request on every task that it uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancellation(CancellationToken);

impl Cancellation {
    /// Returns the cancellation that an outer layer has put into the request.
    pub(crate) fn of<B>(request: &Request<B>) -> Self {
        request.extensions().get().cloned().unwrap_or_default()
    }

    /// Puts a cancellation for the inner layers into the request, and returns it. Cancelling the
    /// outer layers cancels it too.
    pub(crate) fn child<B>(&self, request: &mut Request<B>) -> Self {
        let child = Self(self.0.child_token());
        request.extensions_mut().insert(child.clone());
        child
    }

    /// Stops the handler in the inner layers.
    pub(crate) fn cancel(&self) {
        self.0.cancel();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use tokio::sync::oneshot;
    use tokio::task::{try_id, yield_now};

    use super::*;

    #[tokio::test]
    async fn a_task_that_can_end_at_once_ends_before_its_caller_goes_on() {
        let tasks = DetachedTasks::default();
        let has_ended = Arc::new(AtomicBool::new(false));
        let ended = has_ended.clone();
        tasks.begin(async move { ended.store(true, Ordering::SeqCst) });
        assert!(has_ended.load(Ordering::SeqCst));
        tasks.drain().await;
    }

    #[tokio::test]
    async fn a_task_that_waits_is_begun_here_and_ends_on_a_task_of_its_own() {
        let tasks = DetachedTasks::default();
        let (wake, woken) = oneshot::channel();
        let (reply, ids) = oneshot::channel();
        let here = tokio::spawn({
            let tasks = tasks.clone();
            async move {
                tasks.begin(async move {
                    let begun_on = try_id();
                    woken.await.unwrap();
                    reply.send((begun_on, try_id())).unwrap();
                });
                try_id()
            }
        });
        let here = here.await.unwrap();
        // From a thread without a runtime.
        thread::spawn(|| wake.send(()).unwrap()).join().unwrap();
        tasks.drain().await;
        let (begun_on, ended_on) = ids.await.unwrap();
        assert_eq!(begun_on, here);
        assert!(ended_on.is_some() && ended_on != here);
    }

    #[tokio::test]
    async fn a_task_that_wakes_itself_while_it_begins_goes_on() {
        let tasks = DetachedTasks::default();
        tasks.begin(std::future::poll_fn({
            let mut polls = 0;
            move |context| {
                polls += 1;
                context.waker().wake_by_ref();
                match polls {
                    3 => Poll::Ready(()),
                    _ => Poll::Pending,
                }
            }
        }));
        tasks.begin(yield_now());
        tasks.drain().await;
    }
}
