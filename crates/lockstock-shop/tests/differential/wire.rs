//! As much of HTTP/1.1 as it takes to send any bytes at all and to read one answer.
//!
//! A real client would not do: it refuses or repairs half of what the cases send.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Far beyond what a loaded machine needs; reaching it is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Sends `request` to a port of this machine and reads until the server hangs up.
pub(crate) fn exchange(port: u16, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server may answer and hang up before it has read a body that it refuses.
    let sent = stream.write_all(request);
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        _ if received.is_empty() => sent?,
        _ => {}
    }
    Answer::parse(&received).ok_or_else(|| {
        let text = String::from_utf8_lossy(&received);
        std::io::Error::new(ErrorKind::InvalidData, format!("no HTTP answer: {text:?}"))
    })
}

impl Answer {
    fn parse(received: &[u8]) -> Option<Answer> {
        let end = received.windows(4).position(|four| four == b"\r\n\r\n")?;
        let head = str::from_utf8(&received[..end]).ok()?;
        let mut lines = head.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines
            .map(|line| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            })
            .collect::<Option<_>>()?;
        let mut answer = Answer {
            status,
            headers,
            body: received[end + 4..].to_vec(),
        };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body)?;
        }
        Some(answer)
    }

    /// A header's value, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| &**value)
    }

    /// The media type of the body, without parameters.
    pub(crate) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next()?.trim().to_ascii_lowercase())
    }

    /// The body, if it is JSON.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// The id of the product that this answer says has been made.
    pub(crate) fn new_id(&self) -> Option<String> {
        let made = (self.status == 201).then(|| self.json()).flatten()?;
        Some(made.get("id")?.to_string())
    }
}

fn unchunk(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        // HEAD and some redirects announce chunks and send none.
        if chunks.is_empty() {
            return Some(body);
        }
        let end = chunks.windows(2).position(|two| two == b"\r\n")?;
        let size = usize::from_str_radix(str::from_utf8(&chunks[..end]).ok()?, 16).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend(chunks.get(end + 2..end + 2 + size)?);
        chunks = chunks.get(end + 2 + size + 2..)?;
    }
}

/// What a reader of a failure needs, on a line or two.
impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let shown = [
            "content-type",
            "allow",
            "vary",
            "location",
            "etag",
            "retry-after",
        ];
        for name in shown {
            if let Some(value) = self.header(name) {
                write!(f, "  {name}: {value}")?;
            }
        }
        let body = String::from_utf8_lossy(&self.body);
        let body = body.trim().replace('\n', " ");
        write!(
            f,
            "\n         {}",
            body.chars().take(600).collect::<String>()
        )
    }
}
