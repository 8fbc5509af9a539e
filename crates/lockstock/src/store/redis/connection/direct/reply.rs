//! Reads replies from a blocking connection: RESP2 and RESP3, as Redis and Valkey send them.
//!
//! Guarantees: a bulk string is copied once, from the socket or from the buffer. A server that
//! sends anything else than replies costs at most [`MAX_REPLY_BYTES`], and memory is allocated as
//! data arrives: a length that is only announced costs nothing.
//!
//! Not the redis crate's parser: from a blocking source it copies a bulk string twice, and it
//! accepts any length.

use std::io::{self, Read};
use std::str;

use redis::{Value, VerbatimFormat};

/// The maximum size of a reply, its elements and what is skipped before it included: 512 MiB, the
/// maximum of a single value in Redis by default.
pub(super) const MAX_REPLY_BYTES: usize = 512 * 1024 * 1024;
/// The maximum length of a line: of an error, a simple string, a number. Redis sends less than 1 KiB
/// unless a script returns a longer error.
pub(super) const MAX_LINE_BYTES: usize = 16 * 1024;
/// How deep arrays may be nested. No command of this crate has a reply with more than 4 levels.
const MAX_DEPTH: usize = 32;
/// What an element of an array costs in addition to its bytes.
pub(super) const ELEMENT_BYTES: usize = size_of::<Value>();
/// How much memory is allocated for a bulk string before its data arrive.
const MAX_ALLOCATED_AHEAD_BYTES: usize = 1024 * 1024;
/// The same for the elements of an array.
const MAX_ALLOCATED_AHEAD_ELEMENTS: usize = 256;

pub(super) const TOO_LARGE: ReplyError = ReplyError::Malformed("it is too large");

/// What a server sends.
pub(super) enum Received {
    Reply(Value),
    /// A message that is not a reply: its kind, and what belongs to it.
    Push(Vec<Value>),
}

/// Why there is no reply. The position in the stream is unknown then.
#[derive(Debug)]
pub(in super::super) enum ReplyError {
    Io(io::Error),
    Malformed(&'static str),
}

impl From<io::Error> for ReplyError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// The bytes that were received and not read yet.
pub(super) struct ReplyReader {
    /// As long as the longest line.
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    max_bytes: usize,
    /// What is left of `max_bytes` for the present reply.
    bytes_left: usize,
}

impl ReplyReader {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            buffer: vec![0; MAX_LINE_BYTES].into(),
            start: 0,
            end: 0,
            max_bytes,
            bytes_left: 0,
        }
    }

    /// Returns whether every received byte has been read.
    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads the next reply, which may be an error of the server. Skips push messages and
    /// attributes.
    pub(super) fn read(&mut self, source: &mut impl Read) -> Result<Value, ReplyError> {
        self.bytes_left = self.max_bytes;
        loop {
            if let Received::Reply(reply) = self.received(source)? {
                return Ok(reply);
            }
        }
    }

    /// Reads the next reply or push message. Skips attributes.
    pub(super) fn next(&mut self, source: &mut impl Read) -> Result<Received, ReplyError> {
        self.bytes_left = self.max_bytes;
        self.received(source)
    }

    fn received(&mut self, source: &mut impl Read) -> Result<Received, ReplyError> {
        if self.is_empty() {
            (self.start, self.end) = (0, receive(source, &mut self.buffer)?);
        }
        if self.buffer[self.start] != b'>' {
            return self.value(source, 0).map(Received::Reply);
        }
        let line = self.line(source)?;
        self.charge(ELEMENT_BYTES + line.len())?;
        let (_, count) = line.split_first(&self.buffer)?;
        let count = integer(count)?;
        self.values(source, count, 0).map(Received::Push)
    }

    fn value(&mut self, source: &mut impl Read, depth: usize) -> Result<Value, ReplyError> {
        if depth > MAX_DEPTH {
            return Err(ReplyError::Malformed("it is nested too deep"));
        }
        loop {
            let line = self.line(source)?;
            self.charge(ELEMENT_BYTES + line.len())?;
            let (kind, rest) = line.split_first(&self.buffer)?;
            return Ok(match kind {
                b'$' => match integer(rest)? {
                    ..0 => Value::Nil,
                    length => Value::BulkString(self.bytes(source, length)?),
                },
                b':' => Value::Int(integer(rest)?),
                b'+' => match text(rest)? {
                    "OK" => Value::Okay,
                    status => Value::SimpleString(status.to_owned()),
                },
                b'-' => server_error(text(rest)?)?,
                b'_' if rest.is_empty() => Value::Nil,
                b'_' => return Err(ReplyError::Malformed("a null is malformed")),
                b'*' => match integer(rest)? {
                    ..0 => Value::Nil,
                    count => Value::Array(self.values(source, count, depth)?),
                },
                b'%' => {
                    let count = doubled(integer(rest)?)?;
                    Value::Map(pairs(self.values(source, count, depth)?))
                }
                b'~' => match integer(rest)? {
                    ..0 => Value::Nil,
                    count => Value::Set(self.values(source, count, depth)?),
                },
                b',' => Value::Double(parse(rest, "a double is malformed")?),
                b'#' => match rest {
                    b"t" => Value::Boolean(true),
                    b"f" => Value::Boolean(false),
                    _ => return Err(ReplyError::Malformed("a boolean is malformed")),
                },
                b'(' => big_number(rest)?,
                b'=' => {
                    let length = integer(rest)?;
                    verbatim(&String::from_utf8_lossy(&self.bytes(source, length)?))?
                }
                b'!' => {
                    let length = integer(rest)?;
                    server_error(&String::from_utf8_lossy(&self.bytes(source, length)?))?
                }
                // Attributes: what they belong to follows.
                b'|' => {
                    let count = doubled(integer(rest)?)?;
                    self.values(source, count, depth)?;
                    continue;
                }
                _ => return Err(ReplyError::Malformed("it begins with an unknown byte")),
            });
        }
    }

    fn values(
        &mut self,
        source: &mut impl Read,
        count: i64,
        depth: usize,
    ) -> Result<Vec<Value>, ReplyError> {
        let count = usize::try_from(count).map_err(|_| TOO_LARGE)?;
        if count > self.bytes_left / ELEMENT_BYTES {
            return Err(TOO_LARGE);
        }
        let mut values = Vec::with_capacity(count.min(MAX_ALLOCATED_AHEAD_ELEMENTS));
        for _ in 0..count {
            values.push(self.value(source, depth + 1)?);
        }
        Ok(values)
    }

    /// Reads a bulk string after its length.
    fn bytes(&mut self, source: &mut impl Read, length: i64) -> Result<Vec<u8>, ReplyError> {
        let length = usize::try_from(length).map_err(|_| TOO_LARGE)?;
        self.charge(length)?;
        let length_with_end = length + 2;
        let buffered = &self.buffer[self.start..self.end];
        if buffered.len() >= length_with_end {
            let (bytes, end) = buffered[..length_with_end].split_at(length);
            check_end(end)?;
            let bytes = bytes.to_vec();
            self.start += length_with_end;
            return Ok(bytes);
        }
        let mut bytes = vec![0; length_with_end.min(MAX_ALLOCATED_AHEAD_BYTES.max(buffered.len()))];
        bytes[..buffered.len()].copy_from_slice(buffered);
        let mut filled = buffered.len();
        (self.start, self.end) = (0, 0);
        while filled < length_with_end {
            if filled == bytes.len() {
                let doubled = (2 * filled).min(length_with_end);
                bytes.reserve_exact(doubled - filled);
                bytes.resize(doubled, 0);
            }
            filled += receive(source, &mut bytes[filled..])?;
        }
        check_end(&bytes[length..])?;
        bytes.truncate(length);
        Ok(bytes)
    }

    /// Reads a line.
    fn line(&mut self, source: &mut impl Read) -> Result<Line, ReplyError> {
        let mut searched = self.start;
        loop {
            let found = self.buffer[searched..self.end]
                .windows(2)
                .position(|pair| pair == b"\r\n");
            if let Some(found) = found {
                let line = Line {
                    start: self.start,
                    end: searched + found,
                };
                self.start = line.end + 2;
                return Ok(line);
            }
            // The last byte may be the first of the two.
            searched = self.end.saturating_sub(1).max(self.start);
            if self.end == self.buffer.len() {
                if self.start == 0 {
                    return Err(ReplyError::Malformed("a line is too long"));
                }
                self.buffer.copy_within(self.start..self.end, 0);
                searched -= self.start;
                self.end -= self.start;
                self.start = 0;
            } else if self.is_empty() {
                (self.start, self.end, searched) = (0, 0, 0);
            }
            self.end += receive(source, &mut self.buffer[self.end..])?;
        }
    }

    fn charge(&mut self, bytes: usize) -> Result<(), ReplyError> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(TOO_LARGE)?;
        Ok(())
    }
}

/// A line in the buffer, without its end.
struct Line {
    start: usize,
    end: usize,
}

impl Line {
    fn len(&self) -> usize {
        self.end - self.start
    }

    /// Returns the first byte, which is the type, and the rest.
    fn split_first<'a>(&self, buffer: &'a [u8]) -> Result<(u8, &'a [u8]), ReplyError> {
        match buffer[self.start..self.end].split_first() {
            Some((kind, rest)) => Ok((*kind, rest)),
            None => Err(ReplyError::Malformed("a line is empty")),
        }
    }
}

/// Returns how many bytes were received, at least one.
fn receive(source: &mut impl Read, into: &mut [u8]) -> Result<usize, ReplyError> {
    match source.read(into)? {
        0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        count => Ok(count),
    }
}

fn check_end(end: &[u8]) -> Result<(), ReplyError> {
    match end {
        b"\r\n" => Ok(()),
        _ => Err(ReplyError::Malformed("a string is longer than its length")),
    }
}

fn text(line: &[u8]) -> Result<&str, ReplyError> {
    str::from_utf8(line).map_err(|_| ReplyError::Malformed("a line is not UTF-8"))
}

fn parse<T: str::FromStr>(line: &[u8], malformed: &'static str) -> Result<T, ReplyError> {
    let number = text(line)?.trim().parse();
    number.map_err(|_| ReplyError::Malformed(malformed))
}

pub(super) fn integer(line: &[u8]) -> Result<i64, ReplyError> {
    parse(line, "an integer is malformed")
}

pub(super) fn doubled(count: i64) -> Result<i64, ReplyError> {
    count.checked_mul(2).ok_or(TOO_LARGE)
}

fn pairs(values: Vec<Value>) -> Vec<(Value, Value)> {
    let mut values = values.into_iter();
    let mut pairs = Vec::with_capacity(values.len() / 2);
    while let (Some(key), Some(value)) = (values.next(), values.next()) {
        pairs.push((key, value));
    }
    pairs
}

/// Lets the redis crate read a big number: its type depends on the features that an application has
/// chosen for that crate.
fn big_number(digits: &[u8]) -> Result<Value, ReplyError> {
    redis::parse_redis_value(&[b"(", digits, b"\r\n"].concat())
        .map_err(|_| ReplyError::Malformed("a big number is malformed"))
}

fn verbatim(text: &str) -> Result<Value, ReplyError> {
    let (format, text) = text
        .split_once(':')
        .ok_or(ReplyError::Malformed("a verbatim string has no format"))?;
    Ok(Value::VerbatimString {
        format: match format {
            "txt" => VerbatimFormat::Text,
            "mkd" => VerbatimFormat::Markdown,
            other => VerbatimFormat::Unknown(other.to_owned()),
        },
        text: text.to_owned(),
    })
}

/// Only the redis crate can make an error of the server: it parses this one again.
fn server_error(text: &str) -> Result<Value, ReplyError> {
    let line = format!("-{}\r\n", text.replace(['\r', '\n'], " "));
    redis::parse_redis_value(line.as_bytes())
        .map_err(|_| ReplyError::Malformed("an error is malformed"))
}

#[cfg(any(test, fuzzing))]
#[cfg(not(shuttle))]
pub(super) mod fuzzing;
#[cfg(test)]
#[cfg(not(shuttle))]
mod tests;
