//! The results of a bench, as a table or as one line of JSON.

use std::fmt::Write;

use anyhow::bail;
use lockstock::redact_url;
use serde_json::{Value, json};

use super::LockArgs;
use super::history::Violations;
use super::messages::Totals;

pub(super) struct Report<'a> {
    pub(super) args: &'a LockArgs,
    pub(super) totals: Totals,
    pub(super) violations: Violations,
    /// Commands per acquisition and its release, or why they are unknown.
    pub(super) commands: Result<f64, String>,
}

impl Report<'_> {
    fn acquisitions_per_second(&self) -> f64 {
        self.totals.measured as f64 / f64::from(self.args.seconds)
    }

    pub(super) fn json(&self) -> Value {
        let (args, totals, waits) = (self.args, &self.totals, &self.totals.waits);
        json!({
            "acquisitions_per_s": rounded(self.acquisitions_per_second(), 1),
            "wait_p50_ms": rounded(waits.quantile_ms(0.5), 4),
            "wait_p99_ms": rounded(waits.quantile_ms(0.99), 4),
            "wait_max_ms": rounded(waits.max_ms(), 4),
            "commands_per_acquisition": self.commands.as_ref().ok().map(|each| rounded(*each, 4)),
            "commands_unknown_because": self.commands.as_ref().err(),
            "overlaps": self.violations.overlaps,
            "fence_violations": self.violations.fences,
            "acquisitions": totals.acquired,
            "lost": totals.lost,
            "stalled": totals.stalled,
            "errors": totals.errors,
            "first_error": totals.first_error,
            "store": redact_url(&args.store),
            "names": args.names,
            "tasks": args.tasks,
            "processes": args.processes,
            "seconds": args.seconds,
        })
    }

    pub(super) fn table(&self) -> String {
        let (args, totals, waits) = (self.args, &self.totals, &self.totals.waits);
        let mut table = format!(
            "{} × {}, {}, {} s on {}\n",
            counted(args.processes, "process", "processes"),
            counted(args.tasks, "task", "tasks"),
            counted(args.names, "name", "names"),
            args.seconds,
            redact_url(&args.store),
        );
        let mut line = |metric: &str, value: &str, note: &str| {
            // Writing to a String cannot fail.
            let _ = writeln!(table, "  {metric:<14}{value:>14}  {note}");
        };
        line(
            "acquisitions",
            &format!("{:.0}/s", self.acquisitions_per_second()),
            "",
        );
        let ms = |value: f64| format!("{value:.3} ms");
        line(
            "wait, median",
            &ms(waits.quantile_ms(0.5)),
            "from acquire to held",
        );
        line("wait, p99", &ms(waits.quantile_ms(0.99)), "");
        line("wait, longest", &ms(waits.max_ms()), "");
        match &self.commands {
            Ok(each) => {
                let note = match *each > 0.0 {
                    true => "to Redis, for acquire and release together",
                    false => "the store is in memory",
                };
                line("commands each", &format!("{each:.3}"), note);
            }
            Err(reason) => line("commands each", "unknown", reason),
        }
        let note = format!(
            "of {} holders, by a clock outside the lock",
            totals.acquired
        );
        line("overlaps", &self.violations.overlaps.to_string(), &note);
        if self.violations.fences > 0 {
            let count = self.violations.fences.to_string();
            line("bad fences", &count, "not higher than the fence before");
        }
        if totals.lost > 0 {
            let note = "leases that expired before the work was done";
            line("lost", &totals.lost.to_string(), note);
        }
        table
    }

    /// Fails if the lock violated a guarantee, if a call failed or if a task stalled.
    pub(super) fn ensure_sound(&self) -> anyhow::Result<()> {
        let (totals, violations) = (&self.totals, &self.violations);
        let overlaps = counted(violations.overlaps, "holder", "holders");
        if violations.overlaps > 0 && totals.lost > 0 {
            bail!(
                "{overlaps} overlapped, and {} expired during the work: the lease must be longer \
                 than any pause of this machine, give a longer --lease",
                counted(totals.lost, "lease", "leases")
            );
        }
        if violations.overlaps > 0 {
            bail!("{overlaps} overlapped: the lock did not exclude them");
        }
        if violations.fences > 0 {
            bail!(
                "{} not higher than the fence before",
                counted(violations.fences, "fence was", "fences were")
            );
        }
        if let Some(error) = &totals.first_error {
            bail!(
                "{} failed, the first with: {error}",
                counted(totals.errors, "call", "calls")
            );
        }
        if totals.stalled > 0 {
            bail!(
                "{} still waited long after all others had finished: see the longest wait",
                counted(totals.stalled, "task", "tasks")
            );
        }
        Ok(())
    }
}

pub(super) fn counted(count: impl Into<u64>, singular: &str, plural: &str) -> String {
    let count = count.into();
    format!("{count} {}", if count == 1 { singular } else { plural })
}

pub(super) fn rounded(value: f64, places: i32) -> f64 {
    let scale = 10_f64.powi(places);
    (value * scale).round() / scale
}
