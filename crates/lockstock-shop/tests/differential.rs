//! The shop beside the real thing: every request of `differential/cases/` is sent to a Django
//! REST framework project (`bench/django`) and to our server, and the answers must agree in
//! status, in the headers a client acts on, and in the JSON.
//!
//! Both start empty on one private Postgres and one private Redis and get the same requests in
//! the same order, so ids and versions agree without any mapping. Where the two are meant to
//! differ is in one table, `differential/differences.rs`; an entry that no longer differs fails.
//!
//! Not compared: what no client should act on. The words of Python's JSON parser, the time of
//! day, `Server`, `Date`.

#[path = "differential/case.rs"]
mod case;
#[path = "differential/compare.rs"]
mod compare;
#[path = "differential/differences.rs"]
mod differences;
#[path = "differential/servers.rs"]
mod servers;
#[path = "differential/wire.rs"]
mod wire;

use std::fmt::Write as _;

use case::Case;
use compare::Aspect;
use differences::{DIFFERENCES, Difference};
use lockstock_testkit::{Postgres, Redis};
use servers::Server;
use wire::Answer;

#[test]
fn answers_as_django_rest_framework_does() {
    let postgres = Postgres::start();
    let redis = Redis::start();
    let django = Server::django(
        &postgres.create_database("django"),
        &format!("redis://{}/1", redis.address()),
    );
    let ours = Server::ours(
        &postgres.create_database("ours"),
        &format!("redis://{}/0", redis.address()),
    );

    let cases = case::all();
    let mut failures = missing_from(&cases);
    let (mut compared, mut intended) = (0, 0);
    // The id of the product that each server made last.
    let (mut new_there, mut new_here) = (String::new(), String::new());
    for case in &cases {
        let theirs = django.ask(case, &new_there);
        let answer = ours.ask(case, &new_here);
        let difference = DIFFERENCES.iter().find(|d| d.cases.contains(&&*case.name));
        let complaints = judge(&theirs, &answer, difference);
        compared += 1;
        intended += usize::from(difference.is_some());
        if !complaints.is_empty() {
            failures.push(report(case, &complaints, &theirs, &answer));
        }
        new_there = theirs.new_id().unwrap_or(new_there);
        new_here = answer.new_id().unwrap_or(new_here);
    }

    println!("{compared} cases compared, {intended} of them intended differences");
    assert!(
        failures.is_empty(),
        "{} of {compared} cases:\n\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What is wrong with our answer, one line each.
fn judge(theirs: &Answer, ours: &Answer, difference: Option<&Difference>) -> Vec<String> {
    let mut complaints = compare::broken_promises(ours);
    let found = compare::differing(theirs, ours);
    let Some(difference) = difference else {
        complaints.extend(found.iter().map(|aspect| format!("{aspect:?} differs")));
        return complaints;
    };
    let unintended = |aspect: &&Aspect| !difference.differs_in.contains(aspect);
    complaints.extend(
        found
            .iter()
            .filter(unintended)
            .map(|aspect| format!("{aspect:?} differs, which is not intended")),
    );
    complaints.extend(
        difference
            .differs_in
            .iter()
            .filter(|aspect| !found.contains(aspect))
            .map(|aspect| format!("{aspect:?} is meant to differ, and does not")),
    );
    if ours.status != difference.status {
        complaints.push(format!("ours is meant to be {}", difference.status));
    }
    if !compare::says(ours, difference.body) {
        complaints.push(format!("ours is meant to say {}", difference.body));
    }
    if !complaints.is_empty() {
        complaints.push(format!("because {}", difference.why));
    }
    complaints
}

/// An entry of the table that names no case has been forgotten there.
fn missing_from(cases: &[Case]) -> Vec<String> {
    DIFFERENCES
        .iter()
        .flat_map(|difference| difference.cases)
        .filter(|name| !cases.iter().any(|case| case.name == **name))
        .map(|name| format!("no such case, but an intended difference: {name}\n"))
        .collect()
}

fn report(case: &Case, complaints: &[String], theirs: &Answer, ours: &Answer) -> String {
    let mut text = format!("{}  {}\n", case.place, case.name);
    for complaint in complaints {
        let _ = writeln!(text, "  ! {complaint}");
    }
    let _ = writeln!(text, "  django {theirs}");
    let _ = writeln!(text, "  ours   {ours}");
    text
}
