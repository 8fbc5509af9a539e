//! The shop through its binary, over real HTTP, on real databases and a real Redis.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod adversity;
mod article;
mod bench;
mod command_line;
mod faults;
mod hostile;
mod keys;
mod kills;
mod locks;
mod operation;
mod sales;
mod server;
mod turns;
mod updates;
