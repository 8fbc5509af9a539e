//! The filter of the board, from the query string, so that a link to what it shows can be sent.

use std::time::Duration;

use axum::http::Uri;

use crate::live::wire::{Episode, LockStatus};

/// Which locks and episodes the board shows.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    /// Part of the name of the lock.
    pub(super) lock: String,
    /// As in the query string: `500ms`.
    pub(super) longer: String,
    duration: Duration,
}

impl Filter {
    pub(super) fn of(uri: &Uri) -> Self {
        let longer = parameter(uri, "longer").unwrap_or_default();
        Self {
            lock: parameter(uri, "lock").unwrap_or_default(),
            duration: humantime::parse_duration(&longer).unwrap_or_default(),
            longer,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock.is_empty() && self.longer.is_empty()
    }

    pub(super) fn has_lock(&self, lock: &LockStatus, at: i64) -> bool {
        lock.name.contains(&self.lock)
            && (self.duration.is_zero() || lock.lasts_longer(self.duration, at))
    }

    pub(super) fn has_episode(&self, episode: &Episode) -> bool {
        let lasted_ms = (episode.to - episode.from) as f64;
        let longest_ms = lasted_ms.max(episode.longest_wait_ms);
        episode.lock.contains(&self.lock) && longest_ms >= self.duration.as_secs_f64() * 1000.0
    }
}

/// Returns a parameter of the query string.
pub(super) fn parameter(uri: &Uri, name: &str) -> Option<String> {
    let mut parameters = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let (_, value) = parameters.find(|(found, _)| found == name)?;
    Some(value.into_owned())
}
