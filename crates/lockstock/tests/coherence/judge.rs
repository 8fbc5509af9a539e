//! The judge of all reads, by the order of writes in real time.
//!
//! Numbers under a key only increase, so that a read is judged by one comparison: it has to return
//! at least the number of every write that had returned more than the bound before the read began.
//! Times are of the monotonic clock, which all processes of a machine share.

use std::collections::HashMap;
use std::time::Duration;

use lockstock::DEFAULT_MAX_STALENESS;

#[derive(Default)]
pub(crate) struct Judge {
    /// By key: when a write returned, and what it wrote.
    writes: HashMap<usize, Vec<(u64, i64)>>,
    /// By key: when the last read of a number by one process began, and the number.
    reads: Vec<(usize, u64, i64)>,
}

impl Judge {
    pub(crate) fn written(&mut self, key: usize, number: i64, done_at_ns: u64) {
        self.writes
            .entry(key)
            .or_default()
            .push((done_at_ns, number));
    }

    pub(crate) fn read(&mut self, key: usize, number: i64, begun_at_ns: u64) {
        self.reads.push((key, begun_at_ns, number));
    }

    /// Fails if a read returned a number that was overwritten too early. Returns the longest time
    /// between the end of a write and the beginning of a read that did not see it.
    pub(crate) fn check(&mut self) -> Duration {
        for writes in self.writes.values_mut() {
            writes.sort_unstable();
            // A write that returned later may have been carried out earlier.
            let mut newest = 0;
            for (_, number) in writes.iter_mut() {
                newest = newest.max(*number);
                *number = newest;
            }
        }
        let mut stalest_ns = 0;
        for &(key, begun_at_ns, number) in &self.reads {
            let writes = &self.writes[&key];
            let first_newer = writes.partition_point(|&(_, newest)| newest <= number);
            let Some(&(overwritten_at_ns, newer)) = writes.get(first_newer) else {
                continue;
            };
            let behind_ns = begun_at_ns.saturating_sub(overwritten_at_ns);
            assert!(
                u128::from(behind_ns) <= DEFAULT_MAX_STALENESS.as_nanos(),
                "key {key}: a read returned {number} {:?} after {newer} was written",
                Duration::from_nanos(behind_ns)
            );
            stalest_ns = stalest_ns.max(behind_ns);
        }
        assert!(!self.reads.is_empty());
        Duration::from_nanos(stalest_ns)
    }
}
