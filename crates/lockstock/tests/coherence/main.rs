//! Near caches beside writers: no read returns what the guarantees of `Cache::near` exclude.
//!
//! `races.rs` has each race on its own. Here several real processes read through near caches and
//! write, through near caches and without them, while connections are cut, forgotten, stalled and
//! delayed, the server is paused and the database flushed. Every read is judged (`judge.rs`).

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/mod.rs"]
mod harness;
#[path = "../harness/soak.rs"]
mod soak;

mod judge;
mod member;
mod races;

use std::time::{Duration, Instant};

use judge::Judge;
use lockstock::DEFAULT_MAX_STALENESS;
use lockstock_testkit::Redis;
use member::{KEYS, Member, key_in_store};
use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use soak::{chance, size};

const PROCESSES: u64 = 4;
/// How many faults there are between two quiet times.
const QUIET_INTERVAL: usize = 10;

/// Empties the database and writes all keys, in one step: a number never decreases, although the
/// near caches receive the invalidation of the flush only.
const FLUSH: &str = "
    redis.call('FLUSHDB')
    for _, key in ipairs(KEYS) do redis.call('SET', key, ARGV[1]) end";

#[test]
#[ignore = "not a test: what the other tests of this file start as a process of its own"]
fn one_process() {
    member::run_if_ordered();
}

#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Both sides notice.
    CutOff,
    /// Neither side notices, and the connections never carry another byte.
    Forgotten,
    /// No traffic passes for a while, and neither side notices.
    Silent,
    /// Requests take effect, and their replies and invalidations are lost.
    RepliesLost,
    /// Replies and invalidations arrive late, and together.
    Held,
    Late,
    RedisPaused,
    /// A process stands still for longer than the bound.
    Frozen,
    Flushed,
}

const FAULTS: [Fault; 10] = [
    Fault::None,
    Fault::CutOff,
    Fault::Forgotten,
    Fault::Silent,
    Fault::RepliesLost,
    Fault::Held,
    Fault::Late,
    Fault::RedisPaused,
    Fault::Frozen,
    Fault::Flushed,
];

struct Fleet {
    redis: Redis,
    members: Vec<Member>,
    judge: Judge,
    flushes: i64,
}

impl Fleet {
    fn new() -> Self {
        let mut fleet = Self {
            redis: Redis::start(),
            members: Vec::new(),
            judge: Judge::default(),
            flushes: 0,
        };
        fleet.flush();
        fleet.members = (0..PROCESSES)
            .map(|number| Member::start(number, fleet.redis.address()))
            .collect();
        fleet
    }

    /// Empties the database, and writes a higher number under every key.
    fn flush(&mut self) -> i64 {
        self.flushes += 1;
        let base = self.flushes * 1_000_000_000;
        let (count, keys) = (KEYS.to_string(), (0..KEYS).map(key_in_store));
        let keys: Vec<String> = keys.collect();
        let mut words = vec!["EVAL", FLUSH, &count];
        words.extend(keys.iter().map(|key| &key[..]));
        let base_text = base.to_string();
        words.push(&base_text);
        self.redis.command(&words).unwrap();
        let done_at_ns = member::now_ns();
        (0..KEYS).for_each(|key| self.judge.written(key, base, done_at_ns));
        base
    }

    fn break_for_a_while(&mut self, fault: Fault, chance: &mut StdRng) {
        // The duration of the fault is random, too: this sleep awaits nothing.
        let last = Duration::from_millis(chance.random_range(20..600));
        let victim = chance.random_range(0..self.members.len());
        match fault {
            Fault::None => {}
            Fault::CutOff => self.members[victim].proxy.cut(),
            Fault::Forgotten => self.members[victim].proxy.forget(),
            Fault::Silent => self.members[victim].proxy.stall(),
            Fault::RepliesLost => self.members[victim].proxy.drop_replies(),
            Fault::Held => self.members[victim].proxy.hold_replies(),
            Fault::Late => self.members[victim].proxy.delay(last / 10),
            Fault::RedisPaused => self.redis.pause(),
            Fault::Frozen => {
                self.members[victim].process.pause();
                std::thread::sleep(DEFAULT_MAX_STALENESS);
            }
            Fault::Flushed => {
                self.flush();
            }
        }
        std::thread::sleep(last);
        match fault {
            Fault::RedisPaused => self.redis.resume(),
            Fault::Frozen => self.members[victim].process.resume(),
            _ => {}
        }
        self.members.iter().for_each(|member| member.proxy.pass());
        self.members.iter().for_each(Member::assert_running);
    }

    /// Lets the processes read, without a write and without a fault, until each copy that has missed
    /// an invalidation has been read after the bound.
    fn be_quiet(&mut self) {
        self.members
            .iter_mut()
            .for_each(|member| member.set_writing(false));
        // Not awaited: the reads of this time are judged by when they began.
        std::thread::sleep(DEFAULT_MAX_STALENESS + Duration::from_millis(500));
        self.members
            .iter_mut()
            .for_each(|member| member.set_writing(true));
    }

    /// Waits until each process has read, under every key, at least what is written now.
    fn all_follow(&mut self) {
        let base = self.flush();
        let begun = Instant::now();
        for member in &self.members {
            while !member.has_read_everywhere(base) {
                member.assert_running();
                assert!(
                    begun.elapsed() < harness::TIMEOUT,
                    "a process does not follow"
                );
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// Runs the faults in any order, each `times` times, with a quiet time now and then.
fn run(test: &str, faults: &[Fault], times: usize) {
    let mut chance = chance(test);
    let mut fleet = Fleet::new();
    fleet.all_follow();
    let begun = Instant::now();
    let mut rounds = faults.repeat(times);
    rounds.shuffle(&mut chance);
    for rounds in rounds.chunks(QUIET_INTERVAL) {
        for &fault in rounds {
            println!("{test} [{:.1?}]: {fault:?}", begun.elapsed());
            fleet.break_for_a_while(fault, &mut chance);
        }
        fleet.be_quiet();
    }
    fleet.all_follow();
    let gets = gets(&fleet.redis);
    let mut reads = 0;
    for member in fleet.members.drain(..) {
        reads += member.dismiss(&mut fleet.judge);
    }
    let stalest = fleet.judge.check();
    println!("{test}: {reads} reads, {gets} of them from Redis, at most {stalest:?} behind");
    assert!(2 * gets < reads, "{gets} of {reads} reads were from Redis");
}

/// Returns how many `GET` the server has carried out.
fn gets(redis: &Redis) -> u64 {
    let stats = redis.command(&["INFO", "commandstats"]).unwrap();
    let calls = stats
        .lines()
        .find_map(|line| line.strip_prefix("cmdstat_get:calls="));
    let calls = calls.unwrap().split(',').next().unwrap();
    calls.parse().unwrap()
}

#[test]
fn without_faults_no_read_is_stale() {
    run("no_faults", &[Fault::None], size(QUIET_INTERVAL, 300));
}

#[test]
fn under_faults_no_read_is_older_than_the_bound() {
    run("faults", &FAULTS, size(1, 50));
}
