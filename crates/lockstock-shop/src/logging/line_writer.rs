//! A writer that never blocks its callers.
//!
//! Callers append lines to a buffer in memory, and a thread of its own writes the buffer to the
//! output. If the output is slower than the callers, the buffer is full at some time; lines that
//! do not fit are dropped as a whole, counted, and reported once the buffer has been written.

use std::io::{self, Write};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Maximum size of the buffered lines: about 16,000 lines, one or two seconds of a busy server.
const MAX_BUFFERED_BYTES: usize = 4 << 20;

/// A buffer that had to grow beyond this size is freed once it has been written.
const KEPT_CAPACITY: usize = 64 << 10;

/// Maximum time that the end of the process waits for the output.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Appends each `write` to the buffer as one line.
#[derive(Clone)]
pub(super) struct LineWriter(Arc<Queue>);

/// Writes the buffered lines when dropped, waiting at most [`FLUSH_TIMEOUT`].
pub(crate) struct FlushGuard(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    /// Notifies the thread of lines, and of the end.
    changed: Condvar,
    /// Notifies the guard that everything has been written.
    finished: Condvar,
}

#[derive(Default)]
struct State {
    buffer: Vec<u8>,
    /// Lines dropped since the last report.
    dropped: u64,
    is_closed: bool,
    is_finished: bool,
}

impl LineWriter {
    /// Starts the thread that writes to `output`. It calls `report` with the number of dropped
    /// lines; `report` may write a line.
    ///
    /// # Errors
    ///
    /// If the system provides no further thread.
    pub(super) fn start(
        output: impl Write + Send + 'static,
        report: impl Fn(u64) + Send + 'static,
    ) -> io::Result<(Self, FlushGuard)> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            changed: Condvar::new(),
            finished: Condvar::new(),
        });
        let shared = queue.clone();
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || shared.run(output, report))?;
        Ok((Self(queue.clone()), FlushGuard(queue)))
    }
}

impl Queue {
    fn run(&self, mut output: impl Write, report: impl Fn(u64)) {
        let mut lines = Vec::new();
        loop {
            let dropped = {
                let mut state = self.lock();
                while state.buffer.is_empty() && state.dropped == 0 && !state.is_closed {
                    state = self
                        .changed
                        .wait(state)
                        .unwrap_or_else(PoisonError::into_inner);
                }
                if state.buffer.is_empty() && state.dropped == 0 {
                    state.is_finished = true;
                    self.finished.notify_all();
                    return;
                }
                mem::swap(&mut state.buffer, &mut lines);
                mem::take(&mut state.dropped)
            };
            // If the output is closed, there is no place left to report that.
            let _ = output.write_all(&lines).and_then(|()| output.flush());
            lines.clear();
            lines.shrink_to(KEPT_CAPACITY);
            if dropped > 0 {
                report(dropped);
            }
        }
    }

    /// A panic while the lock was held leaves the state valid.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for LineWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut state = self.0.lock();
        if state.buffer.len() + line.len() <= MAX_BUFFERED_BYTES {
            state.buffer.extend_from_slice(line);
        } else {
            state.dropped += 1;
        }
        drop(state);
        self.0.changed.notify_one();
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for LineWriter {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Drop for FlushGuard {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        self.0.changed.notify_one();
        let waited = self
            .0
            .finished
            .wait_timeout_while(state, FLUSH_TIMEOUT, |state| !state.is_finished);
        drop(waited);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::time::Instant;

    use super::*;

    /// An output that takes a chunk each time that the test permits it.
    struct Gated {
        permits: Receiver<()>,
        written: Arc<Mutex<Vec<u8>>>,
    }

    impl Write for Gated {
        fn write(&mut self, chunk: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(io::Error::other)?;
            self.written.lock().unwrap().extend_from_slice(chunk);
            Ok(chunk.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gated() -> (Gated, Sender<()>, Arc<Mutex<Vec<u8>>>) {
        let (permit, permits) = channel();
        let written = Arc::new(Mutex::default());
        let output = Gated {
            permits,
            written: written.clone(),
        };
        (output, permit, written)
    }

    #[test]
    fn lines_are_written_in_order_and_flushed_by_the_guard() {
        let (output, permit, written) = gated();
        let (mut writer, guard) = LineWriter::start(output, |_| panic!("dropped")).unwrap();
        let lines: String = (0..1000).map(|number| format!("line {number}\n")).collect();
        for line in lines.split_inclusive('\n') {
            writer.write_all(line.as_bytes()).unwrap();
            permit.send(()).unwrap();
        }
        drop(guard);
        assert_eq!(*written.lock().unwrap(), lines.as_bytes());
    }

    #[test]
    fn a_slow_reader_costs_whole_lines_that_are_counted() {
        let (output, permit, written) = gated();
        let (report, reported) = channel();
        let (mut writer, guard) =
            LineWriter::start(output, move |lines| report.send(lines).unwrap()).unwrap();
        let line = [vec![b'x'; 1023], vec![b'\n']].concat();
        let begun = Instant::now();
        // Three times as many as fit into the buffer, so the thread cannot have taken them all.
        let sent = 3 * MAX_BUFFERED_BYTES / line.len();
        for _ in 0..sent {
            writer.write_all(&line).unwrap();
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "a writer waited");
        for _ in 0..3 {
            permit.send(()).unwrap();
        }
        drop(guard);
        let dropped: u64 = reported.try_iter().sum();
        let written = written.lock().unwrap();
        assert!(dropped > 0);
        assert_eq!(written.len() / line.len() + dropped as usize, sent);
        assert!(written.chunks(line.len()).all(|chunk| chunk == line));
    }

    #[test]
    fn a_stalled_reader_delays_the_end_by_a_limited_time() {
        let (output, _permit, written) = gated();
        let (mut writer, guard) = LineWriter::start(output, |_| ()).unwrap();
        writer.write_all(b"a line\n").unwrap();
        drop(guard);
        assert!(written.lock().unwrap().is_empty());
    }

    #[test]
    fn a_closed_output_stops_no_writer() {
        let (output, permit, _) = gated();
        drop(permit);
        let (mut writer, guard) = LineWriter::start(output, |_| ()).unwrap();
        for _ in 0..100 {
            writer.write_all(b"a line\n").unwrap();
        }
        drop(guard);
    }
}
