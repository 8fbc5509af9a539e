//! Shared closures and trait objects as fields of types that derive `Clone` and `Debug`.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use http::response::Parts;

/// Shared pointer that prints as `…`.
pub(crate) struct Opaque<T: ?Sized>(pub(crate) Arc<T>);

/// Decides by the head of a response, before its body is read.
pub(crate) type ResponsePredicate = Opaque<dyn Fn(&Parts) -> bool + Send + Sync>;

impl<T: ?Sized> Clone for Opaque<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: ?Sized> Deref for Opaque<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: ?Sized> fmt::Debug for Opaque<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
