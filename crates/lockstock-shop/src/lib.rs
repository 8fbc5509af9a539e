//! The shop behind the `lockstock` binary: a stock API whose updates are applied exactly
//! once. A binary first; what is public here is public for its tests.
//!
//! - `cli`: the options; `serve`: start and stop; `race`: the article's test as a command;
//!   `bench`: the lock measured and checked on a store of the user's.
//!   `locks`: who holds what, for operators.
//! - `app`: the routes together; `face`: what every request meets first.
//! - `products`, `purchases`, `reservations`, `ledger`: the resources; `turns`: whose turn it
//!   is to change a product; `keys`: idempotency keys; [`storage`]: the databases.

mod answer;
mod app;
mod bench;
mod body;
mod cli;
mod combine;
mod decimal;
#[path = "http/docs_page.rs"]
mod docs_page;
mod document;
mod face;
mod failpoint;
mod fields;
mod keys;
mod ledger;
mod listing;
mod locks;
mod logging;
mod metadata;
mod negotiate;
mod operate;
mod origin;
mod places;
mod preconditions;
mod products;
mod purchases;
mod python;
mod race;
mod refusal;
mod reservations;
mod samples;
mod search;
mod serve;
pub mod storage;
mod turns;

pub use cli::Cli;
use cli::Command;

/// Runs the command on a runtime of its own.
///
/// Not an `async fn`: its code would be generated in the crate that awaits it, and so once in each
/// binary and test.
///
/// # Errors
///
/// One line for the person who typed it.
pub fn run(cli: Cli) -> anyhow::Result<()> {
    let _scenario = failpoint::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match cli.command {
            Some(Command::Bench(options)) => bench::bench(options).await,
            Some(Command::Race(options)) => race::race(options).await,
            Some(Command::Locks(options)) => locks::locks(options).await,
            Some(Command::Serve(options)) => start(*options).await,
            None => start(cli.serve).await,
        }
    })
}

async fn start(options: cli::Serve) -> anyhow::Result<()> {
    let _written = logging::start(&options.log)?;
    serve::serve(options).await
}
