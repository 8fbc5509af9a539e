//! Who held what, from when to when: written down by each process, judged when all is over.
//!
//! Nothing here trusts the lock. A process writes its intervals in the order in which they
//! end, because it takes the end and writes under one mutex, before it releases. Merging the
//! processes by that order needs one record of each in memory, and one end for each name.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, BufRead, BufWriter, ErrorKind, Read, Seek, Write};

use anyhow::{Context, bail};
use tempfile::tempfile;

/// One holding of one name. Times by the [clock](super::clock) all processes share: the begin
/// is taken after the acquire has returned, the end before the release is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    // First, for it is the order.
    pub(super) end: u64,
    pub(super) begin: u64,
    pub(super) fence: u64,
    pub(super) name: u32,
}

const BYTES: usize = 28;

impl Interval {
    fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..8].copy_from_slice(&self.end.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.begin.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.fence.to_le_bytes());
        bytes[24..].copy_from_slice(&self.name.to_le_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; BYTES]) -> Self {
        let number = |from: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&bytes[from..from + 8]);
            u64::from_le_bytes(eight)
        };
        let mut name = [0; 4];
        name.copy_from_slice(&bytes[24..]);
        Self {
            end: number(0),
            begin: number(8),
            fence: number(16),
            name: u32::from_le_bytes(name),
        }
    }
}

/// The intervals of one process, in a file without a name: nothing is left behind, however the
/// process ends.
pub(super) struct Log(BufWriter<std::fs::File>);

impl Log {
    pub(super) fn new() -> anyhow::Result<Self> {
        let file = tempfile().with_context(|| {
            let folder = std::env::temp_dir();
            format!(
                "cannot write a file in {}: TMPDIR names another folder",
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

/// What the intervals say about the lock.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) holders: u64,
    /// Holders that began before another holder of the same name had ended.
    pub(super) overlaps: u64,
    /// Holders whose fence was not higher than that of the holder before.
    pub(super) fence_violations: u64,
}

/// Judges what all processes have written, each from its own source.
pub(super) fn judge(sources: Vec<impl BufRead>, names: u32) -> anyhow::Result<Verdict> {
    let mut sources = sources;
    let mut heads = BinaryHeap::new();
    for (number, source) in sources.iter_mut().enumerate() {
        if let Some(first) = next(source)? {
            heads.push(Reverse((first, number)));
        }
    }
    // End and fence of the last holder of each name.
    let mut last = vec![(0, 0); usize::try_from(names)?];
    let mut verdict = Verdict::default();
    while let Some(Reverse((interval, number))) = heads.pop() {
        let Some((end, fence)) = last.get_mut(interval.name as usize) else {
            bail!("a process wrote of a name that there is not");
        };
        verdict.holders += 1;
        // In the order of their ends: whoever overlaps with any before overlaps with the last.
        verdict.overlaps += u64::from(interval.begin < *end);
        verdict.fence_violations += u64::from(interval.fence <= *fence);
        (*end, *fence) = (interval.end, interval.fence);
        if let Some(following) = next(&mut sources[number])? {
            if following.end < interval.end {
                bail!("a process wrote its intervals in disorder");
            }
            heads.push(Reverse((following, number)));
        }
    }
    Ok(verdict)
}

fn next(source: &mut impl Read) -> anyhow::Result<Option<Interval>> {
    let mut bytes = [0; BYTES];
    match source.read_exact(&mut bytes) {
        Ok(()) => Ok(Some(Interval::from_bytes(bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error).context("cannot read what a process has written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Processes with their intervals: name, begin, end, fence.
    fn judged(processes: &[&[(u32, u64, u64, u64)]]) -> Verdict {
        let written = processes.iter().map(|intervals| {
            let mut log = Log::new().unwrap();
            for &(name, begin, end, fence) in *intervals {
                let interval = Interval {
                    end,
                    begin,
                    fence,
                    name,
                };
                log.write(interval).unwrap();
            }
            let mut bytes = Vec::new();
            log.copy_to(&mut bytes).unwrap();
            io::Cursor::new(bytes)
        });
        judge(written.collect(), 3).unwrap()
    }

    #[test]
    fn holders_that_take_turns_are_fine() {
        let verdict = judged(&[
            &[(0, 1, 5, 1), (1, 2, 9, 1), (0, 30, 40, 4)],
            &[(0, 5, 9, 2), (2, 1, 10, 9), (0, 10, 20, 3)],
        ]);
        assert_eq!(
            verdict,
            Verdict {
                holders: 6,
                ..Verdict::default()
            }
        );
    }

    #[test]
    fn two_at_once_are_seen_across_processes_and_within_one() {
        assert_eq!(judged(&[&[(0, 1, 5, 1)], &[(0, 4, 9, 2)]]).overlaps, 1);
        assert_eq!(judged(&[&[(0, 1, 5, 1), (0, 4, 9, 2)]]).overlaps, 1);
        // One inside the other.
        assert_eq!(judged(&[&[(0, 1, 100, 1)], &[(0, 10, 20, 2)]]).overlaps, 1);
    }

    #[test]
    fn a_fence_that_does_not_rise_is_seen() {
        let verdict = judged(&[&[(0, 1, 2, 7)], &[(0, 3, 4, 7)], &[(0, 5, 6, 6)]]);
        assert_eq!((verdict.overlaps, verdict.fence_violations), (0, 2));
    }
}
