//! `lockstock bench`: what the lock does on a store of the user's, in figures.
//!
//! - `worker`: a process full of tasks that acquire and release; `coordinator`: starts and ends those
//!   processes; `messages`: what the two say to each other.
//! - `history`: who held what from when to when, and whether that can be true.
//! - `redis_traffic`: what it took of the Redis. `report`: all of it, to read or to parse.

mod clock;
mod coordinator;
mod history;
mod messages;
mod redis_traffic;
mod report;
mod worker;

use std::io::{IsTerminal, Write};
use std::time::Duration;

use anyhow::bail;
use lockstock::redact_url;

use self::coordinator::Team;
use self::history::Verdict;
use self::messages::{Go, Orders, Tally};
use self::redis_traffic::Counter;
use self::report::{Commands, Outcome};
use crate::cli::{Bench, LockBench, Measured};

/// Between the word that starts all processes and the start: they all have to hear it.
const LEAD: Duration = Duration::from_millis(200);
/// How long it is looked at what is sent, after the measurement: `MONITOR` costs a Redis too much
/// to have it on while the clock runs. At least so long, and at least two holds.
const LOOK: Duration = Duration::from_millis(500);
/// Before and after that look everybody goes on for so long.
const MARGIN: Duration = Duration::from_millis(50);

/// Measures as told. An error, and so a non-zero exit, unless the lock was one.
pub(crate) async fn bench(options: Bench) -> anyhow::Result<()> {
    match options.what {
        // Processes, pipes and a plain connection: nothing in it is worth a task.
        Measured::Lock(options) => tokio::task::spawn_blocking(|| lock(options)).await?,
        Measured::Holders => worker::work().await,
    }
}

fn lock(options: LockBench) -> anyhow::Result<()> {
    possible(&options)?;
    let in_memory = options.store.starts_with("memory:");
    let mut team = Team::start(&orders(&options))?;
    // After all have connected: what that takes is not part of an acquisition.
    let mut counter = (!in_memory).then(|| Counter::open(&options.store));
    let seconds = Duration::from_secs(options.seconds.into());
    let look = LOOK.max(options.work * 2);
    let tail = match in_memory {
        true => Duration::ZERO,
        false => look + 2 * MARGIN,
    };
    let start = clock::now() + nanos(LEAD);
    let measured = start + nanos(seconds);
    team.go(&Go {
        start,
        measured,
        end: measured + nanos(tail),
    })?;
    let progress = Progress::new(&options, start);
    team.watch_until(measured + nanos(MARGIN), |done| progress.show(done))?;
    if let Some(Ok(counter)) = &mut counter {
        counter.look(look);
    }
    let (tallies, records) = team.finish(options.lease)?;
    progress.say("checking who held what when");
    let tally = Tally::sum(&tallies)?;
    let verdict = history::judge(records, options.names)?;
    progress.clear();
    complete(&tally, &verdict)?;
    let commands = match counter {
        None => Commands::Counted(0.0),
        Some(Ok(counter)) => counter.commands(tally.acquired).into(),
        Some(Err(why)) => Commands::Unknown(why),
    };
    let outcome = Outcome {
        options: &options,
        tally,
        verdict,
        commands,
    };
    let mut out = std::io::stdout();
    if options.json {
        writeln!(out, "{}", outcome.json())?;
    } else {
        write!(out, "{}", outcome.picture())?;
    }
    out.flush()?;
    outcome.check()
}

fn possible(options: &LockBench) -> anyhow::Result<()> {
    if options.store.starts_with("memory:") && options.processes > 1 {
        bail!(
            "memory:// is one process's own, so {} processes would never meet: \
             leave --processes at 1, or name a Redis, like --store redis://127.0.0.1:6379/1",
            options.processes
        );
    }
    if options.work >= options.lease {
        bail!(
            "a task that holds for {} outlives a lease of {}: give a longer --lease or a shorter --work",
            humantime::format_duration(options.work),
            humantime::format_duration(options.lease)
        );
    }
    Ok(())
}

fn orders(options: &LockBench) -> Vec<Orders> {
    let place = |process| Orders {
        store: options.store.clone(),
        first_task: u64::from(process) * u64::from(options.tasks),
        tasks: options.tasks,
        names: options.names,
        lease: options.lease,
        work: options.work,
    };
    (0..options.processes).map(place).collect()
}

/// A verdict on half of what happened would be none.
fn complete(tally: &Tally, verdict: &Verdict) -> anyhow::Result<()> {
    if verdict.holders == tally.acquired {
        return Ok(());
    }
    bail!(
        "the processes noted {} acquisitions and handed over {}: is the folder for temporary \
         files full? TMPDIR names another",
        tally.acquired,
        verdict.holders
    );
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// One line on standard error, for whoever waits before a terminal.
struct Progress {
    title: String,
    start: u64,
    seconds: u32,
    shown: bool,
}

impl Progress {
    fn new(options: &LockBench, start: u64) -> Self {
        Self {
            title: redact_url(&options.store),
            start,
            seconds: options.seconds,
            shown: std::io::stderr().is_terminal(),
        }
    }

    fn show(&self, done: u64) {
        let gone = clock::now().saturating_sub(self.start) / 1_000_000_000;
        let gone = gone.min(self.seconds.into());
        self.say(&format!(
            "{gone} of {} s, {done} acquisitions",
            self.seconds
        ));
    }

    fn say(&self, what: &str) {
        if self.shown {
            eprint!("\r\x1b[K{}: {what} …", self.title);
        }
    }

    fn clear(&self) {
        if self.shown {
            eprint!("\r\x1b[K");
        }
    }
}
