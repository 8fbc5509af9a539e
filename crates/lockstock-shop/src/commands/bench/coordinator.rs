//! The processes of a bench: started as this very program, and ended with it.

use std::env::current_exe;
use std::io::{BufRead, BufReader, Write};
use std::num::NonZero;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::clock;
use super::messages::{Go, Message, Orders, Tally};

/// Each says something once a second. With hundreds of them on a small machine it takes a while
/// until all have started, and until all have a turn.
const SILENCE: Duration = Duration::from_secs(60);

/// All processes. Those that still run when it is dropped are killed.
pub(super) struct Team {
    members: Vec<Member>,
    said: Receiver<(usize, Said)>,
    /// Kept, so that silence is never an error, whoever has finished.
    speaker: Sender<(usize, Said)>,
    /// Acquisitions so far, of each.
    done: Vec<u64>,
    /// Who has finished, with what it tells.
    finished: Vec<Option<(Tally, Records)>>,
}

/// A process's intervals, to be read to the end.
pub(super) type Records = BufReader<ChildStdout>;

struct Member {
    child: Child,
    /// It ends when this is closed, which happens if we are killed too.
    orders: ChildStdin,
}

enum Said {
    Message(Message),
    /// Done, and what follows are the intervals.
    Done(Tally, Records),
    /// Not a word more.
    Gone,
}

impl Team {
    /// Starts one process for each, and waits until all of them are ready.
    pub(super) fn start(orders: &[Orders]) -> anyhow::Result<Self> {
        let (speaker, said) = channel();
        let mut team = Self {
            members: Vec::new(),
            said,
            speaker,
            done: vec![0; orders.len()],
            finished: orders.iter().map(|_| None).collect(),
        };
        // No more threads of work than cores: more would measure the scheduler.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let threads = (cores / orders.len().max(1)).max(1);
        let program = current_exe().context("cannot find this program, to start it again")?;
        for (number, orders) in orders.iter().enumerate() {
            let mut child = Command::new(&program)
                .args(["bench", "holders"])
                .env("TOKIO_WORKER_THREADS", threads.to_string())
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .context("cannot start another process of this program")?;
            let pipes = (child.stdin.take(), child.stdout.take());
            let (Some(stdin), Some(stdout)) = pipes else {
                bail!("a process was started without pipes");
            };
            let speaker = team.speaker.clone();
            std::thread::spawn(move || listen(number, stdout, &speaker));
            team.members.push(Member {
                child,
                orders: stdin,
            });
            team.tell(number, orders)?;
        }
        let mut ready = 0;
        while ready < orders.len() {
            match team.hear(SILENCE) {
                Some((_, Said::Message(Message::Ready))) => ready += 1,
                Some((number, said)) => team.note(number, said)?,
                None => bail!("of {} processes only {ready} could start", orders.len()),
            }
        }
        Ok(team)
    }

    pub(super) fn go(&mut self, go: &Go) -> anyhow::Result<()> {
        for number in 0..self.members.len() {
            self.tell(number, go)?;
        }
        Ok(())
    }

    /// Listens until it is that late, and shows how many acquisitions there are.
    pub(super) fn watch_until(
        &mut self,
        time: u64,
        mut show: impl FnMut(u64),
    ) -> anyhow::Result<()> {
        loop {
            let left = Duration::from_nanos(time.saturating_sub(clock::now()));
            if left.is_zero() {
                return Ok(());
            }
            if let Some((number, said)) = self.hear(left) {
                self.note(number, said)?;
                show(self.done.iter().sum());
            }
        }
    }

    /// Waits until all have finished what they were at. A task that is stuck is given up after
    /// a lease and a little, by its process.
    pub(super) fn finish(mut self, lease: Duration) -> anyhow::Result<(Vec<Tally>, Vec<Records>)> {
        let mut heard = Instant::now();
        while self.finished.iter().any(Option::is_none) {
            match self.hear(SILENCE) {
                Some((number, said)) => {
                    self.note(number, said)?;
                    heard = Instant::now();
                }
                None if heard.elapsed() > SILENCE + lease => {
                    let number = self.finished.iter().position(Option::is_none);
                    bail!(
                        "process {} says nothing any more: is it stopped?",
                        number.unwrap_or_default() + 1
                    );
                }
                None => {}
            }
        }
        let finished = self.finished.drain(..).flatten();
        let (tallies, records) = finished.unzip();
        // Not killed before their intervals are read: they end when that is done.
        for mut member in self.members.drain(..) {
            std::thread::spawn(move || {
                let _ = member.child.wait();
                drop(member.orders);
            });
        }
        Ok((tallies, records))
    }

    fn tell(&mut self, number: usize, what: &impl serde::Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        // One that has ended says itself why.
        let _ = self.members[number].orders.write_all(&line);
        Ok(())
    }

    fn hear(&self, limit: Duration) -> Option<(usize, Said)> {
        self.said.recv_timeout(limit).ok()
    }

    fn note(&mut self, number: usize, said: Said) -> anyhow::Result<()> {
        match said {
            Said::Message(Message::SoFar(done)) => self.done[number] = done,
            Said::Message(Message::Failed(why)) => bail!("{why}"),
            Said::Message(Message::Ready | Message::Done(_)) => {}
            Said::Done(tally, records) => self.finished[number] = Some((tally, records)),
            Said::Gone => {
                let status = self.members[number].child.wait()?;
                bail!("process {} of the bench ended: {status}", number + 1);
            }
        }
        Ok(())
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        for member in &mut self.members {
            let _ = member.child.kill();
            let _ = member.child.wait();
        }
    }
}

/// Passes on what one process says, line by line.
fn listen(number: usize, stdout: ChildStdout, speaker: &Sender<(usize, Said)>) {
    let mut out = BufReader::with_capacity(1 << 16, stdout);
    loop {
        let mut line = String::new();
        let message = match out.read_line(&mut line) {
            Ok(1..) => serde_json::from_str(&line).ok(),
            _ => None,
        };
        let said = match message {
            Some(Message::Done(tally)) => {
                let _ = speaker.send((number, Said::Done(tally, out)));
                return;
            }
            Some(message) => Said::Message(message),
            None => {
                let _ = speaker.send((number, Said::Gone));
                return;
            }
        };
        if speaker.send((number, said)).is_err() {
            return;
        }
    }
}
