//! Messages to systemd about the state of the server (`Type=notify`, see sd_notify(3)).

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::interval;
use tracing::warn;

/// The service manager that has started this process, if there is one.
pub(super) struct ServiceManager {
    socket: Option<(UnixDatagram, SocketAddr)>,
    /// Without a message for this time, the service manager kills the process.
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// Reads `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `WATCHDOG_PID`.
    pub(super) fn from_environment() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").filter(|address| !address.is_empty());
        let socket = address.and_then(|address| match open(&address) {
            Ok(socket) => Some(socket),
            Err(error) => {
                warn!(%error, ?address, "cannot notify the service manager");
                None
            }
        });
        let variable = |name| std::env::var(name).ok();
        // Of the process that the variables were meant for.
        let is_own = variable("WATCHDOG_PID").is_none_or(|id| id == std::process::id().to_string());
        let watchdog = variable("WATCHDOG_USEC")
            .filter(|_| is_own)
            .and_then(|micros| micros.parse().ok())
            .filter(|micros| *micros > 0);
        Self {
            socket,
            watchdog: watchdog.map(Duration::from_micros),
        }
    }

    /// Reports that the server answers requests.
    pub(super) fn ready(&self) {
        self.notify("READY=1\nSTATUS=serving");
    }

    /// Reports that the server finishes its requests and stops.
    pub(super) fn stopping(&self) {
        self.notify("STOPPING=1\nSTATUS=finishing requests in progress");
    }

    /// Reports at twice the rate that is required that the runtime runs. Never completes.
    pub(super) async fn feed_watchdog(&self) {
        if let Some(period) = self.watchdog {
            let mut ticks = interval(period / 2);
            loop {
                ticks.tick().await;
                self.notify("WATCHDOG=1");
            }
        }
        std::future::pending().await
    }

    fn notify(&self, message: &str) {
        if let Some((socket, address)) = &self.socket
            && let Err(error) = socket.send_to_addr(message.as_bytes(), address)
        {
            warn!(%error, "cannot notify the service manager");
        }
    }
}

/// Opens a socket to an address, which is a path or `@` and an abstract name.
fn open(address: &OsString) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match address.as_bytes() {
        [b'@', name @ ..] => abstract_address(name)?,
        _ => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    // A service manager that does not read must not block a request.
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> io::Result<SocketAddr> {
    use std::os::linux::net::SocketAddrExt;
    SocketAddr::from_abstract_name(name)
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> io::Result<SocketAddr> {
    Err(io::ErrorKind::Unsupported.into())
}
