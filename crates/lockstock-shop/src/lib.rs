//! The library behind the `lockstock` binary: a stock API whose updates are applied exactly
//! once. Its public items exist for the tests of this crate.
//!
//! - `cli`: the command line; `commands`: serve, race, locks and bench.
//! - `router`: all routes; `api`: one resource a file; `openapi`: the OpenAPI document; `http`:
//!   the middleware in front of the handlers.
//! - `drf`: the wire format of Django REST framework; `error`: every error response;
//!   [`storage`]: the databases; `batch`: calls that are sent to them together.

mod api;
mod batch;
mod cli;
mod commands;
mod drf;
mod error;
mod etag;
mod failpoint;
mod http;
mod logging;
mod openapi;
mod router;
mod settings;
mod state;
pub mod storage;

pub use cli::Cli;
use cli::Command;
use commands::{bench, locks, race, serve};

/// Runs the command that the command line names.
///
/// # Errors
///
/// Returns an error whose message is one line for the terminal.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let _scenario = failpoint::setup();
    match cli.command {
        Some(Command::Bench(args)) => bench::run(args).await,
        Some(Command::Race(args)) => race::run(args).await,
        Some(Command::Locks(args)) => locks::run(args).await,
        Some(Command::Serve(args)) => serve::run(*args).await,
        None => serve::run(cli.serve).await,
    }
}
