//! What a bench and its processes say to each other: a line of JSON each, and at the end a
//! process's intervals as they are.

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The first line to a process. On its standard input: a URL may hold a password, and
/// arguments are for everybody to read.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Orders {
    pub(super) store: String,
    /// Counted over all processes, so that names are used evenly.
    pub(super) first_task: u64,
    pub(super) tasks: u32,
    pub(super) names: u32,
    pub(super) lease: Duration,
    pub(super) work: Duration,
}

/// The second line, once all are ready. Times by the [clock](super::clock) all share.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Go {
    pub(super) start: u64,
    /// What is acquired from here on does not count any more.
    pub(super) measured: u64,
    /// From here on nothing more is acquired.
    pub(super) end: u64,
}

/// What a process says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// Connected, and all tasks wait for the start.
    Ready,
    /// About once a second: so many acquisitions so far.
    SoFar(u64),
    /// The last line; the intervals follow it.
    Done(Tally),
    /// The last line of one that cannot go on.
    Failed(String),
}

/// What the tasks of one process, or of all, have seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Tally {
    /// Acquisitions between start and end of the measurement.
    pub(super) measured: u64,
    /// All acquisitions.
    pub(super) acquired: u64,
    /// Leases that had ended before the work was done.
    pub(super) lost: u64,
    /// Acquires and releases that failed, and what the first one said.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Tasks that still waited long after everybody else was done.
    pub(super) stalled: u64,
    pub(super) waits: Waits,
}

impl Tally {
    pub(super) fn sum(tallies: &[Tally]) -> anyhow::Result<Tally> {
        let mut sum = Tally::default();
        let mut waits = histogram()?;
        for tally in tallies {
            sum.measured += tally.measured;
            sum.acquired += tally.acquired;
            sum.lost += tally.lost;
            sum.errors += tally.errors;
            sum.stalled += tally.stalled;
            if sum.first_error.is_none() {
                sum.first_error.clone_from(&tally.first_error);
            }
            for (nanos, count) in &tally.waits.0 {
                waits.saturating_record_n(*nanos, *count);
            }
        }
        sum.waits = Waits::from(&waits);
        Ok(sum)
    }
}

/// How long acquisitions took, in nanoseconds and to a thousandth, and how many of each.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Waits(Vec<(u64, u64)>);

impl Waits {
    /// In milliseconds, of `share` of them all; zero if there were none.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let count: u64 = self.0.iter().map(|(_, count)| count).sum();
        let rank = (count as f64 * share).ceil() as u64;
        let mut seen = 0;
        let nanos = self.0.iter().find_map(|(nanos, count)| {
            seen += count;
            (seen >= rank).then_some(*nanos)
        });
        nanos.unwrap_or_default() as f64 / 1e6
    }

    pub(super) fn max_ms(&self) -> f64 {
        self.0.last().map_or(0.0, |(nanos, _)| *nanos as f64 / 1e6)
    }
}

impl From<&Histogram<u64>> for Waits {
    fn from(histogram: &Histogram<u64>) -> Self {
        let longest = histogram.max();
        let recorded = histogram.iter_recorded();
        Self(
            recorded
                .map(|step| {
                    let nanos = step.value_iterated_to().min(longest);
                    (nanos, step.count_since_last_iteration())
                })
                .collect(),
        )
    }
}

/// Of nanoseconds up to the longest wait there can be, a day.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_max(86_400_000_000_000, 3).context("cannot make a histogram")
}
