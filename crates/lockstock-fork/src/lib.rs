//! Values that belong to one process: a child of `fork` makes its own and leaves what it inherited
//! alone.
//!
//! After `fork`, the child has a copy of its parent's memory and only one of its threads. That
//! makes three kinds of inherited state dangerous:
//!
//! - A mutex may be locked, by a thread that the child does not have. Locking it blocks the child
//!   without end.
//! - A socket is shared with the parent. What the child sends arrives between the commands of the
//!   parent, and one of them reads the reply to the other's command.
//! - A runtime has no worker threads. A future on it is never polled.
//!
//! A check of the process id behind a mutex comes too late for the first kind. Therefore
//! [`PerProcess`] has no mutex: it compares the [`generation`] in which its value was made with the
//! present one, by two atomic loads. A child makes a new value and leaks the inherited one: it
//! does not lock it, write to it, or drop it.
//!
//! ```
//! use std::sync::Mutex;
//! use lockstock_fork::PerProcess;
//!
//! static IDLE: PerProcess<Mutex<Vec<std::net::TcpStream>>> = PerProcess::new();
//!
//! let idle = IDLE.get_or_init(Mutex::default);
//! assert!(idle.lock().unwrap().is_empty());
//! ```
//!
//! Code of others may have a mutex, or a value that the first call makes. [`without_fork`] runs such a
//! call while no thread forks, so that no child inherits it half done.
//!
//! Not guaranteed: what a child has if its fork began before the first call of [`generation`] had
//! returned. Call it before the first thread starts that uses what is here.
//!
//! Not guaranteed: that a child made by the bare system call (`clone`, as some runtimes of other
//! languages do) has a new generation. It has one after `fork` of the C library, from whatever
//! language. Children of `vfork` and `posix_spawn` have none, and need none: they only execute
//! another program.
//!
//! Where there is no `fork` the generation is always 0.

use std::convert::Infallible;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};

#[cfg(unix)]
mod exclusion;

#[cfg(unix)]
pub use exclusion::without_fork;

/// Runs `work`: this platform has no `fork`.
#[cfg(not(unix))]
pub fn without_fork<T>(work: impl FnOnce() -> T) -> T {
    work()
}

/// Returns the number of this process among its ancestors since the first call: it is higher in a
/// child than in its parent, and the same for all threads of a process.
///
/// Costs one atomic load after the first call.
#[cfg(unix)]
pub fn generation() -> u64 {
    use std::sync::atomic::{AtomicBool, AtomicU64};

    static GENERATION: AtomicU64 = AtomicU64::new(0);
    static IS_REGISTERED: AtomicBool = AtomicBool::new(false);

    /// Runs in the child, before `fork` returns there.
    extern "C" fn begin_generation() {
        // The child has no other thread yet. An atomic addition is safe after `fork`.
        GENERATION.fetch_add(1, Ordering::Relaxed);
        exclusion::begin_child();
    }

    if !IS_REGISTERED.load(Ordering::Acquire) {
        // Not behind a `Once`, which might be locked in a child. If several threads register the
        // handler at the same time, a fork adds more than 1, which is as good.
        // SAFETY: the handlers have the required type, and that of the child is safe after `fork`.
        let result = unsafe {
            libc::pthread_atfork(
                Some(exclusion::begin_fork),
                Some(exclusion::end_fork),
                Some(begin_generation),
            )
        };
        assert_eq!(result, 0, "no memory to register a fork handler");
        IS_REGISTERED.store(true, Ordering::Release);
    }
    GENERATION.load(Ordering::Relaxed)
}

/// Returns 0: this platform has no `fork`.
#[cfg(not(unix))]
pub fn generation() -> u64 {
    0
}

/// A value that a forked child does not inherit: it makes its own.
///
/// Never blocks. If several threads make the first value at the same time, one value is kept and
/// the others are dropped.
pub struct PerProcess<T> {
    /// Null, or a `Box` that is never freed while it is shared.
    current: AtomicPtr<Tagged<T>>,
    values: PhantomData<T>,
}

struct Tagged<T> {
    generation: u64,
    value: T,
}

impl<T> PerProcess<T> {
    /// Creates it without a value.
    pub const fn new() -> Self {
        Self {
            current: AtomicPtr::new(ptr::null_mut()),
            values: PhantomData,
        }
    }

    /// Returns the value of this process, `None` if there is none yet.
    pub fn get(&self) -> Option<&T> {
        own(self.load(), generation()).map(|tagged| &tagged.value)
    }

    /// Returns the value of this process, which `make` makes if there is none yet.
    pub fn get_or_init(&self, make: impl FnOnce() -> T) -> &T {
        match self.get_or_try_init(|| Ok::<_, Infallible>(make())) {
            Ok(value) => value,
            Err(never) => match never {},
        }
    }

    /// Returns the value of this process, which `make` makes if there is none yet.
    ///
    /// # Errors
    ///
    /// As `make`. The next call tries again.
    pub fn get_or_try_init<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&T, E> {
        let (generation, before) = (generation(), self.load());
        if let Some(tagged) = own(before, generation) {
            return Ok(&tagged.value);
        }
        let value = make()?;
        let made = Box::into_raw(Box::new(Tagged { generation, value }));
        // If it succeeds, what was inherited is leaked.
        let exchanged =
            self.current
                .compare_exchange(before, made, Ordering::AcqRel, Ordering::Acquire);
        let kept = match exchanged {
            Ok(_) => made,
            Err(other) => {
                // SAFETY: from `Box::into_raw` above, and never shared.
                drop(unsafe { Box::from_raw(made) });
                other
            }
        };
        // SAFETY: not null: `made`, or what another thread of this process has exchanged for the
        // same pointer. Neither is freed before `self` is dropped.
        Ok(unsafe { &(*kept).value })
    }

    fn load(&self) -> *mut Tagged<T> {
        self.current.load(Ordering::Acquire)
    }
}

/// Returns what `current` points to if it was made in `generation`.
fn own<'a, T>(current: *mut Tagged<T>, generation: u64) -> Option<&'a Tagged<T>> {
    // SAFETY: null or from `Box::into_raw`, and not freed before the `PerProcess` is dropped, which
    // the callers borrow for longer than the reference. An inherited value is never freed.
    let tagged = unsafe { current.as_ref() }?;
    (tagged.generation == generation).then_some(tagged)
}

impl<T> Default for PerProcess<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Drop for PerProcess<T> {
    fn drop(&mut self) {
        let current = self.load();
        if own(current, generation()).is_some() {
            // SAFETY: from `Box::into_raw`. `&mut self`: no reference to it is left. It belongs to
            // this process; an inherited value is leaked.
            drop(unsafe { Box::from_raw(current) });
        }
    }
}

// SAFETY: shares `&T` among threads, and moves a `T` from the thread that has made it to the thread
// that drops it.
unsafe impl<T: Send + Sync> Sync for PerProcess<T> {}

impl<T: std::fmt::Debug> std::fmt::Debug for PerProcess<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PerProcess").field(&self.get()).finish()
    }
}
