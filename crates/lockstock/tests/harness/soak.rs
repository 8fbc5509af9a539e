//! The size of the randomized tests, and their random numbers.
//!
//! `./dev test` runs these tests short, `./dev soak` (`LOCKSTOCK_SOAK=1`) long. Each test draws
//! from one seed and prints it; `LOCKSTOCK_SEED` repeats the same draws.

#![allow(dead_code, reason = "no suite uses all of it")]

use std::env;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Returns `long` in a soak, else `usual`.
pub(crate) fn size<T>(usual: T, long: T) -> T {
    match env::var("LOCKSTOCK_SOAK") {
        Ok(soak) if !matches!(&soak[..], "" | "0") => long,
        _ => usual,
    }
}

/// Seeds the random numbers of the test `name`, and prints how to repeat them.
pub(crate) fn chance(name: &str) -> StdRng {
    let seed = env::var("LOCKSTOCK_SEED").map_or_else(
        |_| rand::rng().random(),
        |seed| seed.parse::<u64>().expect("LOCKSTOCK_SEED is a number"),
    );
    println!("{name}: LOCKSTOCK_SEED={seed}");
    StdRng::seed_from_u64(seed)
}
