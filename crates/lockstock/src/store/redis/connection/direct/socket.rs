//! Blocking sockets whose connects, reads and writes end at a deadline.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use redis::ConnectionAddr;
use socket2::{SockRef, TcpKeepalive};

/// How long a connection is silent before the kernel probes the peer.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// What runs when a signal has interrupted a call. An error ends the call.
pub(crate) type OnInterrupt =
    Arc<dyn Fn() -> Result<(), Box<dyn StdError + Send + Sync>> + Send + Sync>;

/// The limits of a call.
#[derive(Clone)]
pub(in crate::store) struct Limits {
    pub(in crate::store) deadline: Instant,
    pub(in crate::store) on_interrupt: Option<OnInterrupt>,
}

/// The error of [`OnInterrupt`], in an [`io::Error`].
#[derive(Debug)]
pub(super) struct Interrupted(pub(super) Box<dyn StdError + Send + Sync>);

/// A connected socket.
pub(super) struct Socket {
    kind: Kind,
    limits: Limits,
    /// The present timeouts of the kernel: none longer than the time limit of a call, so that a
    /// short call sets neither.
    read_timeout: Duration,
    write_timeout: Duration,
}

enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Limits {
    /// Returns the time until the deadline.
    fn remaining(&self) -> io::Result<Duration> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(remaining) if !remaining.is_zero() => Ok(remaining),
            _ => Err(ErrorKind::TimedOut.into()),
        }
    }

    fn interrupted(&self) -> io::Result<()> {
        match &self.on_interrupt {
            Some(on_interrupt) => on_interrupt().map_err(|e| io::Error::other(Interrupted(e))),
            None => Ok(()),
        }
    }
}

impl Socket {
    pub(super) fn connect(address: &ConnectionAddr, limits: &Limits) -> io::Result<Self> {
        let kind = match address {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                let stream = connect(&resolve(host, *port, limits)?, limits)?;
                // A command is one write, and its caller waits for the reply.
                stream.set_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                Kind::Tcp(stream)
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Kind::Unix(connect_unix(path, limits)?),
            _ => return Err(ErrorKind::Unsupported.into()),
        };
        let remaining = limits.remaining()?;
        kind.set_read_timeout(remaining)?;
        kind.set_write_timeout(remaining)?;
        Ok(Self {
            kind,
            limits: limits.clone(),
            read_timeout: remaining,
            write_timeout: remaining,
        })
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// Returns whether the peer has neither closed the connection nor sent anything.
    pub(super) fn is_quiet(&mut self) -> bool {
        let read = |kind: &mut Kind| {
            kind.set_nonblocking(true)?;
            let read = kind.read(&mut [0]);
            kind.set_nonblocking(false)?;
            read
        };
        matches!(read(&mut self.kind), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Calls the system until it does something or the deadline has passed.
    fn attempt(
        &mut self,
        mut call: impl FnMut(&mut Self, Duration) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let remaining = self.limits.remaining()?;
            match call(self, remaining) {
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => self.limits.interrupted()?,
                    // The kernel's timeout.
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => {}
                    _ => return Err(error),
                },
                done => return done,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.attempt(|socket, remaining| {
            if !is_fitting(socket.read_timeout, remaining) {
                socket.kind.set_read_timeout(remaining)?;
                socket.read_timeout = remaining;
            }
            socket.kind.read(into)
        })
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.attempt(|socket, remaining| {
            if !is_fitting(socket.write_timeout, remaining) {
                socket.kind.set_write_timeout(remaining)?;
                socket.write_timeout = remaining;
            }
            socket.kind.write(bytes)
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns whether a timeout of the kernel can stay as it is: at most a fiftieth longer than the
/// remaining time, and not so short that it is over much earlier.
fn is_fitting(timeout: Duration, remaining: Duration) -> bool {
    timeout <= remaining + remaining / 50 && timeout >= remaining / 2
}

impl Kind {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            #[cfg(unix)]
            Self::Unix(stream) => stream.read(into),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            Self::Unix(stream) => stream.write(bytes),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }

    fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(is_nonblocking),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_nonblocking(is_nonblocking),
        }
    }
}

/// Returns the addresses of a name.
fn resolve(host: &str, port: u16, limits: &Limits) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    // On a thread of its own, which ends when the resolver does: its timeouts are much longer.
    let (sender, addresses) = mpsc::sync_channel(1);
    let host = host.to_owned();
    thread::Builder::new()
        .name("lockstock-resolve".to_owned())
        .spawn(move || {
            let addresses = (&*host, port).to_socket_addrs();
            let _ = sender.send(addresses.map(Iterator::collect));
        })?;
    match addresses.recv_timeout(limits.remaining()?) {
        Ok(addresses) => addresses,
        Err(RecvTimeoutError::Timeout) => Err(ErrorKind::TimedOut.into()),
        Err(RecvTimeoutError::Disconnected) => Err(io::Error::other("the resolver failed")),
    }
}

/// Connects to the first address that accepts. Each has an equal share of the remaining time, so
/// that one that drops packets does not take it from the others.
pub(super) fn connect(addresses: &[SocketAddr], limits: &Limits) -> io::Result<TcpStream> {
    let mut last = io::Error::new(ErrorKind::NotFound, "the host has no address");
    for (position, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - position).unwrap_or(u32::MAX);
        match TcpStream::connect_timeout(address, limits.remaining()? / left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Connects with a time limit, which std's sockets do not have: a server whose queue of new
/// connections is full blocks the caller.
#[cfg(unix)]
fn connect_unix(path: &std::path::Path, limits: &Limits) -> io::Result<UnixStream> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    let address = socket2::SockAddr::unix(path)?;
    loop {
        socket.set_write_timeout(Some(limits.remaining()?))?;
        match socket.connect(&address) {
            Ok(()) => return Ok(socket.into()),
            Err(error) => match error.kind() {
                ErrorKind::Interrupted => limits.interrupted()?,
                ErrorKind::WouldBlock => {}
                _ => return Err(error),
            },
        }
    }
}

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Interrupted {}
