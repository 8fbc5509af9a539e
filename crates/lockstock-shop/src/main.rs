//! The `lockstock` binary: see `lockstock --help`.

use std::process::ExitCode;

use clap::Parser;
use lockstock_shop::Cli;

fn main() -> ExitCode {
    // One crypto library for TLS to the store, to the database and to a server raced on.
    // Fails only if there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match lockstock_shop::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("lockstock: {why:#}");
            ExitCode::FAILURE
        }
    }
}
