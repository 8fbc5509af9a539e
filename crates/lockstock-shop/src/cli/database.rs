//! The database of commands that run without a server.

use clap::Args;

#[derive(Debug, Args)]
pub(crate) struct DatabaseArgs {
    /// URL of the database, the same as the server's: sqlite://FILE or
    /// postgres://USER:PASSWORD@HOST/NAME
    #[arg(
        long = "database",
        env = "LOCKSTOCK_DATABASE",
        value_name = "URL",
        default_value = "sqlite://lockstock.sqlite3",
        hide_env_values = true
    )]
    pub(crate) url: String,
}
