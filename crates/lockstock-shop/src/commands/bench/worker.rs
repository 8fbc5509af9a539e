//! A worker of a bench: a process whose tasks acquire, work and release until the end of the
//! schedule. It exits when its standard input closes, and so never outlives the coordinator.

use std::io::{BufRead, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use hdrhistogram::Histogram;
use lockstock::{Guard, Lock, Store};
use serde::de::DeserializeOwned;
use tokio::sync::oneshot;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use super::history::{Interval, IntervalFile};
use super::messages::{Message, Schedule, Totals, Waits, WorkerConfig, histogram};
use super::{clock, to_nanos};

const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failed acquire, because a store that is down fails at once.
const RETRY_DELAY: Duration = Duration::from_millis(10);
/// The resolution of tokio's timer.
const MIN_SLEEP: Duration = Duration::from_millis(1);
/// How much longer than a lease the last waiters may take. Longer than a lease, because a waiter
/// that missed its notification acquires the lock when the lease expires.
const STRAGGLER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time to release what stalled tasks have acquired.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Runs the config and the schedule from standard input. Errors are messages on standard output,
/// so that the coordinator can report one error for all workers.
pub(super) async fn run() -> anyhow::Result<()> {
    let out = &mut std::io::stdout();
    if let Err(error) = try_run(out).await {
        send(out, &Message::Failed(format!("{error:#}")))?;
    }
    Ok(())
}

async fn try_run(out: &mut impl Write) -> anyhow::Result<()> {
    let (config, schedule) = read_stdin();
    let config = config.await.context(NOT_BY_HAND)??;
    let store = Store::connect(&config.store).await?;
    let mut tasks = WorkerTasks::prepare(&store, config)?;
    send(out, &Message::Ready)?;
    tasks.start(schedule.await??);
    tasks.join(out).await?;
    let (totals, intervals) = tasks.finish().await?;
    // Releases the locks of stalled tasks. If the store is down, they expire with their leases.
    let _ = timeout(DRAIN_TIMEOUT, store.drain()).await;
    send(out, &Message::Done(totals))?;
    intervals.copy_to(out)?;
    Ok(())
}

const NOT_BY_HAND: &str = "`lockstock bench lock` starts this command; it is not for use by hand";

fn send(out: &mut impl Write, message: &Message) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string(message)?)?;
    out.flush()?;
    Ok(())
}

type Parsed<T> = oneshot::Receiver<anyhow::Result<T>>;

/// Reads the two lines of standard input on a thread, which exits the process when the input
/// ends.
fn read_stdin() -> (Parsed<WorkerConfig>, Parsed<Schedule>) {
    let (config_sender, config) = oneshot::channel();
    let (schedule_sender, schedule) = oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines();
        let Some(Ok(line)) = lines.next() else {
            return;
        };
        let _ = config_sender.send(parse(&line));
        if let Some(Ok(line)) = lines.next() {
            let _ = schedule_sender.send(parse(&line));
        }
        // Blocks until the coordinator has read everything or has exited.
        lines.for_each(drop);
        std::process::exit(1);
    });
    (config, schedule)
}

fn parse<T: DeserializeOwned>(line: &str) -> anyhow::Result<T> {
    serde_json::from_str(line).context(NOT_BY_HAND)
}

struct WorkerTasks {
    shared: Arc<Shared>,
    locks: Vec<(u32, Lock)>,
    tasks: JoinSet<()>,
    schedule: Schedule,
    /// Time without an acquisition after which the remaining waiters count as stalled.
    straggler_timeout: Duration,
}

/// The state that all tasks share.
struct Shared {
    work: Duration,
    recorder: Mutex<Recorder>,
    /// When the current wait of each task began; zero while it does not wait.
    waiting_since_ns: Vec<AtomicU64>,
}

struct Recorder {
    totals: Totals,
    waits: Histogram<u64>,
    intervals: IntervalFile,
}

impl WorkerTasks {
    fn prepare(store: &Store, config: WorkerConfig) -> anyhow::Result<Self> {
        let lock = |task: u32| {
            let name = (config.first_task + u64::from(task)) % u64::from(config.names);
            let lock = store
                .lock(format!("lockstock-bench-{name}"))
                .lease(config.lease)?;
            anyhow::Ok((u32::try_from(name)?, lock))
        };
        let recorder = Recorder {
            totals: Totals::default(),
            waits: histogram()?,
            intervals: IntervalFile::create()?,
        };
        Ok(Self {
            locks: (0..config.tasks).map(lock).collect::<Result<_, _>>()?,
            shared: Arc::new(Shared {
                work: config.work,
                recorder: Mutex::new(recorder),
                waiting_since_ns: (0..config.tasks).map(|_| AtomicU64::new(0)).collect(),
            }),
            tasks: JoinSet::new(),
            schedule: Schedule {
                start_ns: 0,
                measure_end_ns: 0,
                end_ns: 0,
            },
            straggler_timeout: config.lease + STRAGGLER_TIMEOUT,
        })
    }

    fn start(&mut self, schedule: Schedule) {
        self.schedule = schedule;
        for (task, (name, lock)) in self.locks.drain(..).enumerate() {
            let shared = self.shared.clone();
            self.tasks
                .spawn(async move { shared.run_task(task, name, lock, schedule).await });
        }
    }

    /// Waits until all tasks are done, or until those that remain have stalled.
    async fn join(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        let mut tick = interval(PROGRESS_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut acquired, mut last_progress) = (0, Instant::now());
        loop {
            tokio::select! {
                task = self.tasks.join_next() => match task {
                    None => return Ok(()),
                    Some(result) => result.context("a task of the bench panicked")?,
                },
                _ = tick.tick() => {
                    let now_acquired = self.shared.recorder().totals.acquired;
                    send(out, &Message::Acquired(now_acquired))?;
                    if now_acquired != acquired {
                        (acquired, last_progress) = (now_acquired, Instant::now());
                    }
                    let deadline_ns = self.schedule.end_ns + to_nanos(self.straggler_timeout);
                    if clock::now_ns() > deadline_ns
                        && last_progress.elapsed() > self.straggler_timeout
                    {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Returns the results. A task that still waits counts as stalled, with its wait so far.
    async fn finish(mut self) -> anyhow::Result<(Totals, IntervalFile)> {
        let now_ns = clock::now_ns();
        let waiting_since_ns = self
            .shared
            .waiting_since_ns
            .iter()
            .map(|since| since.load(Ordering::Relaxed));
        let stalled: Vec<u64> = waiting_since_ns.filter(|since| *since != 0).collect();
        self.tasks.shutdown().await;
        let shared = Arc::into_inner(self.shared).context("a task of the bench still runs")?;
        let recorder = shared.recorder.into_inner();
        let mut recorder = recorder.unwrap_or_else(PoisonError::into_inner);
        for since_ns in &stalled {
            let wait_ns = now_ns.saturating_sub(*since_ns);
            recorder.waits.saturating_record(wait_ns);
        }
        recorder.totals.stalled = stalled.len() as u64;
        recorder.totals.waits = Waits::from(&recorder.waits);
        Ok((recorder.totals, recorder.intervals))
    }
}

impl Shared {
    async fn run_task(&self, task: usize, name: u32, lock: Lock, schedule: Schedule) {
        let until_start = schedule.start_ns.saturating_sub(clock::now_ns());
        sleep(Duration::from_nanos(until_start)).await;
        loop {
            let requested_ns = clock::now_ns();
            if requested_ns >= schedule.end_ns {
                return;
            }
            self.waiting_since_ns[task].store(requested_ns, Ordering::Relaxed);
            let acquired = lock.acquire().await;
            let begin_ns = clock::now_ns();
            self.waiting_since_ns[task].store(0, Ordering::Relaxed);
            match acquired {
                Ok(guard) => {
                    let held = Held {
                        name,
                        fence: guard.fence(),
                        requested_ns,
                        begin_ns,
                    };
                    self.work_and_release(guard, held, schedule).await;
                }
                Err(error) => {
                    self.recorder().error(&error);
                    sleep(RETRY_DELAY).await;
                }
            }
        }
    }

    async fn work_and_release(&self, guard: Guard, held: Held, schedule: Schedule) {
        work(self.work).await;
        self.recorder().record(held, schedule);
        match guard.release().await {
            Ok(()) => {}
            Err(error) if error.is_lost() => self.recorder().totals.lost += 1,
            Err(error) => self.recorder().error(&error),
        }
    }

    fn recorder(&self) -> MutexGuard<'_, Recorder> {
        self.recorder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that a task has acquired.
struct Held {
    name: u32,
    fence: u64,
    requested_ns: u64,
    begin_ns: u64,
}

impl Recorder {
    /// Records a holder that is about to release. The clock is read here, under the mutex, so
    /// that intervals are written in the order of their ends.
    fn record(&mut self, held: Held, schedule: Schedule) {
        let interval = Interval {
            end_ns: clock::now_ns(),
            begin_ns: held.begin_ns,
            fence: held.fence,
            name: held.name,
        };
        self.totals.acquired += 1;
        if let Err(error) = self.intervals.write(interval) {
            self.error(&error);
        }
        if (schedule.start_ns..schedule.measure_end_ns).contains(&held.begin_ns) {
            self.totals.measured += 1;
        }
        // Includes waits that end after the measurement: those are the longest.
        if held.requested_ns < schedule.measure_end_ns {
            let wait_ns = held.begin_ns - held.requested_ns;
            self.waits.saturating_record(wait_ns);
        }
    }

    fn error(&mut self, error: &impl ToString) {
        self.totals.errors += 1;
        self.totals
            .first_error
            .get_or_insert_with(|| error.to_string());
    }
}

/// Simulates work: sleeps, or yields in a loop if the time is too short for the timer.
async fn work(time: Duration) {
    if time >= MIN_SLEEP {
        return sleep(time).await;
    }
    let started = Instant::now();
    while started.elapsed() < time {
        yield_now().await;
    }
}
