//! The shop behind the `lockstock` binary: a stock API whose updates are applied exactly
//! once. A binary first; what is public here is public for its tests.
//!
//! - `cli`: the options; `commands`: serve, race, locks and bench.
//! - `router`: the routes together; `api`: the resources; `openapi`: what the document says of
//!   them; `http`: what stands in front of the handlers.
//! - `drf`: how Django REST framework reads and writes; `error`: every response that is no
//!   success; [`storage`]: the databases; `batch`: calls that go to them together.

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

/// Does what the command line says.
///
/// # Errors
///
/// One line for the person who typed it.
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
