//! The permissions of files that contain a secret: API keys, passwords, the key of a certificate.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::ensure;

/// Permissions that no file with a secret may have: any of others, and all but reading of the group.
/// Reading by the group is how Kubernetes and systemd hand a secret to a service that is not root.
const FORBIDDEN_MODE: u32 = 0o037;

/// Fails if users other than the owner can change an open file with `secret`, or users outside its group
/// can read it.
///
/// Of an open file: its path may lead to another one by now.
pub(crate) fn ensure_private(file: &File, path: &Path, secret: &str) -> anyhow::Result<()> {
    let metadata = file.metadata()?;
    let mode = metadata.mode() & 0o777;
    ensure!(
        // A pipe has the permissions of the process that writes to it.
        !metadata.is_file() || mode & FORBIDDEN_MODE == 0,
        "other users can read or change {path} (mode {mode:04o}), and it contains {secret}: run `chmod \
         g-wx,o= {path}`",
        path = path.display(),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_the_owner_may_change_a_secret_and_only_its_group_may_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        fs::write(&path, "x").unwrap();
        let check = |mode| {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            ensure_private(&File::open(&path).unwrap(), &path, "a password")
        };
        for mode in [0o600, 0o640, 0o400, 0o440, 0o700] {
            assert!(check(mode).is_ok(), "{mode:o}");
        }
        // Root may open each of them.
        for mode in [0o644, 0o604, 0o602, 0o606, 0o601, 0o660, 0o620, 0o610] {
            let Err(error) = check(mode) else {
                panic!("{mode:o} is allowed");
            };
            let error = error.to_string();
            assert!(error.contains(&format!("(mode {mode:04o})")), "{error}");
            assert!(error.contains("contains a password"), "{error}");
            assert!(error.contains("`chmod g-wx,o= /"), "{error}");
        }
    }
}
