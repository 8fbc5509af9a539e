//! The `lockstock` binary as a library: a stock API whose updates are applied exactly once. What
//! is public here is public for the tests of this crate.
//!
//! Modules, from the top down. A module uses only modules below it, and the leaves.
//!
//! - `cli`, `commands`: the command line; `serve`, `race`, `locks` and `bench`.
//! - `router`: all routes together.
//! - `api`: the resources.
//! - `http`, `openapi`: layers and extractors; the parts of the OpenAPI document that several
//!   operations share.
//! - `state`, `settings`: the state that handlers share.
//! - `drf`: the behaviour of Django REST framework.
//! - `error`: the error type of the API.
//! - [`storage`]: the databases.
//! - `batch`: database calls that are executed together.
//!
//! Leaves: `etag`, `timestamp`, `failpoint`, `logging`.

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
mod timestamp;

pub use cli::Cli;
use cli::Command;
use commands::{bench, locks, race, serve};

/// Runs the command of a command line.
///
/// # Errors
///
/// One line for the user.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    let _scenario = failpoint::setup();
    match cli.command {
        Some(Command::Bench(options)) => bench::bench(options).await,
        Some(Command::Race(options)) => race::race(options).await,
        Some(Command::Locks(options)) => locks::locks(options).await,
        Some(Command::Serve(options)) => start(*options).await,
        None => start(cli.serve).await,
    }
}

async fn start(options: cli::Serve) -> anyhow::Result<()> {
    let _written = logging::start(&options.log)?;
    serve::serve(options).await
}
