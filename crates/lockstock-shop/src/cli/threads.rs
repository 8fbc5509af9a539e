//! The number of threads of the server.

use std::num::NonZero;
use std::thread::available_parallelism;

use clap::Args;

use super::values::number_in;
use crate::storage;

#[derive(Debug, Args)]
pub(crate) struct ThreadArgs {
    /// Number of threads that handle requests [default: one for each core; beside Postgres one fewer,
    /// so that a core is left to it]
    #[arg(long, env = "LOCKSTOCK_WORKER_THREADS", value_name = "NUMBER", value_parser = number_in(1..=1024_usize, 2), help_heading = "Limits")]
    worker_threads: Option<usize>,
}

impl ThreadArgs {
    /// Returns the number of threads of a server with the database at `url`.
    pub(crate) fn count(&self, url: &str) -> usize {
        let cores = available_parallelism().map_or(1, NonZero::get);
        self.worker_threads
            .unwrap_or_else(|| default_count(cores, storage::is_server(url)))
    }
}

fn default_count(cores: usize, with_server: bool) -> usize {
    cores.saturating_sub(usize::from(with_server)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_core_is_left_to_postgres() {
        assert_eq!(default_count(8, true), 7);
        assert_eq!(default_count(2, true), 1);
        assert_eq!(default_count(1, true), 1);
        assert_eq!(default_count(2, false), 2);
    }

    #[test]
    fn the_option_comes_before_the_number_of_cores() {
        let args = ThreadArgs {
            worker_threads: Some(3),
        };
        assert_eq!(args.count("postgres://shop@127.0.0.1/shop"), 3);
        assert_eq!(args.count("sqlite://shop.sqlite3"), 3);
    }
}
