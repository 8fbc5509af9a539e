//! One process of a bench: tasks that acquire, hold and release until they are told to stop.
//!
//! It ends with whoever started it, however that ended: at the end of its standard input.

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
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::history::{Interval, Log};
use super::messages::{Go, Message, Orders, Tally, Waits, histogram};
use super::{clock, nanos};

const SAY_SO_FAR: Duration = Duration::from_secs(1);
/// A store that is down answers at once, again and again.
const AFTER_ERROR: Duration = Duration::from_millis(10);
/// The shortest time that tokio's timer can sleep.
const SLEEPABLE: Duration = Duration::from_millis(1);
/// A waiter that is forgotten can still be served when a lease ends; longer than that after
/// everybody else it does not wait by mistake.
const AFTER_LEASE: Duration = Duration::from_secs(5);
/// For what was given up to be given back.
const SETTLE: Duration = Duration::from_secs(5);

/// Does what standard input says. Everything it has to tell goes to standard output, so
/// that whoever started it can say it once for all processes.
pub(super) async fn work() -> anyhow::Result<()> {
    let out = &mut std::io::stdout();
    if let Err(why) = worked(out).await {
        say(out, &Message::Failed(format!("{why:#}")))?;
    }
    Ok(())
}

async fn worked(out: &mut impl Write) -> anyhow::Result<()> {
    let (orders, go) = listen();
    let orders = orders
        .await
        .context("this is started by `lockstock bench lock`, not by hand")??;
    let store = Store::connect(&orders.store).await?;
    let mut shift = Shift::prepare(&store, orders)?;
    say(out, &Message::Ready)?;
    shift.start(go.await??);
    shift.watch(out).await?;
    let (tally, log) = shift.end().await?;
    // For those that were given up. Whoever still cannot reach the store has the lease.
    let _ = tokio::time::timeout(SETTLE, store.drain()).await;
    say(out, &Message::Done(tally))?;
    log.copy_to(out)?;
    Ok(())
}

fn say(out: &mut impl Write, message: &Message) -> anyhow::Result<()> {
    writeln!(out, "{}", serde_json::to_string(message)?)?;
    out.flush()?;
    Ok(())
}

type Heard<T> = oneshot::Receiver<anyhow::Result<T>>;

/// The two lines of standard input. A thread, so that the end of it is heard at once.
fn listen() -> (Heard<Orders>, Heard<Go>) {
    let (orders, first) = oneshot::channel();
    let (go, second) = oneshot::channel();
    std::thread::spawn(move || {
        let mut lines = std::io::stdin().lock().lines();
        let Some(Ok(line)) = lines.next() else {
            return;
        };
        let _ = orders.send(parsed(&line));
        if let Some(Ok(line)) = lines.next() {
            let _ = go.send(parsed(&line));
        }
        // Until whoever started us is gone, or has all it wants.
        lines.for_each(drop);
        std::process::exit(1);
    });
    (first, second)
}

fn parsed<T: DeserializeOwned>(line: &str) -> anyhow::Result<T> {
    serde_json::from_str(line).context("this is started by `lockstock bench lock`, not by hand")
}

/// The tasks of this process.
struct Shift {
    desk: Arc<Desk>,
    locks: Vec<(u32, Lock)>,
    tasks: JoinSet<()>,
    go: Go,
    /// How long nobody has to get a lock for those that wait to be given up.
    patience: Duration,
}

/// What all tasks share.
struct Desk {
    hold: Duration,
    notes: Mutex<Notes>,
    /// Since when each task waits; zero for one that does not.
    waiting: Vec<AtomicU64>,
}

/// What they write down, and where.
struct Notes {
    tally: Tally,
    waits: Histogram<u64>,
    log: Log,
}

impl Shift {
    fn prepare(store: &Store, orders: Orders) -> anyhow::Result<Self> {
        let lock = |task: u32| {
            let name = (orders.first_task + u64::from(task)) % u64::from(orders.names);
            let lock = store
                .lock(format!("lockstock-bench-{name}"))
                .lease(orders.lease)?;
            anyhow::Ok((u32::try_from(name)?, lock))
        };
        let notes = Notes {
            tally: Tally::default(),
            waits: histogram()?,
            log: Log::new()?,
        };
        Ok(Self {
            locks: (0..orders.tasks).map(lock).collect::<Result<_, _>>()?,
            desk: Arc::new(Desk {
                hold: orders.work,
                notes: Mutex::new(notes),
                waiting: (0..orders.tasks).map(|_| AtomicU64::new(0)).collect(),
            }),
            tasks: JoinSet::new(),
            go: Go {
                start: 0,
                measured: 0,
                end: 0,
            },
            patience: orders.lease + AFTER_LEASE,
        })
    }

    fn start(&mut self, go: Go) {
        self.go = go;
        for (number, (name, lock)) in self.locks.drain(..).enumerate() {
            let desk = self.desk.clone();
            self.tasks
                .spawn(async move { desk.take_turns(number, name, lock, go).await });
        }
    }

    /// Until all tasks are done, or it is certain that some never will be.
    async fn watch(&mut self, out: &mut impl Write) -> anyhow::Result<()> {
        let mut tick = interval(SAY_SO_FAR);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let (mut before, mut moved) = (0, Instant::now());
        loop {
            tokio::select! {
                task = self.tasks.join_next() => match task {
                    None => return Ok(()),
                    Some(ended) => ended.context("a task of the bench panicked")?,
                },
                _ = tick.tick() => {
                    let done = self.desk.notes().tally.acquired;
                    say(out, &Message::SoFar(done))?;
                    if done != before {
                        (before, moved) = (done, Instant::now());
                    }
                    let over = clock::now() > self.go.end + nanos(self.patience);
                    if over && moved.elapsed() > self.patience {
                        return Ok(());
                    }
                }
            }
        }
    }

    /// What there is to tell. Whoever still waits has waited at least until now.
    async fn end(mut self) -> anyhow::Result<(Tally, Log)> {
        let now = clock::now();
        let waiting = self
            .desk
            .waiting
            .iter()
            .map(|since| since.load(Ordering::Relaxed));
        let stalled: Vec<u64> = waiting.filter(|since| *since != 0).collect();
        self.tasks.shutdown().await;
        let desk = Arc::into_inner(self.desk).context("a task of the bench is still there")?;
        let notes = desk.notes.into_inner();
        let mut notes = notes.unwrap_or_else(PoisonError::into_inner);
        for since in &stalled {
            notes.waits.saturating_record(now.saturating_sub(*since));
        }
        notes.tally.stalled = stalled.len() as u64;
        notes.tally.waits = Waits::from(&notes.waits);
        Ok((notes.tally, notes.log))
    }
}

impl Desk {
    async fn take_turns(&self, number: usize, name: u32, lock: Lock, go: Go) {
        let until_start = Duration::from_nanos(go.start.saturating_sub(clock::now()));
        sleep(until_start).await;
        loop {
            let asked = clock::now();
            if asked >= go.end {
                return;
            }
            self.waiting[number].store(asked, Ordering::Relaxed);
            let acquired = lock.acquire().await;
            let begin = clock::now();
            self.waiting[number].store(0, Ordering::Relaxed);
            match acquired {
                Ok(guard) => self.hold(guard, name, asked, begin, go).await,
                Err(error) => {
                    self.notes().failed(&error);
                    sleep(AFTER_ERROR).await;
                }
            }
        }
    }

    async fn hold(&self, guard: Guard, name: u32, asked: u64, begin: u64, go: Go) {
        busy(self.hold).await;
        self.notes().held(guard.fence(), name, asked, begin, go);
        match guard.release().await {
            Ok(()) => {}
            Err(error) if error.is_lost() => self.notes().tally.lost += 1,
            Err(error) => self.notes().failed(&error),
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notes {
    /// Somebody held and is about to release. The end of that is now, and not before: under
    /// the mutex, so that intervals are written in the order of their ends.
    fn held(&mut self, fence: u64, name: u32, asked: u64, begin: u64, go: Go) {
        let end = clock::now();
        let interval = Interval {
            end,
            begin,
            fence,
            name,
        };
        self.tally.acquired += 1;
        if let Err(error) = self.log.write(interval) {
            self.failed(&error);
        }
        if begin >= go.start && begin < go.measured {
            self.tally.measured += 1;
        }
        // Also one that ended after the measurement: the longest waits are those.
        if asked < go.measured {
            self.waits.saturating_record(begin - asked);
        }
    }

    fn failed(&mut self, error: &impl ToString) {
        self.tally.errors += 1;
        self.tally
            .first_error
            .get_or_insert_with(|| error.to_string());
    }
}

/// Work: sleeps, or for less than a timer can measure lets others go on meanwhile.
async fn busy(time: Duration) {
    if time >= SLEEPABLE {
        return sleep(time).await;
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        yield_now().await;
    }
}
