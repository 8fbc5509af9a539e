//! The `lockstock` binary: see `lockstock --help`.

use std::process::ExitCode;

use lockstock_shop::Cli;

fn main() -> ExitCode {
    // One crypto provider for TLS to the store, to the database and to the target of a race.
    // Fails only if a provider is already installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match lockstock_shop::run(Cli::from_process()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lockstock: {error:#}");
            ExitCode::FAILURE
        }
    }
}
