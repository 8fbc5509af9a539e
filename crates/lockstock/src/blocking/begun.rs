//! A call for a lock of a synchronous caller, done or waiting.

use std::fmt;
use std::pin::Pin;

use crate::error::Result;
use crate::runtime;

/// A call for a lock that was carried out on the thread of its caller, or that waits.
#[must_use = "a wait has to be polled"]
pub enum Begun<T> {
    /// It is complete.
    Done(T),
    /// It waits for messages of the store. To be polled on the [runtime](super::Store::runtime).
    Waiting(Pin<Box<dyn Future<Output = Result<T>> + Send>>),
}

impl<T> Begun<T> {
    /// Waits on this thread.
    ///
    /// # Errors
    ///
    /// Those of the call, and [`is_unavailable`](crate::Error::is_unavailable) if the runtime cannot be
    /// started.
    pub fn wait(self) -> Result<T> {
        match self {
            Self::Done(done) => Ok(done),
            Self::Waiting(waiting) => runtime::wait(waiting)?,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Begun<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done(done) => f.debug_tuple("Done").field(done).finish(),
            Self::Waiting(_) => f.write_str("Waiting"),
        }
    }
}
