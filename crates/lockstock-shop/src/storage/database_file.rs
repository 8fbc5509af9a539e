//! The identity of a SQLite file: it is an inode, not a path.
//!
//! SQLite keeps the newest commits in a write-ahead log, which it finds by the path of the
//! database. If a file has two paths, each has a log of its own, and two processes do not see each
//! other's commits. A file is therefore used only if its path is the only one that leads to it:
//! it has no hard link, and it is not mounted on its own. Symbolic links are resolved by SQLite.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};

use anyhow::{anyhow, bail, ensure};

/// A descriptor of a SQLite file. It is never closed: closing any descriptor of a file releases
/// the POSIX locks that the process has on it, and SQLite relies on its own.
pub(super) struct DatabaseFile {
    pub(super) file: ManuallyDrop<File>,
    /// Canonical.
    pub(super) path: PathBuf,
}

impl DatabaseFile {
    /// Opens a file that may not exist yet.
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let opened = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                OpenOptions::new().append(true).create(true).open(path)
            }
            opened => opened,
        };
        Self::checked(opened, path)
    }

    /// Opens a file that exists.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        Self::checked(File::open(path), path)
    }

    fn checked(opened: io::Result<File>, path: &Path) -> anyhow::Result<Self> {
        // In one message, because only the outermost one of a chain is shown.
        let file = opened.map_err(|error| anyhow!("cannot open {}: {error}", path.display()))?;
        let file = ManuallyDrop::new(file);
        let path = fs::canonicalize(path)?;
        ensure!(
            file.metadata()?.is_file(),
            "{} is not a file",
            path.display()
        );
        if has_hard_links(&file)? {
            bail!(
                "{} has another name (a hard link), and SQLite does not share the newest commits \
                 between names: remove the other name, which `find / -samefile {}` prints",
                path.display(),
                path.display()
            );
        }
        if is_mount_point(&path) {
            bail!(
                "{} is mounted on its own, and SQLite keeps the newest commits in files beside \
                 it: mount its folder instead",
                path.display()
            );
        }
        Ok(Self { file, path })
    }
}

#[cfg(unix)]
fn has_hard_links(file: &File) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt;
    Ok(file.metadata()?.nlink() > 1)
}

#[cfg(not(unix))]
fn has_hard_links(_: &File) -> io::Result<bool> {
    Ok(false)
}

/// Returns whether a canonical path is a mount point. Only Linux can mount a single file.
fn is_mount_point(path: &Path) -> bool {
    fs::read_to_string("/proc/self/mountinfo").is_ok_and(|mounts| is_listed(&mounts, path))
}

/// Returns whether the text of `/proc/self/mountinfo` lists `path` as a mount point.
fn is_listed(mounts: &str, path: &Path) -> bool {
    let path = path.to_string_lossy();
    // The characters that the kernel escapes in a mount point.
    let escaped = path
        .replace('\\', "\\134")
        .replace(' ', "\\040")
        .replace('\t', "\\011")
        .replace('\n', "\\012");
    let mut points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    points.any(|point| point == escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_mounted_on_its_own_is_recognized() {
        let mounts = "22 28 0:20 / /sys rw,nosuid shared:7 - sysfs sysfs rw\n\
                      97 28 254:0 /a/shop.sqlite3 /srv/my\\040shop.sqlite3 rw - ext4 /dev/vda rw\n";
        assert!(is_listed(mounts, Path::new("/srv/my shop.sqlite3")));
        assert!(!is_listed(mounts, Path::new("/a/shop.sqlite3")));
        assert!(!is_listed(mounts, Path::new("/srv")));
    }
}
