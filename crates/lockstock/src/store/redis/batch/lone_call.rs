//! A call that its caller carries out, on its own task: without the wake-ups of another task.
//!
//! Guarantee: the call reaches its end even if its caller drops it, never polls it, or stops polling
//! it. It is begun before the caller has the reply to wait for. A task of its own carries it on if its
//! caller drops it, if it can go on before its caller has polled it, if another operation waits behind
//! it, and after 200 ms (`batch.rs`).

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use tokio::runtime::Handle;

pub(super) struct LoneCall {
    /// `None` once it is done. Locked while it is polled.
    call: Mutex<Option<BoxFuture<'static, ()>>>,
    /// The task that polls it. Empty from the moment it is woken until it polls again.
    polled_by: AtomicWaker,
    /// Whether a task of its own polls it, and its caller does not any more.
    is_detached: AtomicBool,
    runtime: Handle,
}

impl LoneCall {
    pub(super) fn new(call: BoxFuture<'static, ()>, runtime: Handle) -> Self {
        Self {
            call: Mutex::new(Some(call)),
            polled_by: AtomicWaker::new(),
            is_detached: AtomicBool::new(false),
            runtime,
        }
    }

    /// Sends the command, if there is a connection.
    pub(super) fn begin(self: &Arc<Self>) {
        let _ = self.advance(None, || true);
    }

    /// Carries the call on for its caller. Pending if a task of its own does.
    pub(super) fn poll(self: &Arc<Self>, context: &mut Context<'_>) -> Poll<()> {
        if Handle::try_current().is_err() {
            // Without a runtime there are no timers.
            self.detach();
            return Poll::Pending;
        }
        self.advance(Some(context), || !self.is_detached())
    }

    /// Carries the call on in a task of its own.
    pub(super) fn detach(self: &Arc<Self>) {
        if !self.is_detached.swap(true, Ordering::SeqCst) {
            self.runtime.spawn(Detached(self.clone()));
        }
    }

    /// Returns whether a task of its own carries the call on. If that changes after the caller has polled
    /// it, the caller is woken.
    pub(super) fn is_detached(&self) -> bool {
        self.is_detached.load(Ordering::SeqCst)
    }

    /// Polls the call if the caller of this may.
    fn advance(
        self: &Arc<Self>,
        context: Option<&mut Context<'_>>,
        may_poll: impl FnOnce() -> bool,
    ) -> Poll<()> {
        let mut slot = self.call.lock().unwrap_or_else(PoisonError::into_inner);
        // With the mutex: a task that is detached later polls later, and replaces the waker.
        if !may_poll() {
            return Poll::Pending;
        }
        // Not put back if it panics: it must not be polled again.
        let Some(mut call) = slot.take() else {
            return Poll::Ready(());
        };
        if let Some(context) = context {
            let before = self.polled_by.take();
            self.polled_by.register(context.waker());
            if let Some(before) = before
                && !before.will_wake(context.waker())
            {
                before.wake();
            }
        }
        let waker = Waker::from(self.clone());
        let polled = call.poll_unpin(&mut Context::from_waker(&waker));
        if polled.is_pending() {
            *slot = Some(call);
        }
        polled
    }
}

impl Wake for LoneCall {
    fn wake(self: Arc<Self>) {
        match self.polled_by.take() {
            Some(waker) => waker.wake(),
            None => self.detach(),
        }
    }
}

/// A call in a task of its own.
struct Detached(Arc<LoneCall>);

impl Future for Detached {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        self.0.advance(Some(context), || true)
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        // If it is not done, the runtime is gone: its caller gets an error.
        let slot = &self.0.call;
        let call = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(call);
        if let Some(waker) = self.0.polled_by.take() {
            waker.wake();
        }
    }
}
