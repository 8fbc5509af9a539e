//! Free ports that are likely to stay free.

use std::hash::{BuildHasher, RandomState};
use std::net::TcpListener;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Returns a port of 127.0.0.1 that has no listener.
///
/// The port is not reserved: another process may take it first. Prefer port 0
/// for a listener where it can be used.
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
    // A counter from a random start: two threads, or two test processes
    // started together, are unlikely to get the same port.
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

/// Stops listening at once, unlike closing.
///
/// While any thread starts a process, the child has a copy of every open
/// socket from fork to exec, and a listener with a copy goes on accepting.
pub(crate) fn stop_listening(listener: &impl AsFd) {
    // Fails only if it does not listen any more.
    let _ = rustix::net::shutdown(listener, rustix::net::Shutdown::Both);
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
        // Every port of this machine is ephemeral: no range is better.
        FROM..u16::MAX
    }
}
