//! Tasks that acquire and release, and record when.

use std::fs::File;
use std::io::{BufWriter, Write, stdin};
use std::path::PathBuf;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;

/// A lock of a library, as one task uses it.
pub trait Locking: Send + 'static {
    type Held: Send;
    fn acquire(&mut self) -> impl Future<Output = Result<Self::Held>> + Send;
    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// A connected library.
pub trait Library {
    type Lock: Locking;
    fn lock(&self, name: &str) -> Result<Self::Lock>;
}

/// The tasks of one process.
pub struct Worker {
    pub tasks: u64,
    /// Index of the first task among the tasks of all processes.
    pub first: u64,
    pub names: u64,
    pub file: PathBuf,
}

#[derive(Clone, Copy)]
struct Schedule {
    start_ns: u64,
    end_ns: u64,
    give_up_ns: u64,
}

/// Nanoseconds when acquire was called, when it returned, and when the release began. The last
/// two are 0 for a wait that was given up.
type Interval = [u64; 3];

impl Worker {
    pub async fn run(&self, library: &impl Library) -> Result<()> {
        let mut locks = Vec::new();
        for task in 0..self.tasks {
            let name = (self.first + task) % self.names;
            locks.push(library.lock(&format!("lock-bench-{name}"))?);
        }
        // Connects and loads the scripts of the library.
        let mut warm = library.lock(&format!("lock-bench-warm-{}", self.first))?;
        let held = warm.acquire().await?;
        warm.release(held).await?;
        println!("ready");
        let schedule = read_schedule()?;
        let mut tasks = JoinSet::new();
        for lock in locks {
            tasks.spawn(run_task(lock, schedule));
        }
        let mut file = BufWriter::new(File::create(&self.file)?);
        while let Some(intervals) = tasks.join_next().await {
            for number in intervals??.into_iter().flatten() {
                file.write_all(&number.to_le_bytes())?;
            }
        }
        file.flush()?;
        Ok(())
    }
}

fn read_schedule() -> Result<Schedule> {
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let numbers = line.split_whitespace().map(str::parse);
    let numbers = numbers.collect::<Result<Vec<u64>, _>>()?;
    let [start_ns, end_ns, give_up_ns] = numbers[..] else {
        bail!("expected START END GIVE_UP");
    };
    Ok(Schedule {
        start_ns,
        end_ns,
        give_up_ns,
    })
}

async fn run_task(mut lock: impl Locking, schedule: Schedule) -> Result<Vec<Interval>> {
    let mut intervals = Vec::new();
    let mut waiting = None;
    let all = async {
        sleep(clock::until(schedule.start_ns)).await;
        loop {
            let requested = clock::now_ns();
            if requested >= schedule.end_ns {
                return Ok(());
            }
            waiting = Some(requested);
            let held = lock.acquire().await?;
            let begin = clock::now_ns();
            waiting = None;
            intervals.push([requested, begin, clock::now_ns()]);
            lock.release(held).await?;
        }
    };
    // One timer per task: a timer per acquire would be part of the measurement.
    match timeout(clock::until(schedule.give_up_ns), all).await {
        Ok(done) => done.map(|()| intervals),
        Err(_) => {
            intervals.extend(waiting.map(|requested| [requested, 0, 0]));
            Ok(intervals)
        }
    }
}
