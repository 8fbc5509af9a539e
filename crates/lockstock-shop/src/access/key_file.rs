//! The file of API keys: one a line, as `lockstock key new` prints it.
//!
//! ```text
//! # name  scope  digest of the secret  [expiry]
//! web     write  sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
//! reports read   sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752 expires:2027-03-31T00:00:00Z
//! ```
//!
//! A line may have two digests: while a secret is replaced, both are valid. An error names the line
//! and never quotes it, because a secret may have been put there by mistake.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use chrono::{DateTime, Utc};

use super::scope::Scope;
use super::secret::Digest;
use crate::private_file::ensure_private;

const MAX_FILE_BYTES: u64 = 1024 * 1024;
/// A secret is compared with each key. The names are also labels of a metric.
const MAX_KEYS: usize = 1000;
const MAX_NAME_LENGTH: usize = 64;

/// A line of the file.
#[derive(Debug)]
pub(crate) struct ApiKey {
    /// The caller, in the ledger, reservations, idempotency records, log and metrics.
    pub(crate) name: Arc<str>,
    pub(crate) scope: Scope,
    /// One, or two while the secret is replaced.
    pub(super) digests: Vec<Digest>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// Number of the line, from 1.
    pub(super) line: usize,
}

/// Reads a key file.
///
/// # Errors
///
/// One line with the file, the line and the remedy.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Arc<ApiKey>>> {
    let shown = path.display();
    let mut file =
        File::open(path).with_context(|| format!("cannot read the API keys in {shown}"))?;
    let text = checked_text(&mut file, path)?;
    let keys = parse(&text).map_err(|why| anyhow!("{shown}, {why}"))?;
    ensure!(
        !keys.is_empty(),
        "{shown} has no API key, so every request would be rejected: create one with `lockstock key \
         new NAME --scope write --file {shown}`"
    );
    Ok(keys)
}

/// Adds a line to a key file, which is created if it does not exist.
///
/// # Errors
///
/// One line with the file and the remedy, if the file would not be valid.
pub(crate) fn append(path: &Path, line: &str) -> anyhow::Result<()> {
    let shown = path.display();
    let mut file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write the API key to {shown}"))?;
    let mut text = checked_text(&mut file, path)?;
    let separator = match text.is_empty() || text.ends_with('\n') {
        true => "",
        false => "\n",
    };
    let addition = format!("{separator}{line}\n");
    text.push_str(&addition);
    parse(&text).map_err(|why| anyhow!("{shown}, {why}"))?;
    file.write_all(addition.as_bytes())
        .with_context(|| format!("cannot write the API key to {shown}"))
}

/// Checks that only its user can change the file, and only its user and group can read it.
fn checked_text(file: &mut File, path: &Path) -> anyhow::Result<String> {
    let shown = path.display();
    let metadata = file.metadata()?;
    ensure!(
        metadata.is_file(),
        "{shown} is not a regular file: API keys are read again on SIGHUP"
    );
    ensure_private(file, path, "API keys")?;
    ensure!(
        metadata.len() <= MAX_FILE_BYTES,
        "{shown} is larger than {MAX_FILE_BYTES} bytes: is it a file of API keys?"
    );
    let mut text = String::new();
    // The file may have grown since.
    file.take(MAX_FILE_BYTES)
        .read_to_string(&mut text)
        .with_context(|| format!("cannot read the API keys in {shown}"))?;
    Ok(text)
}

/// Parses the lines of a file. An error begins with the number of the line.
fn parse(text: &str) -> anyhow::Result<Vec<Arc<ApiKey>>> {
    let mut keys: Vec<Arc<ApiKey>> = Vec::new();
    let mut lines_by_name = HashMap::new();
    let mut lines_by_digest = HashMap::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let key = parse_line(line, number).map_err(|why| anyhow!("line {number}: {why}"))?;
        if let Some(first) = lines_by_name.insert(key.name.clone(), number) {
            bail!(
                "line {number}: the name is that of line {first}: rename one, or put the second \
                 digest of the same key on its line"
            );
        }
        for digest in &key.digests {
            if let Some(first) = lines_by_digest.insert(digest.to_string(), number) {
                bail!("line {number}: the digest is also on line {first}: remove one of them");
            }
        }
        keys.push(Arc::new(key));
        ensure!(
            keys.len() <= MAX_KEYS,
            "line {number}: more than {MAX_KEYS} API keys: remove those that are not used"
        );
    }
    Ok(keys)
}

fn parse_line(line: &str, number: usize) -> anyhow::Result<ApiKey> {
    const EXPECTED: &str = "expected NAME SCOPE sha256:DIGEST, as `lockstock key new` prints it";
    let mut words = line.split_whitespace();
    let name = parse_name(words.next().unwrap_or_default()).map_err(|why| anyhow!(why))?;
    let scope = words.next().unwrap_or_default();
    let scope = Scope::ALL.into_iter().find(|known| known.name() == scope);
    let scope = scope.with_context(|| {
        format!("the second word is not a scope, which is read, write or admin: {EXPECTED}")
    })?;
    let mut digests = Vec::new();
    let mut expires_at = None;
    for word in words {
        if let Some(digest) = word.strip_prefix("sha256:") {
            let digest = Digest::parse(digest).with_context(|| {
                format!("sha256: is not followed by 64 hexadecimal digits: {EXPECTED}")
            })?;
            digests.push(digest);
        } else if let Some(time) = word.strip_prefix("expires:")
            && expires_at.is_none()
        {
            let time = DateTime::parse_from_rfc3339(time).ok();
            let time = time.context(
                "expires: is not followed by a time like 2027-03-31T00:00:00Z: correct or remove it",
            )?;
            expires_at = Some(time.to_utc());
        } else {
            bail!("a word is neither a digest nor an expiry: {EXPECTED}");
        }
    }
    ensure!(!digests.is_empty(), "there is no digest: {EXPECTED}");
    ensure!(
        digests.len() <= 2,
        "there are more than two digests: remove that of a secret that is no longer used"
    );
    Ok(ApiKey {
        name: name.into(),
        scope,
        digests,
        expires_at,
        line: number,
    })
}

/// Parses the name of a key.
pub(crate) fn parse_name(text: &str) -> Result<String, String> {
    let is_valid = (1..=MAX_NAME_LENGTH).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
        && text.starts_with(|first: char| first.is_ascii_alphanumeric());
    if is_valid {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a name has 1 to {MAX_NAME_LENGTH} letters, digits, '.', '_' and '-', and begins with a \
         letter or a digit, like web-shop"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    const B: &str = "sha256:60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

    #[test]
    fn a_line_is_a_key() {
        let text = format!(
            "# the shop\n\nweb\twrite {A}\n  reports read {B} expires:2027-03-31T00:00:00Z\r\n"
        );
        let keys = parse(&text).unwrap();
        assert_eq!(keys.len(), 2);
        assert_eq!((&*keys[0].name, keys[0].scope), ("web", Scope::Write));
        assert_eq!(keys[0].expires_at, None);
        let expiry = keys[1].expires_at.unwrap().to_rfc3339();
        assert_eq!(expiry, "2027-03-31T00:00:00+00:00");
        let two = parse(&format!("web write {A} {B}")).unwrap();
        assert_eq!(two[0].digests.len(), 2);
    }

    #[test]
    fn an_error_names_the_line_and_the_remedy_and_quotes_nothing() {
        let secret = format!("lockstock_{}", "5".repeat(64));
        for (line, words) in [
            ("web write".to_owned(), "there is no digest"),
            (format!("web owner {A}"), "read, write or admin"),
            (format!("web write {secret}"), "neither a digest"),
            (format!("web write sha256:{secret}"), "64 hexadecimal"),
            (format!("{secret} write {A}"), "1 to 64 letters"),
            (format!("web {secret}"), "not a scope"),
            (format!("web write {A} expires:{secret}"), "like 2027-03-31"),
            (format!("web write {A} expires:soon"), "like 2027-03-31"),
            (format!("we/b write {A}"), "1 to 64 letters"),
            (format!("first write {A}"), "that of line 2"),
            (format!("web write {B}"), "also on line 2"),
        ] {
            let text = format!("# keys\nfirst read {B}\n{line}\n");
            let error = format!("{:#}", parse(&text).unwrap_err());
            assert!(error.starts_with("line 3: "), "{line}: {error}");
            assert!(error.contains(words), "{line}: {error}");
            assert!(!error.contains("555"), "{line}: {error}");
        }
    }
}
