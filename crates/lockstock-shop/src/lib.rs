//! The `lockstock` binary as a library: a stock API whose updates are applied exactly once. What
//! is public here is public for the tests of this crate.
//!
//! Modules, from the top down. A module uses only modules below it, and the leaves.
//!
//! - `cli`, `commands`: the command line, and a module for each of its commands.
//! - [`product_file`]: files of products, which are imported and exported.
//! - `router`: all routes together.
//! - `api`, `board`: the resources; the pages of the live board.
//! - `http`, `openapi`: layers and extractors; the parts of the OpenAPI document that several
//!   operations share.
//! - `state`, `settings`: the state that handlers share.
//! - `prometheus`: the metrics of the process.
//! - `access`: API keys, the scopes that requests need, and rate limits.
//! - `drf`: the behaviour of Django REST framework.
//! - `error`: the error type of the API.
//! - `live`: what happens to locks and products now, as a stream.
//! - [`storage`]: the databases.
//! - `batch`: database calls that are executed together.
//!
//! Leaves: `etag`, `forwarding`, `header_list`, `http_client`, `timestamp`, `failpoint`, `health`,
//! `logging`, `private_file`, `replicas`, `traces`.

mod access;
mod api;
mod batch;
mod board;
mod cli;
mod commands;
mod drf;
mod error;
mod etag;
mod failpoint;
mod forwarding;
#[cfg(any(test, fuzzing))]
#[cfg_attr(fuzzing, doc(hidden))]
pub mod fuzzing;
mod header_list;
mod health;
mod http;
mod http_client;
mod live;
mod logging;
mod openapi;
mod private_file;
pub mod product_file;
mod prometheus;
mod replicas;
mod router;
mod settings;
mod state;
pub mod storage;
mod timestamp;
mod traces;

use std::process::ExitCode;
use std::time::Duration;

pub use cli::Cli;
use cli::Command;
use commands::{
    backup, bench, completions, config, doctor, export, import, key, locks, man, race, ready,
    serve, top,
};
use tokio::runtime::Builder;

/// How long the exit may wait for calls that block a thread.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs the command that the command line names, on a runtime of its own. Returns the exit code.
///
/// Not an `async fn`: its code would be generated in the crate that awaits it, and so once in each
/// binary and test.
///
/// # Errors
///
/// Returns an error whose message is one line for the terminal.
pub fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let _scenario = failpoint::setup();
    let mut builder = Builder::new_multi_thread();
    if let Some(args) = cli.serve_args() {
        builder.worker_threads(args.worker_threads());
    }
    let runtime = builder.enable_all().build()?;
    let result = runtime.block_on(async {
        match cli.command {
            Some(Command::Backup(args)) => backup::run(args).await?,
            Some(Command::Bench(args)) => bench::run(args).await?,
            Some(Command::Completions(args)) => completions::run(&args, cli::command())?,
            Some(Command::Config(args)) => config::run(args, &cli::serve_options(&cli::command()))?,
            Some(Command::Doctor(args)) => return doctor::run(*args).await,
            Some(Command::Export(args)) => export::run(args).await?,
            Some(Command::Import(args)) => return import::run(args).await,
            Some(Command::Race(args)) => race::run(args).await?,
            Some(Command::Key(args)) => key::run(args)?,
            Some(Command::Locks(args)) => locks::run(args).await?,
            Some(Command::Man(args)) => man::run(&args, cli::command())?,
            Some(Command::Ready(args)) => ready::run(args).await?,
            Some(Command::Serve(args)) => serve::run(*args).await?,
            Some(Command::Top(args)) => top::run(args).await?,
            None => serve::run(cli.serve).await?,
        }
        Ok(ExitCode::SUCCESS)
    });
    // A thread that waits for a disk without a reply must not keep the process alive.
    runtime.shutdown_timeout(EXIT_TIMEOUT);
    result
}
