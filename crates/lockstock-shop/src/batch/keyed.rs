//! Jobs that have to come one after another for each key: those of one key are never in two
//! batches at once, and never overtake each other.
//!
//! Whoever arrives while jobs of its key are under way joins the next batch; jobs of other keys
//! wait for those no longer than any batch waits for a slow one.

use std::collections::{HashMap, VecDeque};

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::{Combiner, Lanes, QUEUE, SLOW, note_panic};

/// The jobs of one key that are under way. The next ones of that key begin when it is dropped,
/// which may be after the end of its batch.
pub(crate) struct Turn<Job> {
    /// In order of arrival.
    pub(crate) jobs: Vec<Job>,
    pub(crate) key: i64,
    ended: mpsc::UnboundedSender<i64>,
}

impl<Job> Drop for Turn<Job> {
    fn drop(&mut self) {
        // When the server stops there is nobody to hear it.
        let _ = self.ended.send(self.key);
    }
}

impl<Job: Send + 'static> Combiner<Job> {
    /// Runs `run` on one batch of turns after the other, no two of which have the same key.
    pub(crate) fn start_in_turn<Run, Batch>(lanes: Lanes, key: fn(&Job) -> i64, run: Run) -> Self
    where
        Run: Fn(Vec<Turn<Job>>) -> Batch + Send + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        Self::dispatched(|exit| dispatch(exit, lanes, key, run))
    }
}

async fn dispatch<Job, Run, Batch>(
    mut exit: mpsc::Receiver<Job>,
    lanes: Lanes,
    key: fn(&Job) -> i64,
    run: Run,
) where
    Run: Fn(Vec<Turn<Job>>) -> Batch,
    Batch: Future<Output = ()> + Send + 'static,
{
    let (ended, mut ends) = mpsc::unbounded_channel();
    let mut waiting = Waiting::default();
    let mut arrived = Vec::new();
    let mut running = JoinSet::new();
    let mut slow = Instant::now();
    loop {
        let there_is_a_lane =
            running.is_empty() || running.len() < lanes.most && slow <= Instant::now();
        if there_is_a_lane && !waiting.ready.is_empty() {
            let batch = waiting.take(lanes.jobs).map(|(key, jobs)| Turn {
                jobs,
                key,
                ended: ended.clone(),
            });
            running.spawn(run(batch.collect()));
            slow = Instant::now() + SLOW;
        }
        let room = QUEUE - waiting.count;
        let waits_for_a_lane = !waiting.ready.is_empty() && running.len() < lanes.most;
        tokio::select! {
            taken = exit.recv_many(&mut arrived, room), if room > 0 => {
                if taken == 0 {
                    return;
                }
                for job in arrived.drain(..) {
                    waiting.add(key(&job), job);
                }
            }
            Some(key) = ends.recv() => waiting.ended(key),
            Some(ended) = running.join_next() => note_panic(ended),
            () = sleep_until(slow), if waits_for_a_lane => {}
        }
    }
}

/// The jobs that are not under way.
struct Waiting<Job> {
    count: usize,
    /// In order of arrival. A key is here as long as jobs of it wait or are under way.
    jobs: HashMap<i64, VecDeque<Job>>,
    /// The keys with jobs of which none are under way, in order of arrival.
    ready: VecDeque<i64>,
}

impl<Job> Default for Waiting<Job> {
    fn default() -> Self {
        Self {
            count: 0,
            jobs: HashMap::new(),
            ready: VecDeque::new(),
        }
    }
}

impl<Job> Waiting<Job> {
    fn add(&mut self, key: i64, job: Job) {
        self.count += 1;
        let jobs = self.jobs.entry(key).or_insert_with(|| {
            self.ready.push_back(key);
            VecDeque::new()
        });
        jobs.push_back(job);
    }

    /// Takes up to `most` jobs of keys that are ready.
    fn take(&mut self, most: usize) -> impl Iterator<Item = (i64, Vec<Job>)> {
        let mut left = most;
        std::iter::from_fn(move || {
            if left == 0 {
                return None;
            }
            let key = self.ready.pop_front()?;
            let jobs = self.jobs.get_mut(&key)?;
            let taken = jobs.drain(..left.min(jobs.len())).collect::<Vec<_>>();
            left -= taken.len();
            self.count -= taken.len();
            Some((key, taken))
        })
    }

    fn ended(&mut self, key: i64) {
        match self.jobs.get(&key) {
            Some(jobs) if jobs.is_empty() => drop(self.jobs.remove(&key)),
            Some(_) => self.ready.push_back(key),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};
    use std::time::Duration;
    use tokio::sync::{Notify, oneshot};

    type Job = (i64, u32, oneshot::Sender<u32>);

    #[tokio::test(start_paused = true)]
    async fn those_of_one_key_wait_for_each_other_and_nobody_else_does() {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let gates = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let (noted, opened) = (begun.clone(), gates.clone());
        let lanes = Lanes { most: 2, jobs: 10 };
        let combiner = Combiner::start_in_turn(
            lanes,
            |job: &Job| job.0,
            move |turns: Vec<Turn<Job>>| {
                for mut turn in turns {
                    let numbers = turn.jobs.iter().map(|job| job.1).collect::<Vec<_>>();
                    noted.lock().unwrap().push((turn.key, numbers));
                    let gate = opened[usize::try_from(turn.key).unwrap()].clone();
                    // The batch is over long before the turn is.
                    tokio::spawn(async move {
                        gate.notified().await;
                        for (_, number, answer) in turn.jobs.drain(..) {
                            let _ = answer.send(number);
                        }
                    });
                }
                async {}
            },
        );
        let combiner = Arc::new(combiner);
        let mut callers = Vec::new();
        for (key, number) in [(0, 1), (0, 2), (1, 3), (0, 4), (1, 5)] {
            let combiner = combiner.clone();
            let ask = async move { combiner.ask(|answer| (key, number, answer)).await };
            callers.push(tokio::spawn(ask));
            // Paused time moves on when every task waits: so each is in its place.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*begun.lock().unwrap(), [(0, vec![1]), (1, vec![3])]);
        gates[1].notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(begun.lock().unwrap()[2..], [(1, vec![5])]);
        gates[0].notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(begun.lock().unwrap()[3..], [(0, vec![2, 4])]);
        gates.iter().for_each(|gate| gate.notify_one());
        for (caller, number) in callers.into_iter().zip(1..) {
            assert_eq!(caller.await.unwrap(), Some(number));
        }
    }

    #[test]
    fn a_batch_takes_no_more_than_it_may_and_leaves_the_rest_in_order() {
        let mut waiting = Waiting::default();
        for number in 0..5 {
            waiting.add(7, number);
        }
        waiting.add(8, 5);
        let taken = waiting.take(3).collect::<Vec<_>>();
        assert_eq!(taken, [(7, vec![0, 1, 2])]);
        // 7 is under way: only 8 is ready.
        assert_eq!(waiting.take(3).collect::<Vec<_>>(), [(8, vec![5])]);
        waiting.ended(8);
        waiting.ended(7);
        assert_eq!(waiting.take(3).collect::<Vec<_>>(), [(7, vec![3, 4])]);
        waiting.ended(7);
        assert_eq!((waiting.count, waiting.jobs.len()), (0, 0));
    }
}
