//! The history of all holders: recorded by each worker, checked at the end.
//!
//! The check does not trust the lock. A worker records its intervals in the order of their
//! ends, because it reads the clock and writes the record under one mutex, before it releases.
//! Merging the workers in that order needs one record of each worker in memory, and the last
//! end of each name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufRead, BufWriter, ErrorKind, Read, Seek, Write};

use anyhow::{Context, bail};
use tempfile::tempfile;

/// The time that one holder held one name, by the shared [clock](super::clock). It begins after
/// the acquire has returned and ends before the release is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    // The first field, because intervals are ordered by their ends.
    pub(super) end_ns: u64,
    pub(super) begin_ns: u64,
    pub(super) fence: u64,
    pub(super) name: u32,
}

const INTERVAL_BYTES: usize = 28;

impl Interval {
    fn to_bytes(self) -> [u8; INTERVAL_BYTES] {
        let mut bytes = [0; INTERVAL_BYTES];
        bytes[..8].copy_from_slice(&self.end_ns.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.begin_ns.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.fence.to_le_bytes());
        bytes[24..].copy_from_slice(&self.name.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; INTERVAL_BYTES]) -> Self {
        let number = |from: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(eight)
        };
        let mut name = [0; 4];
        name.copy_from_slice(&bytes[24..]);
        Self {
            end_ns: number(0),
            begin_ns: number(8),
            fence: number(16),
            name: u32::from_le_bytes(name),
        }
    }
}

/// The intervals of one worker, in an unnamed file that the system removes even if the worker is
/// killed.
pub(super) struct IntervalFile(BufWriter<std::fs::File>);

impl IntervalFile {
    pub(super) fn create() -> anyhow::Result<Self> {
        let file = tempfile().with_context(|| {
            let folder = std::env::temp_dir();
            format!(
                "cannot create a file in {}: choose another folder with TMPDIR",
                folder.display()
            )
        })?;
        Ok(Self(BufWriter::with_capacity(1 << 16, file)))
    }

    pub(super) fn write(&mut self, interval: Interval) -> io::Result<()> {
        self.0.write_all(&interval.to_bytes())
    }

    pub(super) fn copy_to(self, to: &mut impl Write) -> io::Result<()> {
        let mut file = self
            .0
            .into_inner()
            .map_err(io::IntoInnerError::into_error)?;
        file.rewind()?;
        io::copy(&mut file, to)?;
        to.flush()
    }
}

/// The result of a check.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Violations {
    /// Intervals checked.
    pub(super) checked: u64,
    /// Intervals that began before another holder of the name had ended.
    pub(super) overlaps: u64,
    /// Intervals whose fence was not higher than that of the holder before.
    pub(super) fences: u64,
}

/// Checks the intervals of all workers, each read from its own source.
pub(super) fn check(mut sources: Vec<impl BufRead>, names: u32) -> anyhow::Result<Violations> {
    let mut heads = BinaryHeap::new();
    for (index, source) in sources.iter_mut().enumerate() {
        if let Some(first) = next(source)? {
            heads.push(Reverse((first, index)));
        }
    }
    // End and fence of the last holder of each name.
    let mut last = vec![(0, 0); usize::try_from(names)?];
    let mut violations = Violations::default();
    while let Some(Reverse((interval, index))) = heads.pop() {
        let Some((last_end_ns, last_fence)) = last.get_mut(interval.name as usize) else {
            bail!("a worker recorded a name that does not exist");
        };
        violations.checked += 1;
        // Intervals come in the order of their ends: one that overlaps with any earlier one
        // overlaps with the last.
        violations.overlaps += u64::from(interval.begin_ns < *last_end_ns);
        violations.fences += u64::from(interval.fence <= *last_fence);
        (*last_end_ns, *last_fence) = (interval.end_ns, interval.fence);
        if let Some(following) = next(&mut sources[index])? {
            if following.end_ns < interval.end_ns {
                bail!("a worker recorded its intervals out of order");
            }
            heads.push(Reverse((following, index)));
        }
    }
    Ok(violations)
}

fn next(source: &mut impl Read) -> anyhow::Result<Option<Interval>> {
    let mut bytes = [0; INTERVAL_BYTES];
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Interval::from_bytes(bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context("cannot read the intervals of a worker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks workers with intervals of (name, begin, end, fence).
    fn checked(workers: &[&[(u32, u64, u64, u64)]]) -> Violations {
        let sources = workers.iter().map(|intervals| {
            let mut file = IntervalFile::create().unwrap();
            for &(name, begin_ns, end_ns, fence) in *intervals {
                let interval = Interval {
                    end_ns,
                    begin_ns,
                    fence,
                    name,
                };
                file.write(interval).unwrap();
            }
            let mut bytes = Vec::new();
            file.copy_to(&mut bytes).unwrap();
            io::Cursor::new(bytes)
        });
        check(sources.collect(), 3).unwrap()
    }

    #[test]
    fn holders_one_after_another_are_no_violation() {
        let violations = checked(&[
            &[(0, 1, 5, 1), (1, 2, 9, 1), (0, 30, 40, 4)],
            &[(0, 5, 9, 2), (2, 1, 10, 9), (0, 10, 20, 3)],
        ]);
        assert_eq!(
            violations,
            Violations {
                checked: 6,
                ..Violations::default()
            }
        );
    }

    #[test]
    fn overlaps_are_found_across_workers_and_within_one() {
        assert_eq!(checked(&[&[(0, 1, 5, 1)], &[(0, 4, 9, 2)]]).overlaps, 1);
        assert_eq!(checked(&[&[(0, 1, 5, 1), (0, 4, 9, 2)]]).overlaps, 1);
        // An interval inside another.
        assert_eq!(checked(&[&[(0, 1, 100, 1)], &[(0, 10, 20, 2)]]).overlaps, 1);
    }

    #[test]
    fn a_fence_that_does_not_rise_is_found() {
        let violations = checked(&[&[(0, 1, 2, 7)], &[(0, 3, 4, 7)], &[(0, 5, 6, 6)]]);
        assert_eq!((violations.overlaps, violations.fences), (0, 2));
    }
}
