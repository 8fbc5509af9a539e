//! Random numbers that no other process draws.

use std::cell::Cell;

use lockstock_fork::generation;
use rand::distr::{Distribution, StandardUniform};

/// Returns a random value: all bits of an integer, from 0 to 1 for a float.
///
/// A child of `fork` inherits the state of the generator of its thread, which does not notice: its
/// next numbers would be those of its parent and of its siblings. Two holders would have the same
/// token, and all children would compute a value early at the same moment.
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    thread_local! {
        static SEEDED_IN: Cell<Option<u64>> = const { Cell::new(None) };
    }
    // A first use seeds too: the application may have used the generator before a fork.
    let generation = Some(generation());
    if SEEDED_IN.replace(generation) != generation {
        // Without a new seed the numbers may be repeated: no token is safer than such a token.
        let reseeded = rand::rng().reseed();
        reseeded.expect("the system has random numbers");
    }
    rand::random()
}
