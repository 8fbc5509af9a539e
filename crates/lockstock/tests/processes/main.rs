//! Several real processes contend for the same locks. Some are killed, paused or cut off, and
//! Redis is killed under them. A fenced register in Postgres judges every run.
//!
//! Besides the rules of the judge (`register.rs`): no holder is overtaken before its deadline on
//! its own clock, unless the store lost the lock; after the faults every process acquires the
//! lock again; and a process that has left leaves nothing behind.

#![allow(clippy::unwrap_used, reason = "a failed unwrap fails the test")]

#[path = "../harness/soak.rs"]
mod soak;

mod crew;
mod faults;
mod register;
mod worker;

use std::time::{Duration, Instant};

use crew::{Crew, TIMEOUT};
use lockstock_testkit::Redis;
use soak::{chance, size};
use worker::Faults;

#[test]
#[ignore = "not a test: what the other tests of this file start as a process of its own"]
fn one_process() {
    worker::run_if_ordered();
}

// --- without faults -------------------------------------------------------------------------

/// So long that a lost notification is a stall, which no end of a lease resolves in time.
const LONG: Duration = Duration::from_secs(120);

fn hand_overs(test: &'static str, processes: u64, tasks: u64, count: u64) {
    let mut crew = Crew::new(test, Redis::start(), &["hot"], LONG, Faults::None);
    for _ in 0..processes {
        crew.hire(tasks);
    }
    let begun = Instant::now();
    let (mut before, mut shown) = (0, Instant::now());
    while before < count {
        let mut now = before;
        crew.progress_until("a hand-over", TIMEOUT, |crew| {
            now = crew.judge.accepted();
            now > before
        });
        before = now;
        if shown.elapsed() > Duration::from_secs(10) {
            println!("{test}: {now} of {count} after {:?}", begun.elapsed());
            shown = Instant::now();
        }
    }
    println!("{test}: {before} hand-overs in {:?}", begun.elapsed());
    crew.all_progress(TIMEOUT);
    crew.dismiss();
}

#[test]
fn few_processes_with_many_tasks_never_stall() {
    hand_overs("few_with_many", 4, 4, size(4_000, 700_000));
}

#[test]
fn many_processes_with_one_task_never_stall() {
    hand_overs("many_with_one", 8, 1, size(4_000, 300_000));
}

#[test]
fn several_names_and_every_way_to_acquire_and_release() {
    let names = ["several", "hot {tag} a", "b", "c", "d}"];
    let names = names.map(|name| name.replace(' ', "-"));
    let names = names.each_ref().map(|name| &name[..]);
    let mut crew = Crew::new("several", Redis::start(), &names, LONG, Faults::None);
    for _ in 0..3 {
        crew.hire(4);
    }
    let count = size(2_000, 100_000);
    let begun = Instant::now();
    let limit = TIMEOUT * size(1, 60);
    crew.progress_until("the writes", limit, |crew| crew.judge.accepted() >= count);
    println!("several names: {count} writes in {:?}", begun.elapsed());
    crew.all_progress(TIMEOUT);
    crew.dismiss();
}

// --- one fault at a time --------------------------------------------------------------------

/// The lease of a holder whose lease has to end.
const SHORT: Duration = Duration::from_secs(1);

fn puppets(test: &'static str, count: usize) -> Crew {
    let mut crew = Crew::new(test, Redis::start(), &["hot"], LONG, Faults::Puppet);
    for _ in 0..count {
        crew.hire(1);
    }
    for puppet in &crew.members {
        puppet.expect("ready");
    }
    crew
}

#[test]
fn the_next_process_follows_a_killed_holder_when_its_lease_ends() {
    let mut crew = puppets("killed_holder", 3);
    let requested_at = Instant::now();
    crew.members[0].tell("acquire 1");
    crew.members[0].expect("held");
    for waiter in &mut crew.members[1..] {
        waiter.tell("acquire 120");
    }
    let holder = crew.members.remove(0);
    holder.process.kill();
    // Either of the two may be the first.
    let next = crew.first_to_say("held");
    assert!(
        requested_at.elapsed() >= SHORT,
        "{:?}",
        requested_at.elapsed()
    );
    crew.members[next].tell("write");
    crew.members[next].expect("written");
    let last = 1 - next;
    crew.members[next].tell("release");
    crew.members[next].expect("released");
    crew.members[last].expect("held");
    crew.members[last].tell("release");
    crew.dismiss();
}

#[test]
fn a_killed_waiter_is_skipped() {
    let mut crew = puppets("killed_waiter", 3);
    crew.members[0].tell("acquire 120");
    crew.members[0].expect("held");
    crew.members[1].tell("acquire 120");
    crew.progress_until("a waiter", TIMEOUT, |crew| crew.queued("hot") == 1);
    crew.members[2].tell("acquire 120");
    crew.progress_until("another", TIMEOUT, |crew| crew.queued("hot") == 2);
    let waiter = crew.members.remove(1);
    waiter.process.kill();
    crew.members[0].tell("release");
    crew.members[1].expect("held");
    crew.members[1].tell("write");
    crew.members[1].expect("written");
    crew.members[1].tell("release");
    crew.dismiss();
}

#[test]
fn paused_waiters_delay_the_next_process_by_seconds_and_follow_it() {
    let mut crew = puppets("paused_waiters", 5);
    crew.members[0].tell("acquire 120");
    crew.members[0].expect("held");
    for index in 1..5 {
        crew.members[index].tell("acquire 120");
        let count = index as u64;
        crew.progress_until("a waiter", TIMEOUT, |crew| crew.queued("hot") == count);
    }
    // A grant to a waiter of that age has to be confirmed.
    std::thread::sleep(SHORT);
    let paused = || 1..4;
    paused().for_each(|index| crew.members[index].process.pause());
    crew.members[0].tell("release");
    crew.members[0].expect("released");
    crew.members[4].expect("held");
    paused().for_each(|index| crew.members[index].process.resume());
    crew.progress_until("all waiters", TIMEOUT, |crew| crew.queued("hot") == 3);
    crew.members[4].tell("write");
    crew.members[4].expect("written");
    crew.members[4].tell("release");
    crew.members[4].expect("released");
    for _ in paused() {
        // In any order: on a busy machine a confirmation may be late.
        let next = crew.first_to_say("held");
        crew.members[next].tell("write");
        crew.members[next].expect("written");
        crew.members[next].tell("release");
        crew.members[next].expect("released");
    }
    crew.dismiss();
}

#[test]
fn a_paused_holder_loses_its_lock_and_its_late_write_is_rejected() {
    let mut crew = puppets("paused_holder", 2);
    crew.members[0].tell("acquire 1");
    crew.members[0].expect("held");
    crew.members[0].process.pause();
    crew.members[1].tell("acquire 120");
    crew.members[1].expect("held");
    crew.members[1].tell("write");
    crew.members[1].expect("written");
    // Sent while it is paused, so that these are the first commands it carries out.
    crew.members[0].tell("write");
    crew.members[0].tell("release");
    crew.members[0].process.resume();
    let mut messages = [0; 3].map(|_| crew.members[0].next());
    messages.sort();
    assert_eq!(messages, ["lost", "not held", "rejected"]);
    crew.dismiss();
}

// --- many faults ----------------------------------------------------------------------------

#[test]
fn under_faults_no_holder_is_overtaken_before_its_deadline_and_all_progress() {
    // Every write is on disk before its reply, so that a killed Redis loses no data.
    let redis = Redis::start_with(&["--appendonly", "yes", "--appendfsync", "always"]);
    let mut chance = chance("any_faults");
    faults::run("any_faults", redis, Faults::Any, &mut chance);
}

#[test]
fn after_data_loss_the_fence_protects_the_register_and_all_progress() {
    let mut chance = chance("forgetful");
    faults::run("forgetful", Redis::start(), Faults::Forgetful, &mut chance);
}
