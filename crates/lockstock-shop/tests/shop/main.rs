//! The shop through its binary, over real HTTP, on real databases and a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod bench;
mod bodies;
mod cli;
mod commit_faults;
mod crash_recovery;
mod harness;
mod idempotency;
mod locks;
mod malformed_requests;
mod operations;
mod outages;
mod race;
mod sales;
mod update_lock;
mod updates;
