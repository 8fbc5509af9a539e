//! Finds where replies end among bytes that arrive in pieces, so that each can be read at once from
//! memory.

use super::framing::{Framing, Reading};
use super::reply::ReplyError;

/// The search for the end of one reply, and of the push messages and attributes before it.
pub(super) struct ReplyEnd {
    framing: Framing,
    /// How many bytes of the reply were searched.
    searched: usize,
}

impl ReplyEnd {
    pub(super) fn new() -> Self {
        Self {
            framing: Framing::new(Reading::OWN),
            searched: 0,
        }
    }

    /// Returns the end of the reply that begins at the start of `bytes`, and begins with the next
    /// one. `None`: it is not there yet. Then `bytes` has to begin with the same ones the next time.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let Some(length) = self.framing.advance(&bytes[self.searched..])? else {
            self.searched = bytes.len();
            return Ok(None);
        };
        let end = self.searched + length;
        self.searched = 0;
        Ok(Some(end))
    }
}
