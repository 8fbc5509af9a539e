//! How long the long tests are, and what chance they are played with.
//!
//! `./dev test` runs them short, `./dev soak` (`LOCKSTOCK_SOAK=1`) long. What they draw comes
//! from one seed, which is printed; `LOCKSTOCK_SEED` draws the same again.

#![allow(dead_code, reason = "no test needs all of it")]

use std::env;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// `usual`, or `long` in a soak.
pub(crate) fn size<T>(usual: T, long: T) -> T {
    match env::var("LOCKSTOCK_SOAK") {
        Ok(soak) if !matches!(&soak[..], "" | "0") => long,
        _ => usual,
    }
}

/// Chance for the test called `name`. Prints how to draw the same again.
pub(crate) fn chance(name: &str) -> StdRng {
    let seed = env::var("LOCKSTOCK_SEED").map_or_else(
        |_| rand::rng().random(),
        |seed| seed.parse::<u64>().expect("LOCKSTOCK_SEED is a number"),
    );
    println!("{name}: LOCKSTOCK_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
