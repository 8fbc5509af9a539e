//! What the fuzz target `replies` checks of any bytes.

use super::super::framing::{Framing, Reading};
use super::super::reply_end::ReplyEnd;
use super::*;

/// Large enough for what a fuzzer invents.
const MAX_BYTES: usize = 1024 * 1024;

/// Returns pieces of the bytes, as a socket does.
pub(super) struct Pieces<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) sizes: &'a [usize],
    pub(super) next: usize,
}

impl Read for Pieces<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let size = self.sizes[self.next % self.sizes.len()];
        self.next += 1;
        let size = size.min(self.bytes.len()).min(into.len());
        let (piece, rest) = self.bytes.split_at(size);
        into[..size].copy_from_slice(piece);
        self.bytes = rest;
        Ok(size)
    }
}

/// Reads the bytes at once, in pieces, and each reply once its end has arrived, and panics unless the
/// replies are the same, and those of the redis crate. Panics too if the redis crate would wait for
/// more than the reply that a [`Framing`] has followed for it. The input begins with the sizes of the pieces.
pub(crate) fn check(input: &[u8]) {
    let Some((count, input)) = input.split_first() else {
        return;
    };
    let Some((sizes, bytes)) = input.split_at_checked(1 + usize::from(count % 8)) else {
        return;
    };
    let sizes: Vec<_> = sizes.iter().map(|size| 1 + usize::from(*size)).collect();
    let (whole, end) = read_all(bytes, &[bytes.len().max(1)]);
    let (in_pieces, end_in_pieces) = read_all(bytes, &sizes);
    // As text, in which a double that is not a number equals itself.
    assert_eq!(format!("{whole:?}"), format!("{in_pieces:?}"));
    assert_eq!(end, end_in_pieces);
    for reply in followed(bytes, &sizes) {
        let is_open = matches!(redis::parse_redis_value(reply), Err(error) if error.is_io_error());
        assert!(!is_open, "the reply continues: {reply:?}");
    }
    let ended = read_ended(bytes, &sizes);
    let (values, replies): (Vec<_>, Vec<_>) = ended.into_iter().unzip();
    assert_eq!(format!("{whole:?}"), format!("{values:?}"));
    for (value, reply) in values.iter().zip(replies) {
        // The redis crate returns a push message where the reader looks for the reply behind it.
        if reply.first() == Some(&b'>') {
            continue;
        }
        // What only the reader accepts is harmless.
        let Ok(expected) = redis::parse_redis_value(reply) else {
            continue;
        };
        let expected = format!("{:?}", without_attributes(expected));
        // In an error, the reader replaces what would begin a line.
        if !(expected.contains("Server error") && expected.contains(['\r', '\n'])) {
            assert_eq!(format!("{value:?}"), expected);
        }
    }
}

/// Returns the replies, and why there is no further one.
fn read_all(bytes: &[u8], sizes: &[usize]) -> (Vec<Value>, String) {
    let mut pieces = Pieces {
        bytes,
        sizes,
        next: 0,
    };
    let mut reader = ReplyReader::new(MAX_BYTES);
    let mut replies = Vec::new();
    loop {
        match reader.read(&mut pieces) {
            Ok(reply) => replies.push(reply),
            Err(error) => return (replies, format!("{error:?}")),
        }
    }
}

/// Reads each reply from memory once its end has arrived. Returns its bytes too.
fn read_ended<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<(Value, &'a [u8])> {
    let (mut reply_end, mut reader) = (ReplyEnd::new(), ReplyReader::new(MAX_BYTES));
    let (mut replies, mut start, mut received) = (Vec::new(), 0, 0);
    for size in sizes.iter().cycle() {
        received = bytes.len().min(received + size);
        while let Ok(Some(length)) = reply_end.find(&bytes[start..received]) {
            let reply = &bytes[start..start + length];
            let Ok(value) = reader.read(&mut &*reply) else {
                return replies;
            };
            assert!(reader.is_empty(), "the reply ends where its end was found");
            replies.push((value, reply));
            start += length;
        }
        if received == bytes.len() {
            break;
        }
    }
    replies
}

/// Returns the replies and push messages that the redis crate would read.
fn followed<'a>(bytes: &'a [u8], sizes: &[usize]) -> Vec<&'a [u8]> {
    let mut framing = Framing::new(Reading::REDIS_CRATE);
    let (mut replies, mut start, mut received) = (Vec::new(), 0, 0);
    for size in sizes.iter().cycle() {
        let mut piece = received..bytes.len().min(received + size);
        received = piece.end;
        while let Ok(Some(length)) = framing.advance(&bytes[piece.clone()]) {
            piece.start += length;
            replies.push(&bytes[start..piece.start]);
            start = piece.start;
        }
        if received == bytes.len() {
            break;
        }
    }
    replies
}

/// Returns a value as the reader does: it skips attributes.
pub(super) fn without_attributes(value: Value) -> Value {
    let all = |values: Vec<Value>| values.into_iter().map(without_attributes).collect();
    match value {
        Value::Attribute { data, .. } => without_attributes(*data),
        Value::Array(values) => Value::Array(all(values)),
        Value::Set(values) => Value::Set(all(values)),
        Value::Map(pairs) => {
            let pairs = pairs.into_iter();
            let both = |(key, value)| (without_attributes(key), without_attributes(value));
            Value::Map(pairs.map(both).collect())
        }
        value => value,
    }
}
