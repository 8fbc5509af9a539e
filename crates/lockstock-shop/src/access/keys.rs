//! The keys of a running server, which a reload replaces.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use chrono::Utc;
use metrics::counter;
use subtle::{ConditionallySelectable, ConstantTimeEq};
use tracing::{error, warn};

use super::key_file::{self, ApiKey};
use super::secret::Secret;

/// The keys of a file.
#[derive(Debug)]
pub(crate) struct Keys {
    path: PathBuf,
    // Locked for the time that a pointer takes to copy.
    current: RwLock<Arc<[Arc<ApiKey>]>>,
}

impl Keys {
    /// Reads the keys of a file.
    ///
    /// # Errors
    ///
    /// One line with the file, the line and the remedy.
    pub(crate) fn load(path: PathBuf) -> anyhow::Result<Self> {
        let keys = key_file::read(&path)?;
        warn_of_expired(&keys);
        let current = RwLock::new(keys.into());
        Ok(Self { path, current })
    }

    /// Returns the key with this secret. Compares all of them, each in constant time.
    pub(crate) fn find(&self, secret: &Secret) -> Option<Arc<ApiKey>> {
        let presented = secret.digest();
        let keys = self.current();
        // The index of the key, plus one.
        let mut found = 0_u64;
        for (number, key) in (1_u64..).zip(keys.iter()) {
            for digest in &key.digests {
                found.conditional_assign(&number, digest.ct_eq(&presented));
            }
        }
        let index = usize::try_from(found).ok()?.checked_sub(1)?;
        keys.get(index).cloned()
    }

    /// Reads the file again. If it is not valid, the keys stay as they are.
    pub(crate) fn reload(&self) {
        let keys = match key_file::read(&self.path) {
            Ok(keys) => keys,
            Err(why) => {
                error!(error = %format!("{why:#}"), "the API keys are not reloaded: the old ones stay valid");
                counter!("lockstock_key_reloads_total", "result" => "failed").increment(1);
                return;
            }
        };
        warn_of_expired(&keys);
        let names = |keys: &[Arc<ApiKey>]| {
            let names = keys.iter().map(|key| key.name.to_string());
            names.collect::<BTreeSet<_>>()
        };
        let (before, after) = (names(&self.current()), names(&keys));
        let difference =
            |from: &BTreeSet<String>, to| from.difference(to).cloned().collect::<Vec<_>>();
        let (added, removed) = (difference(&after, &before), difference(&before, &after));
        let count = keys.len();
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = keys.into();
        drop(current);
        counter!("lockstock_key_reloads_total", "result" => "succeeded").increment(1);
        // A warning, so that it is part of every log: it changes which clients have access.
        warn!(
            count,
            added = added.join(","),
            removed = removed.join(","),
            "the API keys are reloaded"
        );
    }

    fn current(&self) -> Arc<[Arc<ApiKey>]> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        current.clone()
    }
}

fn warn_of_expired(keys: &[Arc<ApiKey>]) {
    let now = Utc::now();
    for key in keys {
        if key.expires_at.is_some_and(|at| at <= now) {
            let (name, line) = (&*key.name, key.line);
            warn!(
                key = name,
                line,
                "this API key has expired and is rejected: remove its line, or create another \
                 with `lockstock key new`"
            );
        }
    }
}
