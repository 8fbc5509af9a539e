//! One blocking connection: how it is opened, and how commands and replies go over it.

use std::io::{self, ErrorKind, Read, Write};
use std::time::Instant;

use redis::{Cmd, Value};

use super::reply::{MAX_REPLY_BYTES, Received, ReplyError, ReplyReader};
use super::socket::{Interrupted, Limits, Socket};
use super::{DirectError, Target};
use crate::error::explain;

/// How much of the memory for outgoing commands a connection keeps.
const MAX_KEPT_OUTPUT_BYTES: usize = 64 * 1024;

pub(super) struct Link {
    stream: Stream,
    replies: ReplyReader,
    /// Commands as they are sent.
    output: Vec<u8>,
}

enum Stream {
    Plain(Socket),
    #[cfg(feature = "tls")]
    Tls(Box<rustls::StreamOwned<rustls::ClientConnection, Socket>>),
}

impl Link {
    /// Connects, authenticates and selects the database.
    pub(super) fn open(target: &Target, limits: &Limits) -> Result<Self, DirectError> {
        let socket = Socket::connect(target.info.addr(), limits).map_err(unreachable)?;
        let mut link = Self {
            stream: target.encrypt(socket).map_err(unreachable)?,
            replies: ReplyReader::new(MAX_REPLY_BYTES),
            output: Vec::new(),
        };
        let setup = target.setup();
        link.send(setup.iter()).map_err(was_opening)?;
        for _ in &setup {
            let reply = link.receive().map_err(was_opening)?;
            reply
                .extract_error()
                .map_err(|error| DirectError::Unreachable(explain(&error)))?;
        }
        Ok(link)
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        match &mut self.stream {
            Stream::Plain(socket) => socket.set_limits(limits),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.sock.set_limits(limits),
        }
    }

    /// Returns whether the connection can take a command: the server has not closed it, and has
    /// sent nothing since the last reply.
    pub(super) fn is_quiet(&self) -> bool {
        match &self.stream {
            Stream::Plain(socket) => socket.is_quiet(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.sock.is_quiet(),
        }
    }

    /// Returns whether every reply has been read to its end, and nothing has arrived after it.
    pub(super) fn is_settled(&self) -> bool {
        self.replies.is_empty()
    }

    pub(super) fn send<'a>(
        &mut self,
        commands: impl Iterator<Item = &'a Cmd>,
    ) -> Result<(), DirectError> {
        self.output.clear();
        commands.for_each(|command| command.write_packed_command(&mut self.output));
        let sent = match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(&self.output),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.write_all(&self.output).and_then(|()| stream.flush()),
        };
        if self.output.capacity() > MAX_KEPT_OUTPUT_BYTES {
            self.output = Vec::new();
        }
        sent.map_err(broken)
    }

    /// Gives up the socket, of which nothing may have been read that was not returned. `None` with TLS.
    pub(super) fn into_socket(self) -> Option<Socket> {
        match self.stream {
            Stream::Plain(socket) if self.replies.is_empty() => Some(socket),
            _ => None,
        }
    }

    /// Sends a command to whose reply no caller waits, if that is possible at once. The connection has
    /// to be dropped then. In a child of `fork`, the connection is that of its parent: nothing is sent.
    pub(super) fn send_last(&mut self, command: &Cmd) {
        let is_own = match &mut self.stream {
            Stream::Plain(socket) => socket.begin_last(),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => stream.sock.begin_last(),
        };
        if is_own {
            // Whether it fails makes no difference to its caller.
            let _ = self.send(std::iter::once(command));
        }
    }

    /// Waits for the next reply, which may be an error of the server.
    pub(super) fn receive(&mut self) -> Result<Value, DirectError> {
        self.replies.read(&mut self.stream).map_err(no_reply)
    }

    /// Waits for the next reply or push message.
    pub(super) fn receive_any(&mut self) -> Result<Received, DirectError> {
        self.replies.next(&mut self.stream).map_err(no_reply)
    }

    /// Waits until [`receive_any`](Self::receive_any) has something to read or `until` has passed.
    pub(super) fn wait_readable(&mut self, until: Instant) -> Result<bool, DirectError> {
        if !self.replies.is_empty() {
            return Ok(true);
        }
        let waited = match &mut self.stream {
            Stream::Plain(socket) => socket.wait_readable(until),
            #[cfg(feature = "tls")]
            Stream::Tls(stream) => wait_readable(stream, until),
        };
        waited.map_err(broken)
    }
}

impl Target {
    #[cfg(feature = "tls")]
    fn encrypt(&self, socket: Socket) -> io::Result<Stream> {
        let Some((config, name)) = self.tls.session(self.info.addr())? else {
            return Ok(Stream::Plain(socket));
        };
        let session = rustls::ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = rustls::StreamOwned::new(session, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Stream::Tls(Box::new(stream)))
    }

    #[cfg(not(feature = "tls"))]
    fn encrypt(&self, socket: Socket) -> io::Result<Stream> {
        match self.info.addr() {
            redis::ConnectionAddr::TcpTls { .. } => Err(ErrorKind::Unsupported.into()),
            _ => Ok(Stream::Plain(socket)),
        }
    }

    /// Returns the commands that a new connection begins with.
    fn setup(&self) -> Vec<Cmd> {
        let settings = self.info.redis_settings();
        let mut hello = redis::cmd("HELLO");
        hello.arg(3);
        if let Some(password) = settings.password() {
            let username = settings.username().unwrap_or("default");
            hello.arg("AUTH").arg(username).arg(password);
        }
        let mut setup = vec![hello];
        if settings.db() != 0 {
            setup.push(redis::cmd("SELECT").arg(settings.db()).take());
        }
        setup
    }
}

impl Read for Stream {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(into),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.read(into),
        }
    }
}

/// Waits until a session has something to read. Not everything that arrives is: there are messages of
/// the protocol, too.
#[cfg(feature = "tls")]
fn wait_readable(
    stream: &mut rustls::StreamOwned<rustls::ClientConnection, Socket>,
    until: Instant,
) -> io::Result<bool> {
    loop {
        let state = stream.conn.process_new_packets();
        let state = state.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        if state.plaintext_bytes_to_read() > 0 || state.peer_has_closed() {
            return Ok(true);
        }
        if !stream.sock.wait_readable(until)? {
            return Ok(false);
        }
        if stream.conn.read_tls(&mut stream.sock)? == 0 {
            return Ok(true);
        }
    }
}

pub(super) fn no_reply(error: ReplyError) -> DirectError {
    match error {
        ReplyError::Io(error) => broken(error),
        ReplyError::Malformed(reason) => DirectError::Broken {
            reason: format!("the reply is malformed: {reason}"),
            is_disconnect: false,
        },
    }
}

/// The error of a command that may have been sent.
pub(super) fn broken(error: io::Error) -> DirectError {
    match classify(error) {
        Ok(error) => DirectError::Broken {
            is_disconnect: matches!(
                error.kind(),
                ErrorKind::BrokenPipe
                    | ErrorKind::ConnectionAborted
                    | ErrorKind::ConnectionReset
                    | ErrorKind::NotConnected
                    | ErrorKind::UnexpectedEof
            ),
            reason: error.to_string(),
        },
        Err(error) => error,
    }
}

/// The error of a connection on which no command was sent.
fn unreachable(error: io::Error) -> DirectError {
    classify(error).map_or_else(
        |error| error,
        |error| DirectError::Unreachable(error.to_string()),
    )
}

pub(super) fn was_opening(error: DirectError) -> DirectError {
    match error {
        DirectError::Broken { reason, .. } => DirectError::Unreachable(reason),
        error => error,
    }
}

fn classify(error: io::Error) -> Result<io::Error, DirectError> {
    if error.kind() == ErrorKind::TimedOut {
        return Err(DirectError::TimedOut);
    }
    match error.downcast::<Interrupted>() {
        Ok(Interrupted(reason)) => Err(DirectError::Interrupted(reason)),
        Err(error) => Ok(error),
    }
}
