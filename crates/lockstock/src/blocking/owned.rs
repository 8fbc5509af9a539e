//! A value that only the process that made it may touch.

use lockstock_fork::generation;

/// In a child of `fork`, it is as if the value were not there: it is neither read nor dropped.
pub(super) struct Owned<T> {
    /// `None` once it was taken.
    value: Option<T>,
    generation: u64,
}

impl<T> Owned<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            value: Some(value),
            generation: generation(),
        }
    }

    /// Returns the value, `None` in a child.
    pub(super) fn get(&self) -> Option<&T> {
        self.value.as_ref().filter(|_| self.is_own())
    }

    /// Returns the value, `None` in a child.
    pub(super) fn get_mut(&mut self) -> Option<&mut T> {
        match self.is_own() {
            true => self.value.as_mut(),
            false => None,
        }
    }

    /// Takes the value, `None` in a child.
    pub(super) fn take(&mut self) -> Option<T> {
        let value = self.value.take()?;
        if self.is_own() {
            return Some(value);
        }
        // A mutex of the parent may be locked, and its runtime is not there.
        std::mem::forget(value);
        None
    }

    fn is_own(&self) -> bool {
        self.generation == generation()
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
