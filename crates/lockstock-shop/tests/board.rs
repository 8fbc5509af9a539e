//! The board in Debian's Chromium: `tests/board/`, by pytest and Playwright for Python.
//!
//! The tests in Python start the servers, because they restart them; this test starts Redis and ends
//! all processes. Pictures of the pages are in `target/board/` afterwards.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use lockstock_testkit::{Process, Redis, python};

/// Upper bound of the whole run.
const PATIENCE: Duration = Duration::from_secs(600);

#[test]
fn the_board_works_in_a_browser() {
    let Some(chromium) = chromium() else {
        eprintln!("NOT TESTED in a browser: no chromium on the PATH");
        return;
    };
    let redis = Redis::start();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let pictures = root.join("../../target/board");
    std::fs::create_dir_all(&pictures).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let report = scratch.path().join("report");

    let mut command = Command::new(python());
    for (name, _) in std::env::vars() {
        if name.starts_with("LOCKSTOCK_") {
            command.env_remove(name);
        }
    }
    command
        .args([
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--quiet",
            "--tb=short",
        ])
        .args(["--durations=5", "--rootdir"])
        .arg(root.join("tests/board"))
        .arg(root.join("tests/board"))
        // Tests of one name: `BOARD_TESTS=race cargo test … --test board`.
        .args(["-k", &std::env::var("BOARD_TESTS").unwrap_or_default()])
        .env("BOARD_CHROMIUM", chromium)
        .env("BOARD_LOCKSTOCK", env!("CARGO_BIN_EXE_lockstock"))
        .env("BOARD_REDIS", redis.url())
        .env("BOARD_PICTURES", &pictures)
        .env("BOARD_SCRATCH", scratch.path())
        .env(
            "BOARD_FAILPOINTS",
            if cfg!(feature = "failpoints") {
                "yes"
            } else {
                ""
            },
        )
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("TMPDIR", scratch.path())
        .stdin(Stdio::null())
        .stdout(File::create(&report).unwrap())
        .stderr(Stdio::inherit());
    let run = Process::spawn(command).unwrap();
    let status = run.wait(PATIENCE);
    let report = std::fs::read_to_string(report).unwrap();
    println!("{report}");
    assert!(status.is_some_and(|status| status.success()), "{report}");
}

fn chromium() -> Option<OsString> {
    let path = std::env::var_os("PATH")?;
    let programs = std::env::split_paths(&path).map(|folder: PathBuf| folder.join("chromium"));
    let mut found = programs.filter(|program| program.is_file());
    found.next().map(PathBuf::into_os_string)
}
