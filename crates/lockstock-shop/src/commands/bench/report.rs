//! What a bench has found: to read, or one line of JSON.

use std::fmt::Write;

use anyhow::bail;
use lockstock::redact_url;
use serde_json::{Value, json};

use super::history::Verdict;
use super::messages::Tally;
use crate::cli::LockBench;

pub(super) struct Outcome<'a> {
    pub(super) options: &'a LockBench,
    pub(super) tally: Tally,
    pub(super) verdict: Verdict,
    pub(super) commands: Commands,
}

/// What an acquisition and its release took of the store.
pub(super) enum Commands {
    Counted(f64),
    /// And why.
    Unknown(String),
}

impl From<Result<f64, String>> for Commands {
    fn from(counted: Result<f64, String>) -> Self {
        match counted {
            Ok(each) => Self::Counted(each),
            Err(why) => Self::Unknown(why),
        }
    }
}

impl Outcome<'_> {
    fn per_second(&self) -> f64 {
        self.tally.measured as f64 / f64::from(self.options.seconds)
    }

    pub(super) fn json(&self) -> Value {
        let (options, tally, waits) = (self.options, &self.tally, &self.tally.waits);
        let (commands, why) = match &self.commands {
            Commands::Counted(each) => (Some(rounded(*each, 4)), None),
            Commands::Unknown(why) => (None, Some(why)),
        };
        json!({
            "acquisitions_per_s": rounded(self.per_second(), 1),
            "wait_p50_ms": rounded(waits.quantile_ms(0.5), 4),
            "wait_p99_ms": rounded(waits.quantile_ms(0.99), 4),
            "wait_max_ms": rounded(waits.max_ms(), 4),
            "commands_per_acquisition": commands,
            "commands_unknown_because": why,
            "overlaps": self.verdict.overlaps,
            "fence_violations": self.verdict.fence_violations,
            "acquisitions": tally.acquired,
            "lost": tally.lost,
            "stalled": tally.stalled,
            "errors": tally.errors,
            "first_error": tally.first_error,
            "store": redact_url(&options.store),
            "names": options.names,
            "tasks": options.tasks,
            "processes": options.processes,
            "seconds": options.seconds,
        })
    }

    pub(super) fn picture(&self) -> String {
        let (options, tally, waits) = (self.options, &self.tally, &self.tally.waits);
        let mut picture = format!(
            "{} × {}, {}, {} s on {}\n",
            many(options.processes, "process", "processes"),
            many(options.tasks, "task", "tasks"),
            many(options.names, "name", "names"),
            options.seconds,
            redact_url(&options.store),
        );
        let mut line = |what: &str, figure: &str, note: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(picture, "  {what:<14}{figure:>14}  {note}");
        };
        line("acquisitions", &format!("{:.0}/s", self.per_second()), "");
        let ms = |figure: f64| format!("{figure:.3} ms");
        line(
            "wait, median",
            &ms(waits.quantile_ms(0.5)),
            "from asking to holding",
        );
        line("wait, p99", &ms(waits.quantile_ms(0.99)), "");
        line("wait, longest", &ms(waits.max_ms()), "");
        match &self.commands {
            Commands::Counted(each) => {
                let note = "to Redis, acquire and release together";
                let note = if *each > 0.0 {
                    note
                } else {
                    "there is no Redis"
                };
                line("commands each", &format!("{each:.3}"), note);
            }
            Commands::Unknown(why) => line("commands each", "unknown", why),
        }
        let holders = format!(
            "of {} holders, by the clock outside the lock",
            tally.acquired
        );
        line("overlaps", &self.verdict.overlaps.to_string(), &holders);
        if self.verdict.fence_violations > 0 {
            let figure = self.verdict.fence_violations.to_string();
            line("bad fences", &figure, "not higher than the one before");
        }
        if tally.lost > 0 {
            let note = "leases that ended before their work";
            line("lost", &tally.lost.to_string(), note);
        }
        picture
    }

    /// An error unless everything was as it must be.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        let (tally, verdict) = (&self.tally, &self.verdict);
        if verdict.overlaps > 0 && tally.lost > 0 {
            bail!(
                "{} holders overlapped, and {} lost their lease while they worked: a lease must \
                 be longer than any pause of this machine, give a longer --lease",
                verdict.overlaps,
                tally.lost
            );
        }
        if verdict.overlaps > 0 {
            bail!("{} holders overlapped: this is no lock", verdict.overlaps);
        }
        if verdict.fence_violations > 0 {
            bail!(
                "{} fences were not higher than the one before",
                verdict.fence_violations
            );
        }
        if let Some(error) = &tally.first_error {
            bail!(
                "{} acquires or releases failed, the first: {error}",
                tally.errors
            );
        }
        if tally.stalled > 0 {
            bail!(
                "{} tasks still waited long after everybody else was done: see the longest wait",
                tally.stalled
            );
        }
        Ok(())
    }
}

fn many(number: u32, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn rounded(figure: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (figure * scale).round() / scale
}
