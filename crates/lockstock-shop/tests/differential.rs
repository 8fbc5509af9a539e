//! The shop beside the real thing: every request of `differential/cases/` is sent to a Django
//! REST framework project (`bench/django`) and to our server, and the answers must agree in
//! status, in the headers a client acts on, and in the JSON.
//!
//! Both start empty on one private Postgres and one private Redis and get the same requests in
//! the same order, so ids and versions agree without any mapping. Where the two are meant to
//! differ is in one table, `differential/differences.rs`, which the users read as
//! `docs/differences.md`; an entry that no longer differs fails.
//!
//! Not compared: what no client should act on. The words of Python's JSON parser, the time of
//! day, `Server`, `Date`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

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
use differences::{Exception, Reason, reasons};
use lockstock_testkit::{Postgres, Redis};
use servers::Server;
use wire::Answer;

const DOCUMENT: &str = include_str!("../../../docs/differences.md");

#[test]
fn answers_as_django_rest_framework_does() {
    let postgres = Postgres::start();
    let redis = Redis::start();
    let mut django = Server::django(
        &postgres.create_database("django"),
        &format!("redis://{}/1", redis.address()),
    );
    let mut ours = Server::ours(
        &postgres.create_database("ours"),
        &format!("redis://{}/0", redis.address()),
    );

    let cases = case::all();
    let mut failures = misnamed(&cases);
    let mut intended = 0;
    for case in &cases {
        let theirs = django.ask(case);
        let answer = ours.ask(case);
        let exception = exception(case);
        intended += usize::from(exception.is_some());
        let complaints = judge(&theirs, &answer, exception);
        if !complaints.is_empty() {
            failures.push(report(case, &complaints, &theirs, &answer));
        }
    }

    let compared = cases.len();
    println!("{compared} cases compared, {intended} of them intended differences");
    assert!(
        failures.is_empty(),
        "{} of {compared} cases:\n\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// What the table of differences says is what the users are told, and in the same order.
#[test]
fn the_document_lists_every_reason() {
    let documented: Vec<&str> = DOCUMENT
        .lines()
        .filter(|line| line.starts_with("| "))
        .filter_map(|row| row.trim_end_matches(" |").rsplit(" | ").next())
        .filter(|cell| *cell != "Why")
        .collect();
    let tested: Vec<&str> = reasons().map(|reason| reason.why).collect();
    assert_eq!(documented, tested);
}

fn exception(case: &Case) -> Option<(&'static Reason, &'static Exception)> {
    reasons()
        .flat_map(|reason| reason.exceptions.iter().map(move |found| (reason, found)))
        .find(|(_, exception)| exception.cases.contains(&&*case.name))
}

/// What is wrong with our answer, one line each.
fn judge(theirs: &Answer, ours: &Answer, exception: Option<(&Reason, &Exception)>) -> Vec<String> {
    let found = compare::differing(theirs, ours);
    let intended = exception.map_or(&[][..], |(_, exception)| exception.differs_in);
    let mut complaints = Vec::new();
    for aspect in &found {
        if intended.contains(aspect) {
            continue;
        }
        complaints.push(match aspect {
            Aspect::Promises => format!("broken: {}", compare::broken_promises(ours).join(", ")),
            _ => format!("{aspect:?} differs"),
        });
    }
    for aspect in intended {
        if !found.contains(aspect) {
            complaints.push(format!("{aspect:?} is meant to differ, and does not"));
        }
    }
    if let Some((reason, exception)) = exception {
        if ours.status != exception.status {
            complaints.push(format!("ours is meant to be {}", exception.status));
        }
        if !compare::says(ours, exception.body) {
            complaints.push(format!("ours is meant to say {}", exception.body));
        }
        if !complaints.is_empty() {
            complaints.push(format!("intended to differ: {}", reason.why));
        }
    }
    complaints
}

/// A name in the table of differences that is no case's has been forgotten there; one that
/// stands there twice has two answers.
fn misnamed(cases: &[Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for name in reasons()
        .flat_map(|reason| reason.exceptions)
        .flat_map(|exception| exception.cases)
    {
        if !cases.iter().any(|case| case.name == **name) {
            wrong.push(format!(
                "no such case, but an intended difference: {name}\n"
            ));
        }
        if seen.contains(&name) {
            wrong.push(format!("twice among the intended differences: {name}\n"));
        }
        seen.push(name);
    }
    wrong
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
