//! Clients of Rust cache libraries, which `./dev bench cache` starts. All libraries run in the same
//! loop and in turns, so that only the library differs.
//!
//!   cache-clients redis URL get|set TASKS BYTES SECONDS ROUNDS LIBRARY...
//!   cache-clients near URL KEYS BYTES SECONDS ROUNDS LIBRARY...
//!
//! `redis` sends commands to Redis from TASKS tasks. `near` reads KEYS values again and again on one
//! thread, from the memory of the process. Both print a line of JSON for each library and round.

mod load;
mod near;
mod remote;

use anyhow::{Context, Result, bail};

use self::load::Load;

#[tokio::main]
async fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words[..] {
        [
            "redis",
            url,
            operation,
            tasks,
            bytes,
            seconds,
            rounds,
            ref libraries @ ..,
        ] => {
            let load = Load {
                tasks: tasks.parse().context("TASKS")?,
                bytes: bytes.parse().context("BYTES")?,
                seconds: seconds.parse().context("SECONDS")?,
            };
            let rounds = rounds.parse().context("ROUNDS")?;
            remote::run(url, operation, load, rounds, libraries).await
        }
        [
            "near",
            url,
            keys,
            bytes,
            seconds,
            rounds,
            ref libraries @ ..,
        ] => {
            let near = near::Near {
                url,
                keys: keys.parse().context("KEYS")?,
                bytes: bytes.parse().context("BYTES")?,
                seconds: seconds.parse().context("SECONDS")?,
            };
            near.run(rounds.parse().context("ROUNDS")?, libraries).await
        }
        _ => bail!("invalid arguments: see main.rs"),
    }
}

/// Returns the libraries in the order of a round: each second one is reversed, so that drift affects
/// all libraries equally.
fn order<T>(libraries: &[T], round: u32) -> Vec<&T> {
    match round % 2 {
        0 => libraries.iter().collect(),
        _ => libraries.iter().rev().collect(),
    }
}
