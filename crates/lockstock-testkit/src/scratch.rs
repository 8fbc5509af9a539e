//! Temporary folders that are removed even if they are not dropped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once, PoisonError};

use crate::process;

static FOLDERS: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A private folder under `/tmp`.
///
/// Removed on drop, and when the test process exits: a server that a test
/// binary keeps in a `static` is never dropped, and a PostgreSQL cluster left
/// behind is 40 MB.
///
/// `/tmp` and not `TMPDIR`: PostgreSQL's user must be able to reach it, and
/// the path of a Unix socket has room for 107 bytes.
pub(crate) struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub(crate) fn new(name: &str) -> Scratch {
        static AT_EXIT: Once = Once::new();
        // SAFETY: the handler is a plain function that never unwinds.
        AT_EXIT.call_once(|| unsafe {
            libc::atexit(clear);
        });
        let path = tempfile::Builder::new()
            .prefix(&format!("lockstock-{name}-"))
            .tempdir_in("/tmp")
            .unwrap_or_else(|error| panic!("no temporary folder in /tmp: {error}"))
            .keep();
        folders().insert(path.clone());
        Scratch { path }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        folders().remove(&self.path);
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn folders() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    FOLDERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs at exit, on the thread that called it, while others may still run.
extern "C" fn clear() {
    // First the processes that write to the folders.
    process::kill_all();
    for path in std::mem::take(&mut *folders()) {
        let _ = std::fs::remove_dir_all(path);
    }
}
