//! Faults, drawn by chance, and what has to hold when they have ended.

use std::time::{Duration, Instant};

use lockstock_testkit::Redis;
use rand::rngs::StdRng;
use rand::{Rng, RngExt};

use crate::crew::{Crew, PATIENCE};
use crate::soak::size;
use crate::worker::Faults;

const LEASE: Duration = Duration::from_millis(500);
const PROCESSES: usize = 4;

/// What goes wrong, with one process unless it says otherwise.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Killed,
    /// For longer than the lease.
    Paused,
    /// Both sides know.
    CutOff,
    /// What it asks is done, and it does not hear of it.
    Unheard,
    OneReplyLost,
    Late,
    /// Nothing gets through, and nobody knows.
    Silent,
    RedisKilled,
    RedisPaused,
}

const FAULTS: [Fault; 9] = [
    Fault::Killed,
    Fault::Paused,
    Fault::CutOff,
    Fault::Unheard,
    Fault::OneReplyLost,
    Fault::Late,
    Fault::Silent,
    Fault::RedisKilled,
    Fault::RedisPaused,
];

/// Lets them contend while one fault after another comes and goes.
pub(crate) fn run(test: &'static str, redis: Redis, faults: Faults, chance: &mut StdRng) {
    let mut crew = Crew::new(test, redis, &["hot", "b", "c"], LEASE, faults);
    // Alone in their process and in company, by turns.
    let tasks = |chance: &mut StdRng| chance.random_range(1..=3);
    for _ in 0..PROCESSES {
        crew.hire(tasks(chance));
    }
    crew.everybody_goes_on(LEASE + PATIENCE);
    // Each of them at least twice, in any order.
    let mut rounds = FAULTS.repeat(size(2, 40));
    shuffle(&mut rounds, chance);
    let begun = Instant::now();
    for (round, &fault) in rounds.iter().enumerate() {
        println!("{test} [{:.1?}]: {fault:?}", begun.elapsed());
        let victim = victim(&crew, chance);
        // How long it lasts is drawn, too: this is no waiting for something to happen.
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
            Fault::Unheard => {
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
        crew.all_still_there();
        // Now and then a fault finds them as they are without, not in the middle of the last.
        if round % 4 == 3 {
            crew.everybody_goes_on(LEASE + PATIENCE);
        }
    }
    crew.everybody_goes_on(LEASE + PATIENCE);
    println!(
        "{test}: {} writes in {:?}",
        crew.judge.accepted(),
        begun.elapsed()
    );
    crew.dismiss();
}

/// Half the time whoever holds the hot lock, or did a moment ago; else somebody who waits.
fn victim(crew: &Crew, chance: &mut StdRng) -> usize {
    let holder = crew.judge.last_writer("hot");
    let holder = crew
        .members
        .iter()
        .position(|member| Some(member.number) == holder);
    let anybody = chance.random_range(0..crew.members.len());
    match holder {
        Some(holder) if chance.random() => holder,
        Some(holder) if anybody == holder => (anybody + 1) % crew.members.len(),
        _ => anybody,
    }
}

fn shuffle<T>(items: &mut [T], chance: &mut impl Rng) {
    for last in (1..items.len()).rev() {
        items.swap(last, chance.random_range(0..=last));
    }
}
