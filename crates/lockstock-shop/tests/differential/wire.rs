//! A minimal HTTP/1.1 client that sends arbitrary bytes and reads one response.
//!
//! A regular client would reject or repair half of the cases.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Upper bound of every read and write, generous for a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A response with its whole body.
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names are in lower case.
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Sends `request` to a local port and reads until the server closes the connection.
pub(crate) fn exchange(port: u16, request: &[u8]) -> std::io::Result<Response> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server may respond and close the connection before it has read a rejected body.
    let sent = stream.write_all(request);
    let mut received = Vec::new();
    match stream.read_to_end(&mut received) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
        _ if received.is_empty() => sent?,
        _ => {}
    }
    Response::parse(&received).ok_or_else(|| {
        let text = String::from_utf8_lossy(&received);
        std::io::Error::new(
            ErrorKind::InvalidData,
            format!("no HTTP response: {text:?}"),
        )
    })
}

impl Response {
    fn parse(received: &[u8]) -> Option<Response> {
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
        let mut response = Response {
            status,
            headers,
            body: received[end + 4..].to_vec(),
        };
        if response.header("transfer-encoding") == Some("chunked") {
            response.body = unchunk(&response.body)?;
        }
        Some(response)
    }

    /// Returns the value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name);
        found.map(|(_, value)| &**value)
    }

    /// Returns the media type of the body, without parameters.
    pub(crate) fn media_type(&self) -> Option<String> {
        let value = self.header("content-type")?;
        Some(value.split(';').next()?.trim().to_ascii_lowercase())
    }

    /// Returns the body if it is JSON.
    pub(crate) fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Returns the id of the created product if this is a 201.
    pub(crate) fn new_id(&self) -> Option<String> {
        let created = (self.status == 201).then(|| self.json()).flatten()?;
        Some(created.get("id")?.to_string())
    }
}

fn unchunk(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        // HEAD and some redirects announce chunks but send none.
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

/// Shows what helps to understand a failure.
impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.status)?;
        let shown = [
            "content-type",
            "allow",
            "vary",
            "location",
            "etag",
            "retry-after",
            "www-authenticate",
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
