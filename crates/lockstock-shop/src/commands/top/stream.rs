//! The live events of a server.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use lockstock::redact_url;
use reqwest::header::ACCEPT;
use reqwest::{Client, Response, StatusCode, Url};
use tokio::time::timeout;

use crate::commands::api_client::root_cause;
use crate::live::wire::{Frame, Snapshot};

/// A server sends a comment every 15 s, so a connection that is silent for longer is broken.
const MAX_SILENCE: Duration = Duration::from_secs(40);
/// Maximum size of an event. A snapshot of all that a server remembers is smaller.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// A change of what is known.
#[derive(Debug)]
pub(super) enum Update {
    /// Replaces all that is known.
    Snapshot(Option<String>, Box<Snapshot>),
    Frame(Option<String>, Box<Frame>),
    /// The server shuts down.
    Bye,
}

/// An open stream.
pub(super) struct Events {
    response: Response,
    unread: Vec<u8>,
    updates: VecDeque<Update>,
}

impl Events {
    pub(super) async fn open(
        client: &Client,
        base: &Url,
        last_event_id: Option<&str>,
    ) -> anyhow::Result<Self> {
        let url = base.join("api/locks/events")?;
        let shown = redact_url(url.as_str());
        let mut request = client.get(url).header(ACCEPT, "text/event-stream");
        if let Some(id) = last_event_id {
            request = request.header("Last-Event-ID", id);
        }
        let response = timeout(MAX_SILENCE, request.send())
            .await
            .with_context(|| format!("no response from {shown} within {MAX_SILENCE:?}"))?
            .map_err(|error| {
                let cause = root_cause(&error);
                anyhow!(
                    "no response from {shown} ({cause}): is the server running? Start it with \
                     `lockstock`, or choose another with --url"
                )
            })?;
        match response.status() {
            StatusCode::OK => Ok(Self {
                response,
                unread: Vec::new(),
                updates: VecDeque::new(),
            }),
            status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => bail!(
                "{shown} responded with {status}: give the secret of an API key in the variable \
                 LOCKSTOCK_API_KEY, or in a file with --secret-file"
            ),
            StatusCode::NOT_FOUND => {
                bail!("{shown} responded with 404: is --url the URL of a Lockstock server?")
            }
            status => bail!("{shown} responded with {status}"),
        }
    }

    /// Waits for the next update.
    pub(super) async fn next(&mut self) -> anyhow::Result<Update> {
        loop {
            if let Some(update) = self.updates.pop_front() {
                return Ok(update);
            }
            let chunk = timeout(MAX_SILENCE, self.response.chunk()).await;
            let chunk = chunk.map_err(|_| anyhow!("the server is silent"))?;
            let chunk = chunk.map_err(|error| anyhow!(root_cause(&error)))?;
            let chunk = chunk.context("the stream has ended")?;
            self.unread.extend_from_slice(&chunk);
            self.read_events()?;
            if self.unread.len() > MAX_EVENT_BYTES {
                bail!("an event is too large");
            }
        }
    }

    fn read_events(&mut self) -> anyhow::Result<()> {
        let mut begin = 0;
        while let Some(length) = end_of_event(&self.unread[begin..]) {
            let event = str::from_utf8(&self.unread[begin..begin + length])?;
            self.updates.extend(parse(event)?);
            begin += length;
        }
        self.unread.drain(..begin);
        Ok(())
    }
}

/// Returns the length of the first event with the blank line that ends it.
fn end_of_event(bytes: &[u8]) -> Option<usize> {
    let at = bytes.windows(2).position(|two| two == b"\n\n")?;
    Some(at + 2)
}

/// Parses an event. `None` for a comment, and for an event of a later version.
fn parse(event: &str) -> anyhow::Result<Option<Update>> {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name));
    let id = field("id: ").map(str::to_owned);
    let data = field("data: ").unwrap_or_default();
    Ok(match field("event: ") {
        Some("snapshot") => Some(Update::Snapshot(id, serde_json::from_str(data)?)),
        Some("frame") => Some(Update::Frame(id, serde_json::from_str(data)?)),
        Some("bye") => Some(Update::Bye),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_parsed_and_comments_skipped() {
        assert_eq!(end_of_event(b": \n\nid"), Some(4));
        assert_eq!(end_of_event(b"id: x\n"), None);
        assert!(parse(": \n\n").unwrap().is_none());
        assert!(parse("retry: 2000\n\n").unwrap().is_none());
        let frame = parse("id: a-1\nevent: frame\ndata: {\"server\":\"s\",\"new\":1}\n\n");
        let Some(Update::Frame(Some(id), frame)) = frame.unwrap() else {
            panic!("no frame")
        };
        assert_eq!((&*id, &*frame.server), ("a-1", "s"));
        assert!(parse("event: frame\ndata: {\n\n").is_err());
    }
}
