//! Tasks that take turns, and what they write down.

use std::fs::File;
use std::io::{BufWriter, Write, stdin};
use std::path::PathBuf;

use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::clock;

/// A library, as one task uses it for one name.
pub trait Locking: Send + 'static {
    type Held: Send;
    fn acquire(&mut self) -> impl Future<Output = Result<Self::Held>> + Send;
    fn release(&mut self, held: Self::Held) -> impl Future<Output = Result<()>> + Send;
}

/// A library, connected.
pub trait Library {
    type Lock: Locking;
    fn lock(&self, name: &str) -> Result<Self::Lock>;
}

pub struct Team {
    pub tasks: u64,
    /// Counted over all processes.
    pub first: u64,
    pub names: u64,
    pub file: PathBuf,
}

#[derive(Clone, Copy)]
struct Plan {
    start: u64,
    end: u64,
    give_up: u64,
}

/// Nanoseconds; begin and end are 0 for a wait that was given up.
type Turn = [u64; 3];

impl Team {
    pub async fn work(&self, library: &impl Library) -> Result<()> {
        let mut locks = Vec::new();
        for task in 0..self.tasks {
            let name = (self.first + task) % self.names;
            locks.push(library.lock(&format!("lock-bench-{name}"))?);
        }
        // Connects, and loads what scripts there are.
        let mut warm = library.lock(&format!("lock-bench-warm-{}", self.first))?;
        let held = warm.acquire().await?;
        warm.release(held).await?;
        println!("ready");
        let plan = read_plan()?;
        let mut tasks = JoinSet::new();
        for lock in locks {
            tasks.spawn(take_turns(lock, plan));
        }
        let mut file = BufWriter::new(File::create(&self.file)?);
        while let Some(turns) = tasks.join_next().await {
            for number in turns??.into_iter().flatten() {
                file.write_all(&number.to_le_bytes())?;
            }
        }
        file.flush()?;
        Ok(())
    }
}

fn read_plan() -> Result<Plan> {
    let mut line = String::new();
    stdin().read_line(&mut line)?;
    let numbers = line.split_whitespace().map(str::parse);
    let numbers = numbers.collect::<Result<Vec<u64>, _>>()?;
    let [start, end, give_up] = numbers[..] else {
        bail!("START END GIVE_UP");
    };
    Ok(Plan {
        start,
        end,
        give_up,
    })
}

async fn take_turns(mut lock: impl Locking, plan: Plan) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    let mut waiting = None;
    let all = async {
        sleep(clock::until(plan.start)).await;
        loop {
            let asked = clock::now();
            if asked >= plan.end {
                return Ok(());
            }
            waiting = Some(asked);
            let held = lock.acquire().await?;
            let begin = clock::now();
            waiting = None;
            turns.push([asked, begin, clock::now()]);
            lock.release(held).await?;
        }
    };
    // One timer a task: one for each acquire would be measured with it.
    match timeout(clock::until(plan.give_up), all).await {
        Ok(done) => done.map(|()| turns),
        Err(_) => {
            turns.extend(waiting.map(|asked| [asked, 0, 0]));
            Ok(turns)
        }
    }
}
