//! The clock of a server, and the time to its reply.

use std::time::{Duration, Instant, SystemTime};

use super::finding::Finding;

const MAX_SAMPLES: u32 = 21;

/// No further reply is measured after this time.
const MAX_TIME: Duration = Duration::from_secs(2);

/// A round trip that is not on one network. An update makes several.
const MAX_ROUND_TRIP: Duration = Duration::from_millis(10);

/// Clocks that are synchronized differ by less.
const MAX_OFFSET_SECS: f64 = 1.0;

/// What the fastest of several replies has shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measurement {
    round_trip: Duration,
    /// Seconds by which the clock of the server is ahead of that of this machine.
    offset_secs: f64,
}

/// Reads the clock of a server several times. The fastest reply is the one that the load of this
/// machine has delayed least.
pub(super) async fn measure<E>(
    mut read: impl AsyncFnMut() -> Result<SystemTime, E>,
) -> Result<Measurement, E> {
    let mut fastest = sample(&mut read).await?;
    let began_at = Instant::now();
    for _ in 1..MAX_SAMPLES {
        if began_at.elapsed() > MAX_TIME {
            break;
        }
        let measured = sample(&mut read).await?;
        if measured.round_trip < fastest.round_trip {
            fastest = measured;
        }
    }
    Ok(fastest)
}

async fn sample<E>(
    read: &mut impl AsyncFnMut() -> Result<SystemTime, E>,
) -> Result<Measurement, E> {
    let (began_at, local_time) = (Instant::now(), SystemTime::now());
    let time = read().await?;
    let round_trip = began_at.elapsed();
    Ok(Measurement {
        round_trip,
        // The server has read its clock in the middle.
        offset_secs: secs_between(local_time + round_trip / 2, time),
    })
}

fn secs_between(from: SystemTime, to: SystemTime) -> f64 {
    match to.duration_since(from) {
        Ok(ahead) => ahead.as_secs_f64(),
        Err(behind) => -behind.duration().as_secs_f64(),
    }
}

impl Measurement {
    /// Returns the finding about the time to a reply.
    pub(super) fn latency(self, check: &'static str, server: &str) -> Finding {
        let millis = self.round_trip.as_secs_f64() * 1e3;
        let what = format!("{server} replies within {millis:.2} ms");
        if self.round_trip <= MAX_ROUND_TRIP {
            return Finding::ok(check, what);
        }
        Finding::warning(
            check,
            what,
            "a request waits for several replies, and a lock that passes from one server to another \
             does too",
            format!("run {server} in the same network as this server"),
        )
    }

    /// Returns the finding about the offset of the clock.
    pub(super) fn clock(self, check: &'static str, server: &str, why: &str) -> Finding {
        let offset = self.offset_secs;
        if offset.abs() <= MAX_OFFSET_SECS {
            let what = format!("the clock of {server} differs by {:.3} s", offset.abs());
            return Finding::ok(check, what);
        }
        let direction = if offset < 0.0 { "behind" } else { "ahead of" };
        let what = format!(
            "the clock of {server} is {:.3} s {direction} that of this machine",
            offset.abs()
        );
        Finding::warning(
            check,
            what,
            why,
            "timedatectl set-ntp true (on both machines)",
        )
    }
}
