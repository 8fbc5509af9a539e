//! Jobs that are serialized by key: jobs of one key are never in two batches at once and never
//! overtake each other.
//!
//! A job that arrives while jobs of its key run joins the next batch. Jobs of other keys do not
//! wait for it any longer than for a slow batch.

use std::collections::{HashMap, VecDeque};
use std::sync::Weak;

use super::lane::{Lane, Queue};
use super::{BatchLimits, Batcher};

/// The jobs of one key in a batch. The next jobs of that key start when it is dropped, which may
/// be after the end of its batch.
pub(crate) struct KeyBatch<Job: Send + 'static> {
    /// In order of arrival.
    pub(crate) jobs: Vec<Job>,
    pub(crate) key: i64,
    lane: Weak<Lane<Keyed<Job>>>,
}

impl<Job: Send + 'static> Drop for KeyBatch<Job> {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.upgrade() {
            lane.update(|queue| queue.waiting.end(self.key));
        }
    }
}

/// A queue whose batches have no key twice, and no key of a batch that has not ended.
pub(crate) struct Keyed<Job: Send + 'static> {
    waiting: Waiting<Job>,
    key: fn(&Job) -> i64,
    lane: Weak<Lane<Self>>,
}

impl<Job: Send + 'static> Queue for Keyed<Job> {
    type Job = Job;
    type Batch = Vec<KeyBatch<Job>>;

    fn push(&mut self, job: Job) {
        self.waiting.add((self.key)(&job), job);
    }

    fn ready(&self) -> usize {
        self.waiting.ready.len()
    }

    fn take(&mut self, max: usize) -> (Self::Batch, usize) {
        let batch = self.waiting.take(max).map(|(key, jobs)| KeyBatch {
            jobs,
            key,
            lane: self.lane.clone(),
        });
        let batch = batch.collect::<Vec<_>>();
        let count = batch.iter().map(|batch| batch.jobs.len()).sum();
        (batch, count)
    }
}

impl<Job: Send + 'static> Batcher<Keyed<Job>> {
    /// Creates a batcher that calls `execute` with batches in which no key occurs twice, nor in two
    /// concurrent batches.
    pub(crate) fn keyed<Execute, Batch>(
        limits: BatchLimits,
        key: fn(&Job) -> i64,
        execute: Execute,
    ) -> Self
    where
        Execute: Fn(Vec<KeyBatch<Job>>) -> Batch + Send + Sync + 'static,
        Batch: Future<Output = ()> + Send + 'static,
    {
        let queue = |lane: &Weak<Lane<Keyed<Job>>>| Keyed {
            waiting: Waiting::default(),
            key,
            lane: lane.clone(),
        };
        Self(Lane::new(limits, queue, execute))
    }
}

/// The jobs that have not been taken into a batch.
struct Waiting<Job> {
    /// In order of arrival. A key is present while jobs of it wait or run.
    jobs: HashMap<i64, VecDeque<Job>>,
    /// The keys with waiting jobs and no running ones, in order of arrival.
    ready: VecDeque<i64>,
}

impl<Job> Default for Waiting<Job> {
    fn default() -> Self {
        Self {
            jobs: HashMap::new(),
            ready: VecDeque::new(),
        }
    }
}

impl<Job> Waiting<Job> {
    fn add(&mut self, key: i64, job: Job) {
        let jobs = self.jobs.entry(key).or_insert_with(|| {
            self.ready.push_back(key);
            VecDeque::new()
        });
        jobs.push_back(job);
    }

    /// Takes up to `max` jobs of keys that are ready.
    fn take(&mut self, max: usize) -> impl Iterator<Item = (i64, Vec<Job>)> {
        let mut remaining = max;
        std::iter::from_fn(move || {
            if remaining == 0 {
                return None;
            }
            let key = self.ready.pop_front()?;
            let jobs = self.jobs.get_mut(&key)?;
            let taken = jobs.drain(..remaining.min(jobs.len())).collect::<Vec<_>>();
            remaining -= taken.len();
            Some((key, taken))
        })
    }

    /// Records that the running jobs of a key have ended.
    fn end(&mut self, key: i64) {
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
    async fn jobs_of_one_key_wait_for_each_other_and_for_no_others() {
        let started = Arc::new(Mutex::new(Vec::new()));
        let gates = [Arc::new(Notify::new()), Arc::new(Notify::new())];
        let (log, opened) = (started.clone(), gates.clone());
        let limits = BatchLimits::new("test", 2, 10);
        let batcher = Batcher::keyed(
            limits,
            |job: &Job| job.0,
            move |batches: Vec<KeyBatch<Job>>| {
                for mut batch in batches {
                    let numbers = batch.jobs.iter().map(|job| job.1).collect::<Vec<_>>();
                    log.lock().unwrap().push((batch.key, numbers));
                    let gate = opened[usize::try_from(batch.key).unwrap()].clone();
                    // The whole batch ends long before the jobs of this key do.
                    tokio::spawn(async move {
                        gate.notified().await;
                        for (_, number, reply) in batch.jobs.drain(..) {
                            let _ = reply.send(number);
                        }
                    });
                }
                async {}
            },
        );
        let batcher = Arc::new(batcher);
        let mut callers = Vec::new();
        for (key, number) in [(0, 1), (0, 2), (1, 3), (0, 4), (1, 5)] {
            let batcher = batcher.clone();
            let submit = async move { batcher.submit(|reply| (key, number, reply)).await };
            callers.push(tokio::spawn(submit));
            // Paused time advances only when every task is idle: this job is queued then.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(*started.lock().unwrap(), [(0, vec![1]), (1, vec![3])]);
        gates[1].notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(started.lock().unwrap()[2..], [(1, vec![5])]);
        gates[0].notify_one();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(started.lock().unwrap()[3..], [(0, vec![2, 4])]);
        gates.iter().for_each(|gate| gate.notify_one());
        for (caller, number) in callers.into_iter().zip(1..) {
            assert_eq!(caller.await.unwrap(), Some(number));
        }
    }

    #[test]
    fn a_batch_takes_up_to_the_maximum_and_leaves_the_rest_in_order() {
        let mut waiting = Waiting::default();
        for number in 0..5 {
            waiting.add(7, number);
        }
        waiting.add(8, 5);
        let taken = waiting.take(3).collect::<Vec<_>>();
        assert_eq!(taken, [(7, vec![0, 1, 2])]);
        // 7 is running: only 8 is ready.
        assert_eq!(waiting.take(3).collect::<Vec<_>>(), [(8, vec![5])]);
        waiting.end(8);
        waiting.end(7);
        assert_eq!(waiting.take(3).collect::<Vec<_>>(), [(7, vec![3, 4])]);
        waiting.end(7);
        assert!(waiting.jobs.is_empty());
    }
}
