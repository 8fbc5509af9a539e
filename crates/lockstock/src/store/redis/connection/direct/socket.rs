//! Blocking sockets whose connects, reads and writes end at a deadline.

use std::error::Error as StdError;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use lockstock_fork::generation;
use redis::ConnectionAddr;
use socket2::{SockRef, TcpKeepalive};

/// How long a connection is silent before the kernel probes the peer.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long a write after the end of a call takes at most.
const LAST_WRITE: Duration = Duration::from_millis(20);
/// How long a wait lasts at most before it looks for signals: one that arrives just before the system
/// call does not interrupt it.
const MAX_UNSIGNALLED: Duration = Duration::from_secs(1);
const FORKED: &str = "the process was forked during the call";

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
#[derive(Debug, Clone)]
pub(super) struct Interrupted(pub(super) Arc<dyn StdError + Send + Sync>);

/// A connected socket.
pub(super) struct Socket {
    kind: Kind,
    limits: Limits,
    /// The present timeouts of the kernel: none longer than the time limit of a call, so that a
    /// short call sets neither.
    read_timeout: Duration,
    write_timeout: Duration,
    /// In which it was connected.
    generation: u64,
    /// Why the call has ended. Each later attempt fails too: TLS ignores the error of a write.
    interruption: Option<Interrupted>,
}

/// A connected socket whose reads and writes do not wait.
pub(super) struct NonBlockingSocket(Kind);

enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Limits {
    /// Returns the limits for the first half of the remaining time.
    pub(super) fn half(&self) -> io::Result<Self> {
        let half = self.remaining()? / 2;
        Ok(Self {
            deadline: self.deadline - half,
            on_interrupt: self.on_interrupt.clone(),
        })
    }

    /// Returns the time until the deadline.
    fn remaining(&self) -> io::Result<Duration> {
        match self.deadline.checked_duration_since(Instant::now()) {
            Some(remaining) if !remaining.is_zero() => Ok(remaining),
            _ => Err(ErrorKind::TimedOut.into()),
        }
    }

    fn interrupted(&self) -> Result<(), Interrupted> {
        let Some(on_interrupt) = &self.on_interrupt else {
            return Ok(());
        };
        let before = generation();
        on_interrupt().map_err(|reason| Interrupted(reason.into()))?;
        match generation() == before {
            true => Ok(()),
            // The reply is for the parent.
            false => Err(Interrupted(
                Box::<dyn StdError + Send + Sync>::from(FORKED).into(),
            )),
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
            generation: generation(),
            interruption: None,
        })
    }

    /// Admits one more write after the end of a call. Returns whether the socket belongs to this
    /// process.
    pub(super) fn begin_last(&mut self) -> bool {
        self.interruption = None;
        self.limits = Limits {
            deadline: Instant::now() + LAST_WRITE,
            on_interrupt: None,
        };
        self.generation == generation()
    }

    pub(super) fn set_limits(&mut self, limits: &Limits) {
        self.limits = limits.clone();
    }

    /// Lets reads and writes return at once, and gives up the limits of calls: for a caller that waits
    /// until the descriptor is ready.
    pub(super) fn into_nonblocking(self) -> io::Result<NonBlockingSocket> {
        self.kind.set_nonblocking(true)?;
        Ok(NonBlockingSocket(self.kind))
    }

    /// Returns whether the peer has neither closed the connection nor sent anything.
    pub(super) fn is_quiet(&self) -> bool {
        matches!(self.kind.poll_readable(Duration::ZERO), Ok(false))
    }

    /// Waits until there is something to read, which may be the end of the connection, or `until` has
    /// passed, whatever the deadline of a call is.
    pub(super) fn wait_readable(&mut self, until: Instant) -> io::Result<bool> {
        loop {
            if let Some(reason) = &self.interruption {
                return Err(reason.clone().into());
            }
            let remaining = until.saturating_duration_since(Instant::now());
            let pause = match self.limits.on_interrupt {
                Some(_) => remaining.min(MAX_UNSIGNALLED),
                None => remaining,
            };
            match self.kind.poll_readable(pause) {
                Ok(true) => return Ok(true),
                Ok(false) if pause == remaining => return Ok(false),
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                Ok(false) | Err(_) => self.interruption = self.limits.interrupted().err(),
            }
        }
    }

    /// Calls the system until it does something or the deadline has passed.
    fn attempt(
        &mut self,
        mut call: impl FnMut(&mut Self, Duration) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            if let Some(reason) = &self.interruption {
                return Err(reason.clone().into());
            }
            let remaining = self.limits.remaining()?;
            match call(self, remaining) {
                Err(error) => match error.kind() {
                    ErrorKind::Interrupted => self.interruption = self.limits.interrupted().err(),
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

impl Read for NonBlockingSocket {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.read(into)
    }
}

impl Write for NonBlockingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(unix)]
impl AsFd for NonBlockingSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(unix)]
impl AsFd for Kind {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
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

    #[cfg(unix)]
    fn poll_readable(&self, pause: Duration) -> io::Result<bool> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};

        let pause = Timespec::try_from(pause).ok();
        let ready = poll(&mut [PollFd::new(self, PollFlags::IN)], pause.as_ref())?;
        Ok(ready > 0)
    }

    #[cfg(not(unix))]
    fn poll_readable(&self, pause: Duration) -> io::Result<bool> {
        let Self::Tcp(stream) = self;
        let before = stream.read_timeout()?;
        // Zero would be without a limit.
        stream.set_read_timeout(Some(pause.max(Duration::from_millis(1))))?;
        let peeked = stream.peek(&mut [0]);
        stream.set_read_timeout(before)?;
        match peeked {
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn set_nonblocking(&self, is_nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(is_nonblocking),
            #[cfg(unix)]
            Self::Unix(stream) => stream.set_nonblocking(is_nonblocking),
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

impl From<Interrupted> for io::Error {
    fn from(reason: Interrupted) -> Self {
        Self::other(reason)
    }
}
