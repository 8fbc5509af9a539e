//! Lockstock against Django REST framework: every request of `differential/cases/` is sent to a
//! Django project (`bench/django`) and to Lockstock, and the responses must agree in status, in the
//! headers that clients act on, and in the JSON.
//!
//! Both servers start empty on one private Postgres and one private Redis and get the same requests
//! in the same order, so ids and versions agree without a mapping. A request that both reject is
//! repeated in Korean, once for each pair of messages: with `Accept-Language: ko` to Lockstock, and
//! to the Django project with `LANGUAGE_CODE = "ko"`.
//!
//! Intended differences are in `differential/differences.rs` and documented in
//! `docs/differences.md`; an entry that no longer differs fails.
//!
//! Not compared: details that no client should act on, such as the wording of parsers, the time of
//! day, `Server` and `Date`.

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

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

use case::{Case, Language};
use compare::Aspect;
use differences::{Exception, Reason, reasons};
use lockstock_testkit::{Postgres, Redis};
use servers::{Key, Server};
use sha2::{Digest, Sha256};
use wire::Response;

const DOCUMENT: &str = include_str!("../../../docs/differences.md");

#[test]
fn responses_agree_with_django_rest_framework() {
    let postgres = Postgres::start();
    let redis = Redis::start();
    let django_database = postgres.create_database("django");
    let django_redis = format!("redis://{}/1", redis.address());
    let mut django = Server::django(&django_database, &django_redis, &[]);
    let mut korean_django = Server::korean_django(&django_database, &django_redis, &[]);
    let mut lockstock = Server::lockstock(
        &postgres.create_database("lockstock"),
        &format!("redis://{}/0", redis.address()),
        None,
    );
    let cases = case::all();
    compare_all(&cases, &mut django, &mut korean_django, &mut lockstock);
    assert_eq!(misnamed(&cases), Vec::<String>::new());
}

/// The reference authenticates with DRF's `TokenAuthentication`.
#[test]
fn responses_agree_if_a_key_is_required() {
    const KEYS: [Key; 2] = [("the-reader", "read"), ("the-writer", "write")];
    let folder = tempfile::tempdir().unwrap();
    let key_file = folder.path().join("api-keys");
    let lines = KEYS.map(|(secret, scope)| {
        let digest = hex::encode(Sha256::digest(secret));
        format!("{secret} {scope} sha256:{digest}\n")
    });
    std::fs::write(&key_file, lines.concat()).unwrap();
    std::fs::set_permissions(&key_file, Permissions::from_mode(0o600)).unwrap();
    let postgres = Postgres::start();
    let redis = Redis::start();
    let django_database = postgres.create_database("django");
    let django_redis = format!("redis://{}/1", redis.address());
    let mut django = Server::django(&django_database, &django_redis, &KEYS);
    let mut korean_django = Server::korean_django(&django_database, &django_redis, &KEYS);
    let mut lockstock = Server::lockstock(
        &postgres.create_database("lockstock"),
        &format!("redis://{}/0", redis.address()),
        Some(&key_file),
    );
    compare_all(
        &case::with_keys(),
        &mut django,
        &mut korean_django,
        &mut lockstock,
    );
}

/// Sends each case to both servers, and what both reject also in Korean.
fn compare_all(
    cases: &[Case],
    django: &mut Server,
    korean_django: &mut Server,
    lockstock: &mut Server,
) {
    let mut failures = Vec::new();
    let mut intended = 0;
    let mut repeated = HashSet::new();
    for case in cases {
        let exception = exception(case);
        intended += usize::from(exception.is_some());
        let mut compare = |django: &mut Server, language| {
            let expected = django.send_case(case, language);
            let actual = lockstock.send_case(case, language);
            let complaints = compare_with_exception(&expected, &actual, exception, language);
            if !complaints.is_empty() {
                failures.push(report(case, language, &complaints, &expected, &actual));
            }
            (expected, actual)
        };
        let (expected, actual) = compare(django, Language::English);
        // A rejected request changes nothing, and neither does OPTIONS.
        let is_rejected = expected.status >= 400 && actual.status >= 400;
        if (is_rejected || case.method == "OPTIONS")
            && repeated.insert((case.method, expected.body, actual.body))
        {
            korean_django.new.clone_from(&django.new);
            compare(korean_django, Language::Korean);
        }
    }

    let compared = cases.len();
    let in_korean = repeated.len();
    println!(
        "{compared} cases compared, {in_korean} of them in Korean too; {intended} intended differences"
    );
    assert!(
        failures.is_empty(),
        "{} of {compared} cases:\n\n{}",
        failures.len(),
        failures.join("\n")
    );
}

/// The document has the reasons of the tables in the same order.
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

/// Returns the unintended differences of Lockstock's response, one line each.
fn compare_with_exception(
    django: &Response,
    lockstock: &Response,
    exception: Option<(&Reason, &Exception)>,
    language: Language,
) -> Vec<String> {
    let found = compare::differing(django, lockstock);
    let intended = exception.map_or(&[][..], |(_, exception)| exception.differs_in);
    let mut complaints = Vec::new();
    for aspect in &found {
        if intended.contains(aspect) {
            continue;
        }
        complaints.push(match aspect {
            Aspect::Promises => {
                format!("broken: {}", compare::broken_promises(lockstock).join(", "))
            }
            _ => format!("{aspect:?} differs"),
        });
    }
    for aspect in intended {
        if !found.contains(aspect) {
            complaints.push(format!("{aspect:?} should differ, and does not"));
        }
    }
    if let Some((reason, exception)) = exception {
        if lockstock.status != exception.status {
            complaints.push(format!("the status should be {}", exception.status));
        }
        let body = match language {
            Language::English => exception.body.to_owned(),
            Language::Korean => differences::in_korean(exception.body),
        };
        if !compare::has_body(lockstock, &body) {
            complaints.push(format!("the body should be {body}"));
        }
        if !complaints.is_empty() {
            complaints.push(format!("reason of the difference: {}", reason.why));
        }
    }
    complaints
}

/// Returns an error for each name in the tables of differences that is unknown or repeated.
fn misnamed(cases: &[Case]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = Vec::new();
    for name in reasons()
        .flat_map(|reason| reason.exceptions)
        .flat_map(|exception| exception.cases)
    {
        if !cases.iter().any(|case| case.name == **name) {
            wrong.push(format!("intended difference of an unknown case: {name}\n"));
        }
        if seen.contains(&name) {
            wrong.push(format!("two intended differences of one case: {name}\n"));
        }
        seen.push(name);
    }
    wrong
}

fn report(
    case: &Case,
    language: Language,
    complaints: &[String],
    django: &Response,
    lockstock: &Response,
) -> String {
    let mut text = format!("{}  {}  ({language:?})\n", case.position, case.name);
    for complaint in complaints {
        let _ = writeln!(text, "  ! {complaint}");
    }
    let _ = writeln!(text, "  django     {django}");
    let _ = writeln!(text, "  lockstock  {lockstock}");
    text
}
