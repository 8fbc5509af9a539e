//! The coordinator of a bench: starts the workers as processes of this program and stops them.

use std::env::current_exe;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::clock;
use super::messages::{Message, Schedule, Totals, WorkerConfig};

/// A worker sends a message every second. With hundreds of workers on a small machine it takes
/// long until all have started, and until each is scheduled.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);

/// Dropping it kills the workers that still run.
pub(super) struct Coordinator {
    workers: Vec<Worker>,
    events: Receiver<(usize, Event)>,
    /// Kept so that `events` never disconnects.
    sender: Sender<(usize, Event)>,
    /// Acquisitions of each worker so far.
    acquired: Vec<u64>,
    /// Results of the workers that have finished.
    finished: Vec<Option<(Totals, Intervals)>>,
}

/// The output of a worker after its last line: the intervals of its holders.
pub(super) type Intervals = BufReader<ChildStdout>;

struct Worker {
    child: Child,
    /// The worker exits when this pipe closes, also if this process is killed.
    stdin: ChildStdin,
}

enum Event {
    Message(Message),
    Done(Totals, Intervals),
    /// The output ended without a last line.
    Exited,
}

impl Coordinator {
    /// Starts one worker per config and waits until all are ready.
    pub(super) fn start(configs: &[WorkerConfig]) -> anyhow::Result<Self> {
        let (sender, events) = channel();
        let mut coordinator = Self {
            workers: Vec::new(),
            events,
            sender,
            acquired: vec![0; configs.len()],
            finished: configs.iter().map(|_| None).collect(),
        };
        // Together no more threads than cores: more would measure the scheduler.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (cores / configs.len().max(1)).max(1);
        let program = current_exe().context("cannot find this program to start it again")?;
        for (index, config) in configs.iter().enumerate() {
            let mut child = Command::new(&program)
                .args(["bench", "worker"])
                .env("TOKIO_WORKER_THREADS", threads.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start another process of this program")?;
            let pipes = (child.stdin.take(), child.stdout.take());
            let (Some(stdin), Some(stdout)) = pipes else {
                bail!("a worker was started without pipes");
            };
            let sender = coordinator.sender.clone();
            std::thread::spawn(move || read_messages(index, stdout, &sender));
            coordinator.workers.push(Worker { child, stdin });
            coordinator.send(index, config)?;
        }
        let mut ready = 0;
        while ready < configs.len() {
            match coordinator.next_event(SILENCE_TIMEOUT) {
                Some((_, Event::Message(Message::Ready))) => ready += 1,
                Some((index, event)) => coordinator.handle(index, event)?,
                None => bail!("only {ready} of {} workers started in time", configs.len()),
            }
        }
        Ok(coordinator)
    }

    pub(super) fn schedule(&mut self, schedule: &Schedule) -> anyhow::Result<()> {
        for index in 0..self.workers.len() {
            self.send(index, schedule)?;
        }
        Ok(())
    }

    /// Handles messages until `time_ns`, and passes on the number of acquisitions so far.
    pub(super) fn watch_until(
        &mut self,
        time_ns: u64,
        mut on_progress: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        loop {
            let remaining = Duration::from_nanos(time_ns.saturating_sub(clock::now_ns()));
            if remaining.is_zero() {
                return Ok(());
            }
            if let Some((index, event)) = self.next_event(remaining) {
                self.handle(index, event)?;
                on_progress(self.acquired.iter().sum());
            }
        }
    }

    /// Waits until all workers have finished. A worker gives up tasks that are stuck some time
    /// after their lease.
    pub(super) fn finish(
        mut self,
        lease: Duration,
    ) -> anyhow::Result<(Vec<Totals>, Vec<Intervals>)> {
        let mut last_event = Instant::now();
        while self.finished.iter().any(Option::is_none) {
            match self.next_event(SILENCE_TIMEOUT) {
                Some((index, event)) => {
                    self.handle(index, event)?;
                    last_event = Instant::now();
                }
                None if last_event.elapsed() > SILENCE_TIMEOUT + lease => {
                    let index = self.finished.iter().position(Option::is_none);
                    bail!(
                        "worker {} does not respond: is the process stopped?",
                        index.unwrap_or_default() + 1
                    );
                }
                None => {}
            }
        }
        let finished = self.finished.drain(..).flatten();
        let (totals, intervals) = finished.unzip();
        // A worker exits by itself once its intervals are read: do not kill it before.
        for mut worker in self.workers.drain(..) {
            std::thread::spawn(move || {
                let _ = worker.child.wait();
                drop(worker.stdin);
            });
        }
        Ok((totals, intervals))
    }

    fn send(&mut self, index: usize, message: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        // Fails if the worker has exited, which is an event of its own with the reason.
        let _ = self.workers[index].stdin.write_all(&line);
        Ok(())
    }

    fn next_event(&self, timeout: Duration) -> Option<(usize, Event)> {
        self.events.recv_timeout(timeout).ok()
    }

    fn handle(&mut self, index: usize, event: Event) -> anyhow::Result<()> {
        match event {
            Event::Message(Message::Acquired(count)) => self.acquired[index] = count,
            Event::Message(Message::Failed(error)) => bail!("{error}"),
            Event::Message(Message::Ready | Message::Done(_)) => {}
            Event::Done(totals, intervals) => self.finished[index] = Some((totals, intervals)),
            Event::Exited => {
                let status = self.workers[index].child.wait()?;
                bail!("worker {} exited early: {status}", index + 1);
            }
        }
        Ok(())
    }
}

impl Drop for Coordinator {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            let _ = worker.child.kill();
            let _ = worker.child.wait();
        }
    }
}

/// Turns the output of one worker into events.
fn read_messages(index: usize, stdout: ChildStdout, sender: &Sender<(usize, Event)>) {
    let mut stdout = BufReader::with_capacity(1 << 16, stdout);
    loop {
        let mut line = String::new();
        let message = match stdout.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).ok(),
            _ => None,
        };
        let event = match message {
            Some(Message::Done(totals)) => {
                let _ = sender.send((index, Event::Done(totals, stdout)));
                return;
            }
            Some(message) => Event::Message(message),
            None => {
                let _ = sender.send((index, Event::Exited));
                return;
            }
        };
        if sender.send((index, event)).is_err() {
            return;
        }
    }
}
