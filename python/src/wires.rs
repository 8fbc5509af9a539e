//! The connections of an event loop: which of its calls have one, and when it gets it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockstock::blocking::{PolledConnection, Store};
use lockstock_fork::generation;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;

use crate::bell::Bell;
use crate::wire::{Callbacks, Part, Wire};

/// After how many calls on the runtime a loop gets a connection of its own. One costs about as much as
/// is saved by so many calls, and a loop may live for one call.
const CALLS_BEFORE_CONNECTION: u32 = 8;

/// The connections of one event loop, one to each store.
#[pyclass(frozen, module = "lockstock._core")]
pub(crate) struct Wires {
    bell: Py<Bell>,
    readable: Py<PyAny>,
    check: Py<PyAny>,
    routes: Arc<Routes>,
    /// Of processes, in which it was made.
    generation: u64,
}

/// By the address of the object of the store. Locked for moments with the interpreter.
#[derive(Default)]
struct Routes(Mutex<HashMap<usize, Route>>);

/// Where the commands of a store go.
enum Route {
    /// To the runtime: so many have.
    Runtime(u32),
    /// To the runtime, until the connection is open.
    Opening,
    /// To the runtime: the store has no such connections.
    RuntimeOnly,
    Wire {
        wire: Py<Wire>,
        /// Kept, so that no other store has its address.
        store: Py<PyAny>,
    },
}

#[pymethods]
impl Wires {
    #[new]
    fn new(bell: Py<Bell>, readable: Py<PyAny>, check: Py<PyAny>) -> Self {
        Self {
            bell,
            readable,
            check,
            routes: Arc::default(),
            generation: generation(),
        }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.bell)?;
        visit.call(&self.readable)?;
        visit.call(&self.check)?;
        let Ok(routes) = self.routes.0.try_lock() else {
            return Ok(());
        };
        for route in routes.values() {
            if let Route::Wire { wire, store } = route {
                visit.call(wire)?;
                visit.call(store)?;
            }
        }
        Ok(())
    }

    fn __clear__(&self) {
        let routes = std::mem::take(&mut *self.routes.lock());
        drop(routes);
    }
}

impl Wires {
    /// Returns the connection to a store, which is that of the object `owner`. `None`: commands have to
    /// go over the runtime. After some of them it opens a connection.
    pub(crate) fn to<'py>(
        slf: &Bound<'py, Self>,
        owner: &Bound<'py, PyAny>,
        store: &Store,
    ) -> Option<Bound<'py, Wire>> {
        let wires = slf.get();
        if wires.generation != generation() {
            return None;
        }
        let mut routes = wires.routes.lock();
        let route = routes
            .entry(owner.as_ptr() as usize)
            .or_insert(Route::Runtime(0));
        let next = match route {
            Route::Wire { wire, .. } if wire.get().is_open() => {
                return Some(wire.bind(slf.py()).clone());
            }
            Route::Wire { .. } => Route::Runtime(1),
            Route::Runtime(calls) if *calls < CALLS_BEFORE_CONNECTION => Route::Runtime(*calls + 1),
            Route::Runtime(_) => Route::Opening,
            Route::Opening | Route::RuntimeOnly => return None,
        };
        let is_opening = matches!(next, Route::Opening);
        let before = std::mem::replace(route, next);
        drop(routes);
        drop(before);
        if is_opening {
            wires.open(owner, store);
        }
        None
    }

    /// Begins to connect, on another thread.
    fn open(&self, owner: &Bound<'_, PyAny>, store: &Store) {
        let Ok(runtime) = Store::runtime() else {
            return;
        };
        let loop_thread = self.bell.get().loop_thread();
        let py = owner.py();
        let callbacks = Callbacks {
            readable: self.readable.clone_ref(py),
            check: self.check.clone_ref(py),
        };
        let (store, owner) = (store.clone(), owner.clone().unbind());
        // Weak: the bell keeps what it has to call, and a loop may end before it does.
        let routes = Arc::downgrade(&self.routes);
        runtime.spawn_blocking(move || {
            let connection = store.connect_polled();
            loop_thread.call(move |py| match routes.upgrade() {
                Some(routes) => routes.add(py, owner, connection, callbacks),
                None => Ok(()),
            });
        });
    }
}

impl Routes {
    fn add(
        &self,
        py: Python<'_>,
        store: Py<PyAny>,
        connection: lockstock::Result<Option<PolledConnection<Part>>>,
        callbacks: Callbacks,
    ) -> PyResult<()> {
        let address = store.as_ptr() as usize;
        let route = match connection {
            Ok(Some(connection)) => {
                let wire = Wire::open(py, connection, callbacks)?.unbind();
                Route::Wire { wire, store }
            }
            Ok(None) => Route::RuntimeOnly,
            // The calls on the runtime report it. Later ones try again.
            Err(_) => Route::Runtime(0),
        };
        let before = self.lock().insert(address, route);
        drop(before);
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<usize, Route>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
