//! Follows replies through bytes that arrive in pieces: where each ends, and what it costs to read.
//!
//! Guarantees: looks at every line once, and at no data, however many pieces a reply arrives in. What
//! costs more than the limit is rejected as soon as its length is announced. What it rejects, the
//! reader of its replies would reject too, or take without a bound.
//!
//! Not guaranteed: that what it accepts is a reply. Lines are not parsed unless they have a length.

use super::reply::{
    ELEMENT_BYTES, MAX_LINE_BYTES, MAX_REPLY_BYTES, ReplyError, TOO_LARGE, doubled, integer,
};

/// How the replies are read that a [`Framing`] follows.
pub(in super::super) struct Reading {
    /// What an element costs in addition to its bytes.
    element_bytes: usize,
    /// What an element costs further if it has elements of its own.
    aggregate_bytes: usize,
    /// Whether a push message is read on its own, and not with the reply behind it.
    is_push_apart: bool,
}

impl Reading {
    /// By [`ReplyReader`](super::reply::ReplyReader).
    pub(super) const OWN: Self = Self {
        element_bytes: ELEMENT_BYTES,
        aggregate_bytes: 0,
        is_push_apart: false,
    };
    /// By the redis crate. An element of a map is in a list of all elements before it is in a list of
    /// pairs, and its bytes are allocated on their own. A list has room for four elements at least.
    pub(in super::super) const REDIS_CRATE: Self = Self {
        element_bytes: 2 * ELEMENT_BYTES + ALLOCATION_BYTES,
        aggregate_bytes: 4 * 2 * ELEMENT_BYTES + ALLOCATION_BYTES,
        is_push_apart: true,
    };
}

/// What a small allocation costs.
const ALLOCATION_BYTES: usize = 32;

/// A position in a stream of replies.
pub(in super::super) struct Framing {
    reading: Reading,
    /// The beginning of a line whose end has not arrived.
    line: Vec<u8>,
    /// How many bytes of the last string have not arrived.
    data_left: usize,
    /// How many elements of the present reply have not begun.
    elements_left: usize,
    /// What is left of [`MAX_REPLY_BYTES`] for the present reply.
    bytes_left: usize,
    /// Why nothing more is taken.
    rejected: Option<&'static str>,
}

impl Framing {
    pub(in super::super) fn new(reading: Reading) -> Self {
        Self {
            reading,
            line: Vec::new(),
            data_left: 0,
            elements_left: 1,
            bytes_left: MAX_REPLY_BYTES,
            rejected: None,
        }
    }

    /// Takes the bytes that have arrived. Returns how many of them belong to the present reply if it
    /// ends among them; the others have to be passed again. `None` if all belong to it. After an
    /// error, each further call returns the same error.
    pub(in super::super) fn advance(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        if let Some(reason) = self.rejected {
            return Err(ReplyError::Malformed(reason));
        }
        let end = self.find_end(bytes);
        if let Err(ReplyError::Malformed(reason)) = end {
            self.rejected = Some(reason);
        }
        end
    }

    fn find_end(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        let mut position = 0;
        loop {
            let data = self.data_left.min(bytes.len() - position);
            position += data;
            self.data_left -= data;
            if self.data_left > 0 {
                return Ok(None);
            }
            if self.elements_left == 0 {
                self.elements_left = 1;
                self.bytes_left = MAX_REPLY_BYTES;
                return Ok(Some(position));
            }
            match self.line(&bytes[position..])? {
                Some(length) => position += length,
                None => return Ok(None),
            }
        }
    }

    /// Takes the rest of a line. Returns its length with the end, `None` if that has not arrived.
    fn line(&mut self, bytes: &[u8]) -> Result<Option<usize>, ReplyError> {
        if self.line.last() == Some(&b'\r') && bytes.first() == Some(&b'\n') {
            self.line.pop();
            self.end_line(&[])?;
            return Ok(Some(1));
        }
        // No further than a line that is too long.
        let searched = &bytes[..bytes.len().min(MAX_LINE_BYTES + 2)];
        let Some(length) = searched.windows(2).position(|pair| pair == b"\r\n") else {
            if self.line.len() + searched.len() > MAX_LINE_BYTES + 1 {
                return Err(LINE_TOO_LONG);
            }
            self.line.extend_from_slice(bytes);
            return Ok(None);
        };
        self.end_line(&bytes[..length])?;
        Ok(Some(length + 2))
    }

    /// Takes an element whose line ends with these bytes.
    fn end_line(&mut self, rest: &[u8]) -> Result<(), ReplyError> {
        if self.line.is_empty() {
            return self.element(rest);
        }
        let mut line = std::mem::take(&mut self.line);
        line.extend_from_slice(rest);
        self.element(&line)?;
        line.clear();
        self.line = line;
        Ok(())
    }

    fn element(&mut self, line: &[u8]) -> Result<(), ReplyError> {
        if line.len() > MAX_LINE_BYTES {
            return Err(LINE_TOO_LONG);
        }
        let Some((kind, rest)) = line.split_first() else {
            return Err(ReplyError::Malformed("a line is empty"));
        };
        self.charge(self.reading.element_bytes + line.len())?;
        let more = match kind {
            b'$' => match integer(rest)? {
                ..0 => 0,
                length => self.string(length)?,
            },
            b'=' | b'!' => self.string(integer(rest)?)?,
            b'*' | b'~' => integer(rest)?.max(0),
            b'%' => doubled(integer(rest)?)?,
            // What they belong to follows.
            b'|' => doubled(integer(rest)?)?.saturating_add(1),
            b'>' if self.reading.is_push_apart => integer(rest)?,
            b'>' => integer(rest)?.saturating_add(1),
            b':' | b'+' | b'-' | b'_' | b',' | b'#' | b'(' => 0,
            _ => return Err(ReplyError::Malformed("it begins with an unknown byte")),
        };
        if more != 0 {
            self.charge(self.reading.aggregate_bytes)?;
        }
        let more = usize::try_from(more).map_err(|_| TOO_LARGE)?;
        self.elements_left = (self.elements_left - 1).saturating_add(more);
        if self.elements_left > self.bytes_left / self.reading.element_bytes {
            return Err(TOO_LARGE);
        }
        Ok(())
    }

    /// Expects the data of a string, which has no elements.
    fn string(&mut self, length: i64) -> Result<i64, ReplyError> {
        let length = usize::try_from(length).map_err(|_| TOO_LARGE)?;
        self.charge(length)?;
        self.data_left = length + 2;
        Ok(0)
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(TOO_LARGE)?;
        Ok(())
    }
}

const LINE_TOO_LONG: ReplyError = ReplyError::Malformed("a line is too long");

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
