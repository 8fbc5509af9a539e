//! `lockstock bench`: measures the lock on a store, and checks its guarantees meanwhile; measures the
//! cache (`cache`).
//!
//! - `worker`: a process with tasks that acquire and release; `coordinator`: starts and stops the
//!   workers; `messages`: the protocol between them.
//! - `history`: the intervals of all holders, and the check that none overlap.
//! - `redis_traffic`: the commands that Redis received. `report`: the results as a table or JSON.

mod cache;
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
use clap::{Args, Subcommand};
use lockstock::redact_url;

use self::coordinator::Coordinator;
use self::history::Violations;
use self::messages::{Schedule, Totals, WorkerConfig};
use self::redis_traffic::CommandCounter;
use self::report::Report;
use crate::cli::values::{self, duration_in, number_in};

/// Time for the start message to reach all workers.
const START_DELAY: Duration = Duration::from_millis(200);
/// Minimum time to sample commands with `MONITOR`, which is done after the measurement because
/// `MONITOR` slows Redis down.
const MIN_SAMPLE_TIME: Duration = Duration::from_millis(500);
/// Time that the workers go on before and after the sample.
const SAMPLE_MARGIN: Duration = Duration::from_millis(50);

const LOCK_HELP: &str = "\
Each task acquires its lock, works for --work, releases the lock, and begins again. Overlaps of
holders are detected outside the lock, by a clock that all processes share. If two holders of
one name overlap, or if a fence is not higher than the one before, the exit code is 1.

The locks are named lockstock-bench-0, lockstock-bench-1 and so on; the bench leaves no keys for
them. Redis itself counts the commands (with INFO and, shortly after the measurement, MONITOR),
so those of other clients count too: use an idle Redis. Each acquisition takes 28 bytes in the
folder for temporary files until the bench ends.

Examples:
  lockstock bench lock                                     in memory: 16 tasks, one name
  lockstock bench lock --store redis://127.0.0.1:6379/1 --processes 4 --tasks 4
                                                           four processes contend for one name
  lockstock bench lock --store redis://127.0.0.1:6379/1 --names 64 --tasks 64
                                                           one name per task: no contention";

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Measure acquisitions per second, waiting times and commands per acquisition, and check
    /// that no two holders overlap
    #[command(args_override_self = true, after_help = LOCK_HELP)]
    Lock(LockArgs),
    /// Measure reads and writes of values per second and their latencies, beside plain commands
    #[command(args_override_self = true, after_help = cache::HELP)]
    Cache(cache::CacheArgs),
    /// A process that `bench lock` starts.
    #[command(hide = true)]
    Worker,
}

#[derive(Debug, Args)]
struct LockArgs {
    /// URL of the lock store, as for the server. memory:// is limited to one process
    #[arg(
        long,
        env = "LOCKSTOCK_STORE",
        value_name = "URL",
        default_value = "memory://",
        hide_env_values = true
    )]
    store: String,

    /// Number of lock names. The tasks are spread over them, and each task uses one name
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = number_in(1..=1_000_000_u32, 1))]
    names: u32,

    /// Number of tasks in each process
    #[arg(long, value_name = "NUMBER", default_value_t = 16, value_parser = number_in(1..=100_000_u32, 16))]
    tasks: u32,

    /// Number of processes, each with a client of its own
    #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = number_in(1..=256_u32, 4))]
    processes: u32,

    /// Length of the measurement in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = number_in(1..=86_400_u32, 5))]
    seconds: u32,

    /// Lease of each lock
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration_in(values::LEASE, "10s"))]
    lease: Duration,

    /// How long each task works while it holds the lock, like 250us or 2ms. Must be shorter than
    /// the lease
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = duration_in(Duration::ZERO..=Duration::from_secs(60), "2ms"))]
    work: Duration,

    /// Print one line of JSON instead of a table
    #[arg(long)]
    json: bool,
}

/// Runs a measurement. Fails, and so exits with 1, if the lock violated its guarantees or an
/// acquisition failed.
pub(crate) async fn run(args: BenchArgs) -> anyhow::Result<()> {
    match args.command {
        // Blocks on processes, pipes and a blocking connection.
        BenchCommand::Lock(args) => tokio::task::spawn_blocking(|| bench_lock(args)).await?,
        // Has a runtime of its own.
        BenchCommand::Cache(args) => tokio::task::spawn_blocking(move || cache::run(&args)).await?,
        BenchCommand::Worker => worker::run().await,
    }
}

fn bench_lock(args: LockArgs) -> anyhow::Result<()> {
    validate(&args)?;
    let in_memory = args.store.starts_with("memory:");
    let mut coordinator = Coordinator::start(&worker_configs(&args))?;
    // After all workers have connected, so that their handshakes are not counted.
    let mut counter = (!in_memory).then(|| CommandCounter::open(&args.store));
    let sample_time = MIN_SAMPLE_TIME.max(args.work * 2);
    let extra_time = match in_memory {
        true => Duration::ZERO,
        false => sample_time + 2 * SAMPLE_MARGIN,
    };
    let start_ns = clock::now_ns() + to_nanos(START_DELAY);
    let measure_end_ns = start_ns + to_nanos(Duration::from_secs(args.seconds.into()));
    coordinator.schedule(&Schedule {
        start_ns,
        measure_end_ns,
        end_ns: measure_end_ns + to_nanos(extra_time),
    })?;
    let progress = Progress::new(&args, start_ns);
    let sample_start_ns = measure_end_ns + to_nanos(SAMPLE_MARGIN);
    coordinator.watch_until(sample_start_ns, |acquired| progress.show_acquired(acquired))?;
    if let Some(Ok(counter)) = &mut counter {
        counter.sample(sample_time);
    }
    let (totals, intervals) = coordinator.finish(args.lease)?;
    progress.show("checking the intervals of all holders");
    let totals = Totals::sum(&totals)?;
    let violations = history::check(intervals, args.names)?;
    progress.clear();
    ensure_complete(&totals, &violations)?;
    let commands = match counter {
        None => Ok(0.0),
        Some(counter) => counter.and_then(|it| it.per_acquisition(totals.acquired)),
    };
    let report = Report {
        args: &args,
        totals,
        violations,
        commands,
    };
    let mut out = std::io::stdout();
    if args.json {
        writeln!(out, "{}", report.json())?;
    } else {
        write!(out, "{}", report.table())?;
    }
    out.flush()?;
    report.ensure_sound()
}

fn validate(args: &LockArgs) -> anyhow::Result<()> {
    if args.store.starts_with("memory:") && args.processes > 1 {
        bail!(
            "{} processes cannot share the locks of memory://, which are in the memory of one \
             process: use --processes 1, or a Redis like --store redis://127.0.0.1:6379/1",
            args.processes
        );
    }
    if args.work >= args.lease {
        bail!(
            "--work {} is not shorter than --lease {}, so each holder would lose its lock: give \
             a longer --lease or a shorter --work",
            humantime::format_duration(args.work),
            humantime::format_duration(args.lease)
        );
    }
    Ok(())
}

fn worker_configs(args: &LockArgs) -> Vec<WorkerConfig> {
    let config = |process| WorkerConfig {
        store: args.store.clone(),
        first_task: u64::from(process) * u64::from(args.tasks),
        tasks: args.tasks,
        names: args.names,
        lease: args.lease,
        work: args.work,
    };
    (0..args.processes).map(config).collect()
}

/// Fails if intervals are missing: a check of a part would prove nothing.
fn ensure_complete(totals: &Totals, violations: &Violations) -> anyhow::Result<()> {
    if violations.checked == totals.acquired {
        return Ok(());
    }
    bail!(
        "the workers counted {} acquisitions and recorded {}: is the folder for temporary files \
         full? Choose another with TMPDIR",
        totals.acquired,
        violations.checked
    );
}

fn to_nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A progress line on standard error, if that is a terminal.
struct Progress {
    title: String,
    start_ns: u64,
    seconds: u32,
    enabled: bool,
}

impl Progress {
    fn new(args: &LockArgs, start_ns: u64) -> Self {
        Self {
            title: redact_url(&args.store),
            start_ns,
            seconds: args.seconds,
            enabled: std::io::stderr().is_terminal(),
        }
    }

    fn show_acquired(&self, acquired: u64) {
        let elapsed = clock::now_ns().saturating_sub(self.start_ns) / 1_000_000_000;
        let elapsed = elapsed.min(self.seconds.into());
        self.show(&format!(
            "{elapsed} of {} s, {acquired} acquisitions",
            self.seconds
        ));
    }

    fn show(&self, text: &str) {
        if self.enabled {
            eprint!("\r\x1b[K{}: {text} …", self.title);
        }
    }

    fn clear(&self) {
        if self.enabled {
            eprint!("\r\x1b[K");
        }
    }
}
