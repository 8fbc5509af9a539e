//! Random faults, and what has to hold after them.

use std::time::{Duration, Instant};

use lockstock_testkit::Redis;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::crew::{Crew, TIMEOUT};
use crate::soak::size;
use crate::worker::Faults;

const LEASE: Duration = Duration::from_millis(500);
const PROCESSES: usize = 4;

/// A fault, of one process unless its name is of Redis.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    /// For longer than the lease.
    Paused,
    /// Both sides notice.
    CutOff,
    /// Its requests take effect, and it receives no reply.
    RepliesLost,
    OneReplyLost,
    Late,
    /// No traffic passes, and neither side notices.
    Silent,
    RedisKilled,
    RedisPaused,
}

const FAULTS: [Fault; 9] = [
    Fault::Killed,
    Fault::Paused,
    Fault::CutOff,
    Fault::RepliesLost,
    Fault::OneReplyLost,
    Fault::Late,
    Fault::Silent,
    Fault::RedisKilled,
    Fault::RedisPaused,
];

/// Lets processes contend while faults come and go.
pub(crate) fn run(test: &'static str, redis: Redis, faults: Faults, chance: &mut StdRng) {
    let mut crew = Crew::new(test, redis, &["hot", "b", "c"], LEASE, faults);
    // Tasks are alone in their process or share it.
    let tasks = |chance: &mut StdRng| chance.random_range(1..=3);
    for _ in 0..PROCESSES {
        crew.hire(tasks(chance));
    }
    crew.all_progress(LEASE + TIMEOUT);
    // Each fault at least twice, in any order.
    let mut rounds = FAULTS.repeat(size(2, 40));
    shuffle(&mut rounds, chance);
    let begun = Instant::now();
    for (round, &fault) in rounds.iter().enumerate() {
        println!("{test} [{:.1?}]: {fault:?}", begun.elapsed());
        let victim = victim(&crew, chance);
        // The duration of the fault is random, too: this sleep awaits nothing.
        let for_a_while = Duration::from_millis(chance.random_range(20..400));
        let last = || std::thread::sleep(for_a_while);
        let member = &crew.members[victim];
        match fault {
            Fault::Killed => {
                let tasks = tasks(chance);
                crew.replace(victim, tasks);
            }
            Fault::Paused => {
                member.process.pause();
                std::thread::sleep(LEASE + for_a_while);
                member.process.resume();
            }
            Fault::CutOff => {
                member.proxy.cut();
                last();
            }
            Fault::RepliesLost => {
                member.proxy.drop_replies();
                last();
            }
            Fault::OneReplyLost => {
                for member in &crew.members {
                    member.proxy.reset_next_reply();
                }
                last();
            }
            Fault::Late => {
                member.proxy.delay(for_a_while / 8);
                last();
            }
            Fault::Silent => {
                member.proxy.stall();
                last();
            }
            Fault::RedisKilled => {
                crew.redis.kill();
                last();
                crew.redis.restart();
            }
            Fault::RedisPaused => {
                crew.redis.pause();
                last();
                crew.redis.resume();
            }
        }
        crew.members.iter().for_each(|member| member.proxy.pass());
        crew.assert_all_running();
        // Some faults begin after the last one has been overcome, the others in the middle.
        if round % 4 == 3 {
            crew.all_progress(LEASE + TIMEOUT);
        }
    }
    crew.all_progress(LEASE + TIMEOUT);
    println!(
        "{test}: {} writes in {:?}",
        crew.judge.accepted(),
        begun.elapsed()
    );
    crew.dismiss();
}

/// Returns half the time the current or last holder of the hot lock, else a waiter.
fn victim(crew: &Crew, chance: &mut StdRng) -> usize {
    let holder = crew.judge.last_writer("hot");
    let holder = crew
        .members
        .iter()
        .position(|member| Some(member.number) == holder);
    let any = chance.random_range(0..crew.members.len());
    match holder {
        Some(holder) if chance.random() => holder,
        Some(holder) if any == holder => (any + 1) % crew.members.len(),
        _ => any,
    }
}

fn shuffle<T>(items: &mut [T], chance: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, chance.random_range(0..=last));
    }
}
