//! The `lockstock` binary: see `lockstock --help`.

use std::process::ExitCode;

use clap::Parser;
use lockstock_shop::Cli;

#[tokio::main]
async fn main() -> ExitCode {
    match lockstock_shop::run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("lockstock: {why:#}");
            ExitCode::FAILURE
        }
    }
}
