//! The shop through its binary, over real HTTP, on real databases and a real Redis.

mod article;
mod command_line;
mod faults;
mod hostile;
mod operation;
mod server;
mod updates;
