//! Rows that other transactions have locked.
//!
//! A stuck transaction must delay only the product whose row it has locked. The statement of a batch
//! skips such rows. Other connections wait for a lock only for a moment (see [`begin`]), and only while
//! fewer than the permitted number of connections wait. A write that finds its row locked gives the connection back, and tries again
//! later. Such a short wait is enough where servers take turns at a product: their transactions
//! take a few milliseconds, and Postgres serves those that wait in order.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};
use tokio::sync::SemaphorePermit;
use tokio::time::{Instant, sleep_until};

use super::pool::Database;

/// The maximum time that a statement waits for a lock, on a row or on anything else.
macro_rules! lock_timeout {
    () => {
        "50ms"
    };
}
pub(super) use lock_timeout;

const BEGIN: &str = concat!("BEGIN; SET LOCAL lock_timeout = '", lock_timeout!(), "'");

/// Pauses between attempts: the first, and the longest.
const MIN_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_millis(100);

/// Begins a transaction whose statements hardly wait for locks, in one round trip.
pub(super) async fn begin(
    connection: &mut PgConnection,
) -> sqlx::Result<Transaction<'_, Postgres>> {
    connection.begin_with(BEGIN).await
}

/// The treatment of a row that is locked elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockedRows {
    Skip,
    /// For as long as a statement may wait.
    Wait,
}

/// The attempts of one write.
pub(super) struct Attempts {
    deadline: Instant,
    pause: Duration,
}

impl Attempts {
    /// The last attempt begins at the deadline.
    pub(super) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            pause: MIN_PAUSE,
        }
    }

    /// Returns how the next attempt treats a locked row, with the permit to wait for it.
    pub(super) fn begin<'d>(
        &self,
        database: &'d Database,
    ) -> (LockedRows, Option<SemaphorePermit<'d>>) {
        match database.lock_wait_permits.try_acquire() {
            Ok(permit) => (LockedRows::Wait, Some(permit)),
            Err(_) => (LockedRows::Skip, None),
        }
    }

    /// Pauses after an attempt that found the row locked. Returns false if it was the last one.
    pub(super) async fn pause(&mut self) -> bool {
        let now = Instant::now();
        if self.deadline <= now {
            return false;
        }
        sleep_until(self.deadline.min(now + self.pause)).await;
        self.pause = (self.pause * 2).min(MAX_PAUSE);
        true
    }
}
