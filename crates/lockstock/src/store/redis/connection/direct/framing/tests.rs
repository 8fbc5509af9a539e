use super::*;

fn followed() -> Framing {
    Framing::new(Reading::REDIS_CRATE)
}

/// Returns where the replies in these bytes end, which arrive in pieces of a size.
fn ends(bytes: &[u8], size: usize) -> Vec<usize> {
    let (mut framing, mut ends, mut start) = (followed(), Vec::new(), 0);
    for piece in bytes.chunks(size) {
        let mut rest = piece;
        while let Some(length) = framing.advance(rest).unwrap() {
            rest = &rest[length..];
            ends.push(start + piece.len() - rest.len());
        }
        start += piece.len();
    }
    ends
}

/// Sends `head`, then `repeated` without end. Returns why that is rejected, and how much was sent.
fn rejected(head: &str, repeated: &str) -> (&'static str, usize) {
    let mut framing = followed();
    let chunk = repeated.repeat(1 + 64 * 1024 / repeated.len());
    let mut sent = 0;
    for bytes in std::iter::once(head).chain(std::iter::repeat(&*chunk)) {
        let mut rest = bytes.as_bytes();
        sent += rest.len();
        assert!(
            sent < 2 * MAX_REPLY_BYTES,
            "{head}{repeated}: it is accepted"
        );
        loop {
            match framing.advance(rest) {
                Ok(Some(length)) => rest = &rest[length..],
                Ok(None) => break,
                Err(ReplyError::Malformed(reason)) => return (reason, sent),
                Err(error) => panic!("{error:?}"),
            }
        }
    }
    unreachable!("the bytes have no end")
}

#[test]
fn replies_end_where_they_end_in_whatever_pieces_they_arrive() {
    let replies = [
        "+OK\r\n",
        "$-1\r\n",
        "$0\r\n\r\n",
        "$6\r\n\r\n+x\r\n\r\n",
        "*-1\r\n",
        "*0\r\n",
        "*2\r\n*1\r\n:1\r\n$1\r\n*\r\n",
        "%1\r\n+a\r\n~1\r\n#t\r\n",
        "|1\r\n+a\r\n+b\r\n:5\r\n",
        ">2\r\n$7\r\nmessage\r\n+x\r\n",
        ">0\r\n",
        "=5\r\ntxt:a\r\n",
        "!5\r\nERR a\r\n",
        "-ERR a\rb\n\r\n",
        "_\r\n",
        ",1.5\r\n",
        "(12345678901234567890\r\n",
    ];
    let bytes = replies.concat();
    let lengths = replies.iter().scan(0, |end, reply| {
        *end += reply.len();
        Some(*end)
    });
    let expected: Vec<_> = lengths.collect();
    for size in 1..=bytes.len() {
        assert_eq!(ends(bytes.as_bytes(), size), expected, "{size}");
    }
}

#[test]
fn a_huge_length_is_rejected_before_its_data() {
    for length in ["536870912", "9223372036854775807", "-9223372036854775808"] {
        for kind in ["$", "*", "~", "%", "|", ">", "=", "!"] {
            let head = format!("{kind}{length}\r\n");
            if length.starts_with('-') && matches!(kind, "$" | "*" | "~") {
                assert_eq!(ends(head.as_bytes(), 1), [head.len()], "a null");
                continue;
            }
            assert_eq!(rejected(&head, "x"), ("it is too large", head.len()));
        }
    }
    // The redis crate would wait for as many bytes as there are addresses.
    assert_eq!(rejected("=-1\r\n", "x").0, "it is too large");
    assert_eq!(rejected("!-1\r\n", "x").0, "it is too large");
}

#[test]
fn a_reply_without_end_is_rejected() {
    assert_eq!(rejected("+", "x").0, "a line is too long");
    assert_eq!(rejected("$", "1").0, "a line is too long");
    assert_eq!(rejected("", "*1\r\n").0, "it is too large");
    assert_eq!(rejected("", "%1\r\n+x\r\n").0, "it is too large");
    assert_eq!(rejected("", "|1\r\n+x\r\n+y\r\n").0, "it is too large");
    let kibibyte = format!("$1024\r\n{}\r\n", "x".repeat(1024));
    assert_eq!(rejected("*3000000\r\n", &kibibyte).0, "it is too large");
    assert_eq!(rejected("*3000000\r\n", "*1\r\n_\r\n").0, "it is too large");
    assert_eq!(rejected("", "x").0, "a line is too long");
    assert_eq!(rejected("", "x\r\n").0, "it begins with an unknown byte");
    assert_eq!(rejected("", "\r\n").0, "a line is empty");
}

#[test]
fn nothing_is_taken_after_what_is_rejected() {
    let mut framing = followed();
    for bytes in [&b"$536870912\r\n"[..], b"+OK\r\n", b""] {
        let error = framing.advance(bytes).unwrap_err();
        assert!(matches!(error, ReplyError::Malformed("it is too large")));
    }
}

#[test]
fn each_reply_has_the_whole_limit() {
    let mebibyte = vec![b'x'; 1024 * 1024];
    let head = format!("${}\r\n", 400 * mebibyte.len());
    let mut framing = followed();
    for _ in 0..3 {
        assert!(framing.advance(head.as_bytes()).unwrap().is_none());
        for _ in 0..400 {
            assert!(framing.advance(&mebibyte).unwrap().is_none());
        }
        assert_eq!(framing.advance(b"\r\n").unwrap(), Some(2));
    }
    // Push messages do not belong to the reply behind them.
    let push = b">2\r\n+message\r\n+x\r\n";
    let pushes = push.repeat(1000);
    let mut count = 0;
    while count < 4_000_000 {
        let mut rest = &pushes[..];
        while let Some(length) = framing.advance(rest).unwrap() {
            assert_eq!(length, push.len());
            rest = &rest[length..];
            count += 1;
        }
    }
}
