//! The protocol between the coordinator and its workers: one line of JSON per message, and the
//! worker's intervals in binary after its last line.

use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// The first line that a worker reads. Sent on standard input because the store URL may hold a
/// password, and the arguments of a process are public.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct WorkerConfig {
    pub(super) store: String,
    /// Index of this worker's first task among the tasks of all workers, so that the names are
    /// used evenly.
    pub(super) first_task: u64,
    pub(super) tasks: u32,
    pub(super) names: u32,
    pub(super) lease: Duration,
    pub(super) work: Duration,
}

/// The second line that a worker reads, once all workers are ready. Times of the shared
/// [clock](super::clock).
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Schedule {
    pub(super) start_ns: u64,
    /// Later acquisitions are not measured.
    pub(super) measure_end_ns: u64,
    /// Later no acquisition starts.
    pub(super) end_ns: u64,
}

/// A line that a worker writes.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The worker is connected, and its tasks wait for the schedule.
    Ready,
    /// Number of acquisitions so far, about once a second.
    Acquired(u64),
    /// The last line; the intervals follow.
    Done(Totals),
    /// The last line of a worker that cannot continue.
    Failed(String),
}

/// The counts of one worker, or the sum of all.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Acquisitions during the measurement.
    pub(super) measured: u64,
    /// All acquisitions.
    pub(super) acquired: u64,
    /// Leases that expired before the work was done.
    pub(super) lost: u64,
    /// Acquires and releases that failed.
    pub(super) errors: u64,
    pub(super) first_error: Option<String>,
    /// Tasks that still waited long after all others had finished.
    pub(super) stalled: u64,
    pub(super) waits: Waits,
}

impl Totals {
    pub(super) fn sum(totals: &[Totals]) -> anyhow::Result<Totals> {
        let mut sum = Totals::default();
        let mut waits = histogram()?;
        for each in totals {
            sum.measured += each.measured;
            sum.acquired += each.acquired;
            sum.lost += each.lost;
            sum.errors += each.errors;
            sum.stalled += each.stalled;
            if sum.first_error.is_none() {
                sum.first_error.clone_from(&each.first_error);
            }
            for (nanos, count) in &each.waits.0 {
                waits.saturating_record_n(*nanos, *count);
            }
        }
        sum.waits = Waits::from(&waits);
        Ok(sum)
    }
}

/// A histogram of waiting times: pairs of nanoseconds, precise to a thousandth, and their count.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Waits(Vec<(u64, u64)>);

impl Waits {
    /// Returns the wait that a `share` of all waits does not exceed, or zero without waits.
    pub(super) fn quantile_ms(&self, share: f64) -> f64 {
        let total: u64 = self.0.iter().map(|(_, count)| count).sum();
        let rank = (total as f64 * share).ceil() as u64;
        let mut counted = 0;
        let nanos = self.0.iter().find_map(|(nanos, count)| {
            counted += count;
            (counted >= rank).then_some(*nanos)
        });
        nanos.unwrap_or_default() as f64 / 1e6
    }

    pub(super) fn max_ms(&self) -> f64 {
        self.0.last().map_or(0.0, |(nanos, _)| *nanos as f64 / 1e6)
    }
}

impl From<&Histogram<u64>> for Waits {
    fn from(histogram: &Histogram<u64>) -> Self {
        let max = histogram.max();
        let recorded = histogram.iter_recorded();
        Self(
            recorded
                .map(|step| {
                    let nanos = step.value_iterated_to().min(max);
                    (nanos, step.count_since_last_iteration())
                })
                .collect(),
        )
    }
}

/// Creates an empty histogram of nanoseconds, up to the longest possible wait of a day.
pub(super) fn histogram() -> anyhow::Result<Histogram<u64>> {
    Histogram::new_with_max(86_400_000_000_000, 3).context("cannot create a histogram")
}
