use std::cell::Cell;
use std::env;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::Config;

use super::super::reply_end::ReplyEnd;
use super::fuzzing::{Pieces, check, without_attributes};
use super::*;

/// Repeats a text without end, and counts what was read.
struct Endless<'a> {
    head: &'a [u8],
    repeated: &'a [u8],
    position: usize,
    largest_read: Cell<usize>,
}

impl<'a> Endless<'a> {
    fn new(head: &'a [u8], repeated: &'a [u8]) -> Self {
        Self {
            head,
            repeated,
            position: 0,
            largest_read: Cell::new(0),
        }
    }
}

impl Read for Endless<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.largest_read
            .set(self.largest_read.get().max(into.len()));
        for byte in &mut *into {
            *byte = match self.head.get(self.position) {
                Some(byte) => *byte,
                None => self.repeated[(self.position - self.head.len()) % self.repeated.len()],
            };
            self.position += 1;
        }
        Ok(into.len())
    }
}

const MAX_BYTES: usize = 4 * 1024 * 1024;

fn read_all(bytes: &[u8], sizes: &[usize], count: usize) -> Result<Vec<Value>, ReplyError> {
    let mut pieces = Pieces {
        bytes,
        sizes,
        next: 0,
    };
    let mut reader = ReplyReader::new(MAX_BYTES);
    let replies: Result<Vec<_>, _> = (0..count).map(|_| reader.read(&mut pieces)).collect();
    if replies.is_ok() {
        assert!(reader.is_empty() && pieces.bytes.is_empty());
    }
    replies
}

/// Reads each reply from memory once its end has arrived.
fn read_ended(bytes: &[u8], sizes: &[usize]) -> Result<Vec<Value>, ReplyError> {
    let (mut reply_end, mut reader) = (ReplyEnd::new(), ReplyReader::new(MAX_REPLY_BYTES));
    let (mut replies, mut start, mut received) = (Vec::new(), 0, 0);
    for size in sizes.iter().cycle() {
        received = bytes.len().min(received + size);
        while let Some(length) = reply_end.find(&bytes[start..received])? {
            replies.push(reader.read(&mut &bytes[start..start + length])?);
            assert!(reader.is_empty());
            start += length;
        }
        if received == bytes.len() {
            break;
        }
    }
    match start == received {
        true => Ok(replies),
        false => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
    }
}

fn read(bytes: &[u8]) -> Result<Value, ReplyError> {
    Ok(read_all(bytes, &[bytes.len()], 1)?.remove(0))
}

/// Returns the reason for which the bytes are no reply, and fails if it takes more than
/// [`MAX_BYTES`] to find out.
fn malformed(head: &str, repeated: &str) -> &'static str {
    let mut source = Endless::new(head.as_bytes(), repeated.as_bytes());
    let Err(error) = ReplyReader::new(MAX_BYTES).read(&mut source) else {
        panic!("{head:?} is the head of a reply")
    };
    assert!(source.position <= 2 * MAX_BYTES, "{}", source.position);
    assert!(source.largest_read.get() <= MAX_BYTES);
    match error {
        ReplyError::Malformed(reason) => reason,
        ReplyError::Io(error) => panic!("{error}"),
    }
}

fn encode(value: &Value, into: &mut Vec<u8>) {
    let mut line = |text: &[u8]| {
        into.extend_from_slice(text);
        into.extend_from_slice(b"\r\n");
    };
    let header = |kind: char, length: usize| format!("{kind}{length}").into_bytes();
    match value {
        Value::Nil => line(b"_"),
        Value::Int(number) => line(format!(":{number}").as_bytes()),
        Value::Okay => line(b"+OK"),
        Value::SimpleString(text) => line(format!("+{text}").as_bytes()),
        Value::Double(number) => line(format!(",{number}").as_bytes()),
        Value::Boolean(true) => line(b"#t"),
        Value::Boolean(false) => line(b"#f"),
        Value::BigNumber(digits) => line(&[b"(", &digits[..]].concat()),
        Value::BulkString(bytes) => {
            line(&header('$', bytes.len()));
            line(bytes);
        }
        Value::VerbatimString { format, text } => {
            let text = format!("{format}:{text}");
            line(&header('=', text.len()));
            line(text.as_bytes());
        }
        Value::ServerError(error) => {
            let text = format!("{} {}", error.code(), error.details().unwrap_or_default());
            line(format!("-{text}").as_bytes());
        }
        Value::Array(values) => {
            line(&header('*', values.len()));
            values.iter().for_each(|value| encode(value, into));
        }
        Value::Set(values) => {
            line(&header('~', values.len()));
            values.iter().for_each(|value| encode(value, into));
        }
        Value::Map(pairs) => {
            line(&header('%', pairs.len()));
            for (key, value) in pairs {
                encode(key, into);
                encode(value, into);
            }
        }
        Value::Attribute { data, attributes } => {
            line(&header('|', attributes.len()));
            for (key, value) in attributes {
                encode(key, into);
                encode(value, into);
            }
            encode(data, into);
        }
        Value::Push { data, .. } => {
            line(&header('>', data.len() + 1));
            encode(&Value::BulkString(b"invalidate".to_vec()), into);
            data.iter().for_each(|value| encode(value, into));
        }
        _ => unreachable!("{value:?}"),
    }
}

fn any_leaf() -> impl Strategy<Value = Value> {
    let format = prop_oneof![
        Just(VerbatimFormat::Text),
        Just(VerbatimFormat::Markdown),
        Just(VerbatimFormat::Unknown("xyz".to_owned())),
    ];
    prop_oneof![
        Just(Value::Nil),
        Just(Value::Okay),
        any::<bool>().prop_map(Value::Boolean),
        any::<i64>().prop_map(Value::Int),
        any::<f64>()
            .prop_filter("comparable", |number| !number.is_nan())
            .prop_map(Value::Double),
        "-?[1-9][0-9]{20,40}".prop_map(|digits| Value::BigNumber(digits.into_bytes())),
        "[a-zA-Zäöü ]{0,40}"
            .prop_filter("not a status of its own", |text| text != "OK")
            .prop_map(Value::SimpleString),
        vec(any::<u8>(), 0..100).prop_map(Value::BulkString),
        // Longer than the buffer.
        (any::<u8>(), 0..3 * MAX_LINE_BYTES)
            .prop_map(|(byte, length)| Value::BulkString(vec![byte; length])),
        (format, "[a-z:\r\n]{0,40}")
            .prop_map(|(format, text)| Value::VerbatimString { format, text }),
        "(ERR|MOVED|NOSCRIPT|SOMETHING) [a-z0-9:.]{1,40}"
            .prop_map(|text| server_error(&text).unwrap()),
    ]
}

fn any_value() -> impl Strategy<Value = Value> {
    any_leaf().prop_recursive(6, 60, 6, |inner| {
        let pairs = vec((inner.clone(), inner.clone()), 0..4);
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::Array),
            vec(inner.clone(), 0..6).prop_map(Value::Set),
            pairs.clone().prop_map(Value::Map),
            (inner, pairs).prop_map(|(data, attributes)| Value::Attribute {
                data: Box::new(data),
                attributes,
            }),
        ]
    })
}

/// A quick run, or a long one in a soak.
fn config() -> Config {
    match env::var("LOCKSTOCK_SOAK") {
        Ok(soak) if !matches!(&soak[..], "" | "0") => Config::with_cases(200_000),
        _ => Config::with_cases(200),
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn replies_are_those_of_the_redis_crate_however_they_arrive(
        values in vec((any_value(), vec(any_value(), 0..2)), 1..4),
        sizes in vec(1..5000_usize, 1..20),
    ) {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (value, pushed) in &values {
            for data in pushed {
                let (kind, data) = (redis::PushKind::Invalidate, vec![data.clone()]);
                encode(&Value::Push { kind, data }, &mut bytes);
            }
            let mut one = Vec::new();
            encode(value, &mut one);
            expected.push(without_attributes(redis::parse_redis_value(&one).unwrap()));
            bytes.extend(one);
        }
        let replies = read_all(&bytes, &sizes, values.len()).unwrap();
        prop_assert_eq!(&replies, &expected);
        prop_assert_eq!(read_ended(&bytes, &sizes).unwrap(), expected);
    }

    #[test]
    fn a_reply_that_ends_early_fails_and_no_other_bytes_cause_a_panic(
        value in any_value(),
        cut in any::<prop::sample::Index>(),
        changed in vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        garbage in vec(any::<u8>(), 0..200),
        sizes in vec(1..100_usize, 1..20),
    ) {
        let mut bytes = Vec::new();
        encode(&value, &mut bytes);
        let early = &bytes[..cut.index(bytes.len())];
        prop_assert!(read_all(early, &sizes, 1).is_err());
        prop_assert!(early.is_empty() || read_ended(early, &sizes).is_err());
        for (index, byte) in changed {
            let index = index.index(bytes.len());
            bytes[index] = byte;
        }
        for bytes in [bytes, garbage] {
            let mut pieces = Pieces { bytes: &bytes, sizes: &sizes, next: 0 };
            let _ = ReplyReader::new(MAX_BYTES).read(&mut pieces);
            let _ = read_ended(&bytes, &sizes);
        }
    }
}

#[test]
fn replies_of_resp2_are_read() {
    assert_eq!(read(b"$-1\r\n").unwrap(), Value::Nil);
    assert_eq!(read(b"*-1\r\n").unwrap(), Value::Nil);
    assert_eq!(read(b"$0\r\n\r\n").unwrap(), Value::BulkString(Vec::new()));
}

#[test]
fn an_error_of_the_server_keeps_its_code() {
    for bytes in [
        &b"-MOVED 1 a:2\r\n"[..],
        b"!12\r\nMOVED 1 a:2\n\r\n",
        b"*1\r\n-MOVED 1 a:2\r\n",
    ] {
        let error = read(bytes).unwrap().extract_error().unwrap_err();
        assert_eq!(error.code(), Some("MOVED"));
        assert_eq!(error.redirect_node(), Some(("a:2", 1)));
    }
}

#[test]
fn a_huge_length_is_rejected_before_its_data() {
    for length in ["5000000", "9223372036854775807", "99999999999999999999"] {
        for kind in ["$", "*", "~", "%", "|", ">", "=", "!"] {
            let mut source = Endless::new(b"", b"");
            let head = format!("{kind}{length}\r\n");
            source.head = head.as_bytes();
            source.repeated = b"$1\r\na\r\n";
            let error = ReplyReader::new(MAX_BYTES).read(&mut source).unwrap_err();
            assert!(matches!(error, ReplyError::Malformed(_)), "{head}");
            assert_eq!(source.largest_read.get(), MAX_LINE_BYTES);
            assert!(source.position <= MAX_LINE_BYTES, "{head}");
        }
    }
}

#[test]
fn the_end_of_a_reply_that_is_too_large_is_not_waited_for() {
    for head in [
        "$536870913\r\n",
        "*99999999\r\n",
        "%99999999\r\n",
        ">99999999\r\n",
        "|99999999\r\n",
    ] {
        let found = ReplyEnd::new().find(head.as_bytes());
        assert!(matches!(found, Err(ReplyError::Malformed(_))), "{head}");
    }
    let mut reply_end = ReplyEnd::new();
    let line = vec![b'+'; MAX_LINE_BYTES + 2];
    assert!(matches!(reply_end.find(&line[..100]), Ok(None)));
    assert!(reply_end.find(&line).is_err());
}

#[test]
fn memory_grows_with_the_data_and_not_with_the_announced_length() {
    let mut reader = ReplyReader::new(MAX_REPLY_BYTES);
    let head = format!("${MAX_REPLY_BYTES}\r\n");
    // Fails: the budget has no room for the line.
    assert!(reader.read(&mut head.as_bytes()).is_err());
    let length = MAX_REPLY_BYTES - 1024;
    let bytes = [format!("${length}\r\n").as_bytes(), &[b'x'; 1000]].concat();
    let mut source = Counting {
        bytes: &bytes,
        largest_read: 0,
    };
    let error = ReplyReader::new(MAX_REPLY_BYTES)
        .read(&mut source)
        .unwrap_err();
    assert!(matches!(error, ReplyError::Io(_)));
    assert!(source.largest_read <= MAX_ALLOCATED_AHEAD_BYTES);

    struct Counting<'a> {
        bytes: &'a [u8],
        largest_read: usize,
    }
    impl Read for Counting<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            self.largest_read = self.largest_read.max(into.len());
            self.bytes.read(into)
        }
    }
}

#[test]
fn endless_replies_cost_a_bounded_amount() {
    assert_eq!(malformed("+", "x"), "a line is too long");
    assert_eq!(malformed("$", "1"), "a line is too long");
    assert_eq!(malformed("", "*1\r\n"), "it is nested too deep");
    assert_eq!(malformed("", "%1\r\n"), "it is nested too deep");
    assert_eq!(malformed("", ">1\r\n+x\r\n"), "it is too large");
    assert_eq!(malformed("", "|1\r\n+x\r\n+y\r\n"), "it is too large");
    assert_eq!(
        malformed("*6000\r\n", "$101\r\n"),
        "a string is longer than its length"
    );
    let kibibyte = format!("$1024\r\n{}\r\n", "x".repeat(1024));
    assert_eq!(malformed("*10000\r\n", &kibibyte), "it is too large");
    let array = "*100\r\n".to_owned() + &"_\r\n".repeat(100);
    assert_eq!(malformed("*10000\r\n", &array), "it is too large");
}

#[test]
fn what_is_no_reply_is_rejected() {
    for bytes in [
        &b"\r\n"[..],
        b"hello\r\n",
        b"GET / HTTP/1.1\r\n",
        b":x\r\n",
        b":\r\n",
        b"$x\r\n",
        b"$1\r\nabc\r\n",
        b"$?\r\n",
        b"#x\r\n",
        b"_x\r\n",
        b"_\xff\r\n",
        b",x\r\n",
        b"=2\r\nab\r\n",
        b"=-1\r\n",
        b"!-1\r\n",
        b"+\xff\r\n",
        b"-\xff\r\n",
        b"*1\r\n>1\r\n+x\r\n",
    ] {
        let error = read(bytes).unwrap_err();
        assert!(
            matches!(error, ReplyError::Malformed(_)),
            "{:?}: {error:?}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn inputs_of_the_fuzzer_are_read_alike_in_every_way() {
    for (_, input) in lockstock_testkit::fuzz_inputs("replies") {
        check(&input);
    }
}
