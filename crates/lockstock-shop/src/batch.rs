//! Combines calls: whoever arrives while a batch is under way joins the next one.
//!
//! A database answers one question or sixty in nearly the same time, so under load a batch
//! costs what a single call did, and without load a call waits for nobody. Order within a
//! batch is order of arrival. Bounded: at most so many batches run at once, of so many jobs,
//! and callers wait in a bounded queue; those who say so wait no longer than until a time for
//! their job to begin, and what has not begun by then never does.

mod keyed;
mod start;

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until, timeout_at};

pub(crate) use self::keyed::Turn;
pub(crate) use self::start::Ticket;

/// The entrance to the batches. A job carries its own way to be answered.
pub(crate) struct Combiner<Job> {
    entrance: mpsc::Sender<Job>,
    /// Ends the batches when the combiner is dropped.
    _dispatcher: JoinSet<()>,
}

/// How many batches there may be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lanes {
    /// The most batches at once. The second and later ones only begin while those before
    /// them are slow: one large batch costs less than two small ones.
    pub(crate) most: usize,
    /// The most jobs in one.
    pub(crate) jobs: usize,
}

/// Jobs that may wait to be taken into a batch before callers wait outside.
const QUEUE: usize = 4096;

/// A batch that takes so long holds up the next one for no good reason: it may wait for a
/// disk, or for a connection that is gone.
const SLOW: Duration = Duration::from_millis(5);

impl<Job: Send + 'static> Combiner<Job> {
    /// Runs `run` on one batch after the other.
    pub(crate) fn start<Run, Batch>(lanes: Lanes, run: Run) -> Self
    where
        Run: Fn(Vec<Job>) -> Batch + Send + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        Self::dispatched(|exit| dispatch(exit, lanes, run))
    }

    fn dispatched<D>(dispatch: impl FnOnce(mpsc::Receiver<Job>) -> D) -> Self
    where
        D: Future<Output = ()> + Send + 'static,
    {
        let (entrance, exit) = mpsc::channel(QUEUE);
        let mut dispatcher = JoinSet::new();
        dispatcher.spawn(dispatch(exit));
        Self {
            entrance,
            _dispatcher: dispatcher,
        }
    }

    /// Hands in the job made of the sender that its answer shall go to, and waits for that.
    /// `None` if the batch ended without one.
    pub(crate) async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (answer, answered) = oneshot::channel();
        self.entrance.send(job(answer)).await.ok()?;
        answered.await.ok()
    }

    /// The same for a job that is worth nothing later: if it has not [begun](Ticket::begin)
    /// within `patience`, the answer is `Waited::InVain`, and it never begins.
    pub(crate) async fn ask_within<T>(
        &self,
        patience: Duration,
        job: impl FnOnce(oneshot::Sender<T>, Ticket) -> Job,
    ) -> Waited<T> {
        let until = Instant::now() + patience;
        let ticket = Ticket::default();
        let (answer, mut answered) = oneshot::channel();
        let handed_in = self.entrance.send(job(answer, ticket.clone()));
        match timeout_at(until, handed_in).await {
            Err(_) => return Waited::InVain,
            Ok(Err(_)) => return Waited::Forever,
            Ok(Ok(())) => {}
        }
        let early = timeout_at(until, &mut answered).await;
        let answered = match early {
            Ok(answered) => answered,
            Err(_) if ticket.give_up() => return Waited::InVain,
            // It is under way.
            Err(_) => answered.await,
        };
        answered.map_or(Waited::Forever, Waited::For)
    }
}

/// How waiting for an answer ends.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Waited<T> {
    /// With one.
    For(T),
    /// The job has not begun, and never will.
    InVain,
    /// The batch ended without one: nobody knows what it did.
    Forever,
}

async fn dispatch<Job, Run, Batch>(mut exit: mpsc::Receiver<Job>, lanes: Lanes, run: Run)
where
    Run: Fn(Vec<Job>) -> Batch,
    Batch: Future<Output = ()> + Send + 'static,
{
    let mut next = Vec::new();
    let mut running = JoinSet::new();
    let mut slow = Instant::now();
    loop {
        let there_is_a_lane =
            running.is_empty() || running.len() < lanes.most && slow <= Instant::now();
        if there_is_a_lane && !next.is_empty() {
            running.spawn(run(std::mem::take(&mut next)));
            slow = Instant::now() + SLOW;
        }
        let room = lanes.jobs - next.len();
        let waits_for_a_lane = !next.is_empty() && running.len() < lanes.most;
        tokio::select! {
            taken = exit.recv_many(&mut next, room), if room > 0 => {
                if taken == 0 {
                    return;
                }
            }
            Some(ended) = running.join_next() => {
                note_panic(ended);
            }
            () = sleep_until(slow), if waits_for_a_lane => {}
        }
    }
}

/// The callers of a batch that panicked get no answer, and hear that; the others are not
/// affected.
fn note_panic(ended: Result<(), JoinError>) {
    if let Err(panic) = ended {
        tracing::error!(%panic, "a batch panicked");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use tokio::sync::Notify;

    type Job = (u32, oneshot::Sender<u32>);

    #[tokio::test(start_paused = true)]
    async fn who_comes_while_a_batch_is_under_way_joins_the_next_in_order() {
        let batches = Arc::new(Mutex::new(Vec::new()));
        let (gate, noted) = (Arc::new(Notify::new()), batches.clone());
        let opened = gate.clone();
        let lanes = Lanes { most: 1, jobs: 3 };
        let combiner = Arc::new(Combiner::start(lanes, move |batch: Vec<Job>| {
            let (gate, noted) = (gate.clone(), noted.clone());
            async move {
                let numbers = batch.iter().map(|job| job.0).collect::<Vec<_>>();
                noted.lock().unwrap().push(numbers);
                gate.notified().await;
                for (number, answer) in batch {
                    let _ = answer.send(number * 10);
                }
            }
        }));
        let mut callers = Vec::new();
        for number in 0..6 {
            let combiner = combiner.clone();
            let call = async move { combiner.ask(|answer| (number, answer)).await };
            callers.push(tokio::spawn(call));
            // Paused time moves on when every task waits: so each is in its place.
            tokio::time::sleep(SLOW * 2).await;
        }
        for _ in 0..3 {
            opened.notify_one();
            tokio::time::sleep(SLOW).await;
        }
        for (number, caller) in (0..).zip(callers) {
            assert_eq!(caller.await.unwrap(), Some(number * 10));
        }
        assert_eq!(
            *batches.lock().unwrap(),
            [vec![0], vec![1, 2, 3], vec![4, 5]]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_batch_lets_the_next_one_pass_and_a_panic_ends_only_its_own() {
        let lanes = Lanes { most: 2, jobs: 10 };
        let combiner = Arc::new(Combiner::start(lanes, |batch: Vec<Job>| async move {
            for (number, answer) in batch {
                match number {
                    0 => std::future::pending().await,
                    1 => panic!("as told"),
                    _ => drop(answer.send(number)),
                }
            }
        }));
        let stuck = combiner.clone();
        let stuck = tokio::spawn(async move { stuck.ask(|answer| (0, answer)).await });
        tokio::time::sleep(SLOW).await;
        assert_eq!(combiner.ask(|answer| (1, answer)).await, None);
        assert_eq!(combiner.ask(|answer| (2, answer)).await, Some(2));
        assert!(!stuck.is_finished());
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_not_begun_in_time_never_does() {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let (gate, noted) = (Arc::new(Notify::new()), begun.clone());
        let opened = gate.clone();
        let lanes = Lanes { most: 1, jobs: 1 };
        let combiner = Combiner::start(lanes, move |batch: Vec<(Job, Ticket)>| {
            let (gate, noted) = (gate.clone(), noted.clone());
            async move {
                for ((number, answer), ticket) in batch {
                    if ticket.begin() {
                        noted.lock().unwrap().push(number);
                        gate.notified().await;
                        let _ = answer.send(number);
                    }
                }
            }
        });
        let combiner = Arc::new(combiner);
        let ask = |number| {
            let combiner = combiner.clone();
            let job = move |answer, ticket| ((number, answer), ticket);
            tokio::spawn(async move { combiner.ask_within(SLOW * 10, job).await })
        };
        let first = ask(1);
        tokio::time::sleep(SLOW).await;
        // The first holds the only lane for longer than the second waits.
        assert_eq!(ask(2).await.unwrap(), Waited::InVain);
        opened.notify_one();
        assert_eq!(first.await.unwrap(), Waited::For(1), "it had begun");
        let third = ask(3);
        opened.notify_one();
        assert_eq!(third.await.unwrap(), Waited::For(3));
        assert_eq!(*begun.lock().unwrap(), [1, 3]);
    }
}
