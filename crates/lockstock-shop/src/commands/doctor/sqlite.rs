//! The file of a SQLite database and the disk that it is on.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use crate::storage::examine_sqlite_file;

/// With less free space than this, a burst of sales may fill the disk.
const LOW_BYTES: u64 = 100 * 1024 * 1024;
/// With less than this, sales fail.
const MIN_BYTES: u64 = 1024 * 1024;

/// Returns what is found of the database at a URL.
pub(super) fn examine(url: &str) -> Vec<Finding> {
    const CHECK: &str = "database.file";
    let (path, exists) = match examine_sqlite_file(url) {
        Ok(examined) => examined,
        Err(error) => {
            return vec![Finding::error(
                CHECK,
                format!("{error:#}"),
                "a server does not start",
                "--database sqlite://FILE",
            )];
        }
    };
    let folder = folder(&path);
    let mut findings = vec![match write_error(&path, &folder, exists) {
        None if exists => Finding::ok(CHECK, format!("{} can be written", path.display())),
        None => Finding::ok(
            CHECK,
            format!(
                "{} does not exist yet: the server creates it",
                path.display()
            ),
        ),
        Some(reason) => Finding::error(
            CHECK,
            reason,
            "a server does not start, or answers every write with 503. SQLite writes beside the file \
             too",
            format!(
                "chown the file and {} to the user of the server, and mount it for writing",
                folder.display()
            ),
        ),
    }];
    if folder.is_dir() {
        findings.extend(space(&folder));
        findings.extend(file_system(&folder));
    }
    findings
}

fn folder(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Returns why the file, or another one beside it, cannot be written.
fn write_error(path: &Path, folder: &Path, exists: bool) -> Option<String> {
    let in_folder = tempfile::tempfile_in(folder).err();
    let in_folder = in_folder.map(|error| format!("cannot write to {}: {error}", folder.display()));
    in_folder.or_else(|| {
        let opened = exists.then(|| OpenOptions::new().append(true).open(path));
        let error = opened?.err()?;
        Some(format!("cannot write {}: {error}", path.display()))
    })
}

fn space(folder: &Path) -> Option<Finding> {
    const CHECK: &str = "database.disk";
    let disk = rustix::fs::statvfs(folder).ok()?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize);
    let what = format!("{} MB are free in {}", free / 1_000_000, folder.display());
    let why = "on a full disk every write gets 503 until there is space";
    let change = format!("df -h {}, and delete or enlarge", folder.display());
    Some(match free {
        LOW_BYTES.. => Finding::ok(CHECK, what),
        MIN_BYTES.. => Finding::warning(CHECK, what, why, change),
        _ => Finding::error(CHECK, what, why, change),
    })
}

#[cfg(target_os = "linux")]
fn file_system(folder: &Path) -> Option<Finding> {
    const CHECK: &str = "database.file_system";
    const NETWORK: [(u64, &str); 6] = [
        (0x6969, "NFS"),
        (0x517b, "SMB"),
        (0xff53_4d42, "SMB"),
        (0xfe53_4d42, "SMB"),
        (0x00c3_6400, "Ceph"),
        (0x0102_1997, "9P"),
    ];
    const LOST: [(u64, &str); 3] = [
        (0x0102_1994, "tmpfs"),
        (0x8584_58f6, "ramfs"),
        (0x794c_7630, "overlay"),
    ];
    // The magic numbers are 32 bits wide, in a field that is signed and wider on most machines.
    let kind = rustix::fs::statfs(folder).ok()?.f_type as u64 & 0xffff_ffff;
    let name = |known: &[(u64, &'static str)]| {
        let mut known = known.iter();
        known
            .find(|(magic, _)| *magic == kind)
            .map(|(_, name)| *name)
    };
    if let Some(name) = name(&NETWORK) {
        return Some(Finding::error(
            CHECK,
            format!("{} is on a network file system ({name})", folder.display()),
            "it emulates the locks of SQLite: two servers may write at once and damage the file",
            "--database on a local disk, or Postgres",
        ));
    }
    if let Some(name) = name(&LOST) {
        return Some(Finding::warning(
            CHECK,
            format!("{} is not on a disk ({name})", folder.display()),
            "the stock is lost with the machine or the container",
            "--database on a disk or a volume",
        ));
    }
    Some(Finding::ok(CHECK, "a local disk"))
}

#[cfg(not(target_os = "linux"))]
fn file_system(_: &Path) -> Option<Finding> {
    None
}
