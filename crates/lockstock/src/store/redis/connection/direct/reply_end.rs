//! Finds where replies end among bytes that arrive in pieces, so that each can be read at once from
//! memory.
//!
//! Guarantees: looks at every line once, however many pieces a reply arrives in. What it rejects, the
//! reader would reject too, but only at the end: a length that is too large is rejected here before
//! its data.

use super::reply::{
    ELEMENT_BYTES, MAX_LINE_BYTES, MAX_REPLY_BYTES, ReplyError, TOO_LARGE, doubled, integer,
};

/// The search for the end of one reply, and of the push messages and attributes before it.
pub(super) struct ReplyEnd {
    /// Where the next line begins.
    line: usize,
    /// Up to where that line has no end.
    searched: usize,
    /// How many elements of the reply have not begun.
    elements_left: usize,
}

impl ReplyEnd {
    pub(super) fn new() -> Self {
        Self {
            line: 0,
            searched: 0,
            elements_left: 1,
        }
    }

    /// Returns the end of the reply that begins at the start of `bytes`, and begins with the next
    /// one. `None`: it is not there yet. Then `bytes` has to begin with the same ones the next time.
    pub(super) fn find(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        while self.elements_left > 0 {
            let Some(line_end) = self.line_end(bytes)? else {
                return Ok(None);
            };
            self.element(&bytes[self.line..line_end], line_end + 2)?;
        }
        // The data of the last string may be on its way.
        if bytes.len() < self.line {
            return Ok(None);
        }
        let end = self.line;
        *self = Self::new();
        Ok(Some(end))
    }

    fn line_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let from = self.searched.max(self.line);
        let rest = bytes.get(from..).unwrap_or_default();
        if let Some(found) = rest.windows(2).position(|pair| pair == b"\r\n") {
            return Ok(Some(from + found));
        }
        if bytes.len() > self.line + MAX_LINE_BYTES {
            return Err(ReplyError::Malformed("a line is too long"));
        }
        // The last byte may be the first of the two.
        self.searched = bytes.len().saturating_sub(1);
        Ok(None)
    }

    fn element(&mut self, line: &[u8], next: usize) -> Result<(), ReplyError> {
        let Some((kind, rest)) = line.split_first() else {
            return Err(ReplyError::Malformed("a line is empty"));
        };
        let (mut more, mut data) = (0, 0);
        match kind {
            b'$' | b'=' | b'!' => match integer(rest)? {
                // Nothing. The reader rejects it for the other two.
                ..0 => {}
                length => data = usize::try_from(length).map_err(|_| TOO_LARGE)? + 2,
            },
            b'*' | b'~' => more = integer(rest)?.max(0),
            b'%' => more = doubled(integer(rest)?)?,
            // What they belong to follows.
            b'|' => more = doubled(integer(rest)?)?.saturating_add(1),
            b'>' => more = integer(rest)?.saturating_add(1),
            b':' | b'+' | b'-' | b'_' | b',' | b'#' | b'(' => {}
            _ => return Err(ReplyError::Malformed("it begins with an unknown byte")),
        }
        let more = usize::try_from(more).map_err(|_| TOO_LARGE)?;
        self.elements_left = (self.elements_left - 1).saturating_add(more);
        self.line = next.saturating_add(data);
        if self.elements_left > MAX_REPLY_BYTES / ELEMENT_BYTES || self.line > MAX_REPLY_BYTES {
            return Err(TOO_LARGE);
        }
        Ok(())
    }
}
