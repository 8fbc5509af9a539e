//! Scans of the values for their keys, page by page.

use std::ops::Bound;
use std::sync::Arc;

use tokio::time::Instant;

use super::glob::Glob;
use super::values::Values;

/// The maximum number of values that are visited for a page: no call holds the mutex for long.
const MAX_VISITED: usize = 1000;

/// Scan for the keys that begin with a prefix and whose rest matches a glob pattern.
pub(in crate::store) struct Scan {
    prefix: Vec<u8>,
    glob: Glob,
    position: Position,
}

enum Position {
    Start,
    After(Arc<[u8]>),
    End,
}

impl Scan {
    pub(in crate::store) fn new(prefix: &[u8], pattern: &[u8]) -> Self {
        Self {
            prefix: prefix.to_vec(),
            glob: Glob::new(pattern),
            position: Position::Start,
        }
    }

    /// Returns the keys of the next page, which may be empty. `None`: there are no more pages.
    pub(in crate::store) fn next_page(
        &mut self,
        values: &Values,
        now: Instant,
    ) -> Option<Vec<Vec<u8>>> {
        let from = match &self.position {
            Position::Start => Bound::Included(&self.prefix[..]),
            Position::After(key) => Bound::Excluded(&key[..]),
            Position::End => return None,
        };
        let mut keys = Vec::new();
        let mut position = Position::End;
        for (visited, (key, is_live)) in values.keys_from(from, now).enumerate() {
            let Some(rest) = key.strip_prefix(&self.prefix[..]) else {
                break;
            };
            if is_live && self.glob.matches(rest) {
                keys.push(key.to_vec());
            }
            if visited + 1 == MAX_VISITED {
                position = Position::After(key.clone());
                break;
            }
        }
        self.position = position;
        Some(keys)
    }
}
