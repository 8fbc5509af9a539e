//! Near caches beside writers: no read returns what the guarantees of `Cache::near` exclude.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/mod.rs"]
mod harness;

mod races;
