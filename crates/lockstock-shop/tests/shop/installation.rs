//! What comes with the binary: completions, man pages, and the unit of systemd.

use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};

use crate::harness::{PATIENCE, Server, binary};

/// The unit that operators install.
const UNIT: &str = include_str!("../../../../deploy/lockstock.service");

fn text(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Returns whether a program is installed, and prints if it is not.
fn is_installed(program: &str) -> bool {
    let found = Command::new(program)
        .arg("--version")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        eprintln!("skipped: there is no {program}");
    }
    found.is_ok()
}

#[test]
fn bash_completes_commands_and_options() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("lockstock.bash");
    let completions = binary().args(["completions", "bash"]).output().unwrap();
    std::fs::write(&script, text(completions)).unwrap();
    // What bash calls when a user presses the tabulator.
    let complete = |words: &str| {
        let bash = format!(
            "source {} && COMP_WORDS=({words}) && COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) && \
             _lockstock lockstock \"${{COMP_WORDS[COMP_CWORD]}}\" \
             \"${{COMP_WORDS[COMP_CWORD - 1]}}\" && echo \"${{COMPREPLY[@]}}\"",
            script.display()
        );
        let mut command = Command::new("bash");
        text(command.args(["-euc", &bash]).output().unwrap())
    };
    assert_eq!(complete("lockstock doc"), "doctor\n");
    assert_eq!(complete("lockstock --update-le"), "--update-lease\n");
    assert_eq!(
        complete("lockstock serve --after-update ''"),
        "keep release\n"
    );
    assert_eq!(complete("lockstock locks release --ye"), "--yes\n");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = binary().args(["completions", shell]).output().unwrap();
        assert!(text(script).contains("update-lease"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page_without_warnings() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    text(binary().args(["man", "--folder", path]).output().unwrap());
    let first = text(binary().arg("man").output().unwrap());
    assert!(first.contains(".TH") && first.contains("update\\-lease"));
    let pages = std::fs::read_dir(folder.path()).unwrap();
    let mut pages = pages.map(|page| page.unwrap().path()).collect::<Vec<_>>();
    pages.sort();
    let names = pages
        .iter()
        .map(|page| page.file_name().unwrap().to_str().unwrap());
    let names = names.collect::<Vec<_>>();
    for page in [
        "lockstock.1",
        "lockstock-doctor.1",
        "lockstock-config-print.1",
    ] {
        assert!(names.contains(&page), "{names:?}");
    }
    if !is_installed("man") {
        return;
    }
    for page in pages {
        let shown = Command::new("man")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(&page)
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap();
        assert!(shown.status.success(), "{page:?}");
        let warnings = String::from_utf8(shown.stderr).unwrap();
        assert!(warnings.is_empty(), "{page:?}: {warnings}");
    }
}

#[test]
fn systemd_accepts_the_unit_and_rates_it_as_safe() {
    if !is_installed("systemd-analyze") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("lockstock.service");
    // The place of the installed binary, which systemd-analyze looks for.
    let text = UNIT.replace("/usr/bin/lockstock", env!("CARGO_BIN_EXE_lockstock"));
    assert_ne!(text, UNIT);
    std::fs::write(&unit, text).unwrap();
    let verify = ["verify", "--man=no"];
    // The threshold is ten times the exposure: at most 2.0.
    let security = ["security", "--offline=yes", "--threshold=20", "--no-pager"];
    for args in [&verify[..], &security] {
        let mut command = Command::new("systemd-analyze");
        let output = command.args(args).arg(&unit).output().unwrap();
        let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
        let table = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{complaints}{table}");
        assert!(complaints.is_empty(), "{complaints}");
    }
}

#[tokio::test]
async fn the_service_manager_is_notified_that_a_server_is_ready_alive_and_stopping() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let receive = || {
        let mut message = [0; 256];
        let length = socket.recv(&mut message).unwrap();
        String::from_utf8_lossy(&message[..length]).into_owned()
    };
    let server = Server::embedded()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "100000")
        .start();
    assert_eq!(receive(), "READY=1\nSTATUS=serving");
    assert_eq!(server.get("/readyz").await.status, 200);
    for _ in 0..3 {
        assert_eq!(receive(), "WATCHDOG=1");
    }
    server.process.terminate();
    let stopping = (0..)
        .map(|_| receive())
        .find(|message| message != "WATCHDOG=1");
    assert_eq!(
        stopping.unwrap(),
        "STOPPING=1\nSTATUS=finishing requests in progress"
    );
    assert_eq!(server.process.wait(PATIENCE).unwrap().code(), Some(0));
}

#[tokio::test]
async fn the_watchdog_of_another_process_is_not_fed_and_a_dead_socket_stops_no_server() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let server = Server::embedded()
        .env("NOTIFY_SOCKET", path.to_str().unwrap())
        .env("WATCHDOG_USEC", "1000")
        .env("WATCHDOG_PID", "1")
        .start();
    server.process.terminate();
    assert!(server.process.wait(PATIENCE).unwrap().success());
    let mut message = [0; 256];
    for expected in ["READY=1", "STOPPING=1"] {
        let length = socket.recv(&mut message).unwrap();
        let message = String::from_utf8_lossy(&message[..length]);
        assert!(message.starts_with(expected), "{message}");
    }
    let server = Server::embedded()
        .env("NOTIFY_SOCKET", "/nowhere/at/all")
        .start();
    assert_eq!(server.get("/readyz").await.status, 200);
}
