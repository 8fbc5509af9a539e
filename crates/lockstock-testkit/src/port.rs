//! Ports that are free, and likely to stay so.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A port of 127.0.0.1 that nobody listens on now.
///
/// Nothing reserves it: somebody else may take it before the caller does. Who
/// can listen on port 0 should do that instead.
///
/// The port lies *below* the range that the kernel gives to outgoing
/// connections. Inside that range, a client that keeps trying to reach a
/// server which is down will one day be given the server's own port, connect
/// to itself, and keep the server from ever coming back.
///
/// ```
/// let port = lockstock_testkit::free_port();
/// std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
/// ```
pub fn free_port() -> u16 {
    // A counter from a random start: neither two threads of this process nor
    // two test processes started together are likely to get the same answer.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| {
        let random = RandomState::new().hash_one(std::process::id());
        AtomicU64::new(random >> 1)
    });
    let range = range();
    for _ in 0..range.len() {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) % range.len() as u64;
        let port = range.start + step as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            stop_listening(&listener);
            return port;
        }
    }
    panic!("no free port of 127.0.0.1 in {range:?}");
}

/// Ends listening at once, which closing does not.
///
/// While any thread starts a process, the child has a copy of every open
/// socket from fork to exec, and a listener with a copy goes on accepting.
pub(crate) fn stop_listening(listener: &impl AsRawFd) {
    // SAFETY: shutdown(2) takes plain numbers; the descriptor is open.
    unsafe {
        libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR);
    }
}

fn range() -> Range<u16> {
    const FROM: u16 = 10_000;
    let ephemeral = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|text| text.split_whitespace().next()?.parse::<u16>().ok())
        .unwrap_or(32_768);
    if ephemeral > FROM + 1_000 {
        FROM..ephemeral
    } else {
        // Everything is ephemeral on this machine: any port is as good.
        FROM..u16::MAX
    }
}
