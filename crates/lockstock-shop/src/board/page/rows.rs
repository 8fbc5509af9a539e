//! Rows of the tables, with values as the templates print them.

use std::time::Duration;

use chrono::{DateTime, Utc};

use super::Page;
use crate::live::wire::{Episode, EpisodeEnd, LockState, LockStatus, Requester};
use crate::storage::{LedgerEntry, Product};
use crate::timestamp;

/// Number of digits that name the client of another program.
const CLIENT_DIGITS: usize = 8;

/// A lock that is held, kept or waited for.
#[derive(Debug, Clone, Default)]
pub(in crate::board) struct LockRow {
    pub(in crate::board) name: String,
    /// The product whose update lock it is; empty for other locks.
    pub(in crate::board) product_name: String,
    pub(in crate::board) is_kept: bool,
    /// The caller of the request that holds it, its address, or the id of the client.
    pub(in crate::board) holder: String,
    pub(in crate::board) waiting: u32,
    /// Rest of the lease.
    pub(in crate::board) left: Duration,
}

/// One time that a lock was held.
#[derive(Debug, Clone, Default)]
pub(in crate::board) struct EpisodeRow {
    pub(in crate::board) lock: String,
    pub(in crate::board) holder: String,
    pub(in crate::board) from: DateTime<Utc>,
    pub(in crate::board) lasted: Duration,
    pub(in crate::board) waited: u32,
    pub(in crate::board) longest_wait: Duration,
    pub(in crate::board) refused: u32,
    pub(in crate::board) ended: &'static str,
}

/// A product.
#[derive(Debug, Clone, Default)]
pub(in crate::board) struct ProductRow {
    pub(in crate::board) id: i64,
    pub(in crate::board) name: String,
    pub(in crate::board) price: i64,
    pub(in crate::board) stock: i64,
    pub(in crate::board) held: i64,
    pub(in crate::board) available: i64,
    pub(in crate::board) version: i64,
}

/// A ledger entry.
#[derive(Debug, Clone, Default)]
pub(in crate::board) struct EntryRow {
    pub(in crate::board) version: i64,
    pub(in crate::board) reason: &'static str,
    pub(in crate::board) delta: i64,
    pub(in crate::board) stock_after: i64,
    pub(in crate::board) caller: String,
    pub(in crate::board) request: String,
    pub(in crate::board) fence: Option<i64>,
    pub(in crate::board) at: DateTime<Utc>,
}

impl LockRow {
    /// `at` is the time of the list.
    pub(in crate::board) fn of(lock: &LockStatus, at: i64, products: &[ProductRow]) -> Self {
        let product = products
            .iter()
            .find(|product| lock.product == Some(product.id));
        let holder = lock.holder.as_ref();
        let until = holder.and_then(|holder| holder.until).unwrap_or(at);
        Self {
            name: lock.name.clone(),
            product_name: product.map_or(String::new(), |product| product.name.clone()),
            is_kept: lock.state == LockState::Kept,
            holder: holder.map_or(String::new(), |holder| {
                let id = holder.id.get(..CLIENT_DIGITS).unwrap_or(&holder.id);
                named(&holder.requester).unwrap_or_else(|| id.to_owned())
            }),
            waiting: lock.waiting,
            left: Duration::from_millis(u64::try_from(until - at).unwrap_or_default()),
        }
    }

    pub(super) fn state(&self) -> &'static str {
        if self.is_kept { "kept" } else { "held" }
    }

    pub(super) fn state_text(&self, page: &Page) -> &'static str {
        match self.is_kept {
            true => page.text("kept", "유지"),
            false => page.text("held", "보유"),
        }
    }
}

impl EpisodeRow {
    pub(in crate::board) fn of(episode: &Episode, page: &Page) -> Self {
        let lasted_ms = u64::try_from(episode.to - episode.from).unwrap_or_default();
        Self {
            lock: episode.lock.clone(),
            holder: named(&episode.requester).unwrap_or_default(),
            from: DateTime::from_timestamp_millis(episode.from).unwrap_or_default(),
            lasted: Duration::from_millis(lasted_ms),
            waited: episode.waited,
            longest_wait: Duration::from_secs_f64(episode.longest_wait_ms.max(0.0) / 1000.0),
            refused: episode.refused,
            ended: match episode.ended {
                EpisodeEnd::Released => page.text("released", "해제"),
                EpisodeEnd::Kept => page.text("kept", "유지"),
                EpisodeEnd::Expired => page.text("lease over", "임대 만료"),
                EpisodeEnd::Lost => page.text("lost", "잃음"),
                EpisodeEnd::Forced => page.text("forced", "강제 해제"),
            },
        }
    }
}

impl From<&Product> for ProductRow {
    fn from(product: &Product) -> Self {
        Self {
            id: product.id,
            name: product.name.clone(),
            price: product.price,
            stock: product.stock,
            held: product.held,
            available: product.stock_levels().available(),
            version: product.version,
        }
    }
}

impl From<LedgerEntry> for EntryRow {
    fn from(entry: LedgerEntry) -> Self {
        Self {
            version: entry.version,
            reason: entry.reason.name(),
            delta: entry.delta,
            stock_after: entry.stock_after,
            caller: entry.caller.unwrap_or_default(),
            request: entry.request,
            fence: entry.fence,
            at: entry.at,
        }
    }
}

impl EntryRow {
    pub(super) fn reason_text(&self, page: &Page) -> &'static str {
        match self.reason {
            "opening" => page.text("opening", "시작 재고"),
            "created" => page.text("created", "생성"),
            "changed" => page.text("changed", "변경"),
            "purchase" => page.text("purchase", "구매"),
            "confirmed" => page.text("confirmed hold", "예약 확정"),
            "deleted" => page.text("deleted", "삭제"),
            other => other,
        }
    }
}

/// Returns the caller of a request, or its address.
fn named(requester: &Requester) -> Option<String> {
    requester
        .caller
        .clone()
        .or_else(|| requester.address.clone())
}

/// Returns a change with its sign: `+3`, `−1`, `0`.
pub(super) fn signed(change: &i64) -> String {
    match *change {
        ..=0 => grouped(change),
        rise => format!("+{}", grouped(&rise)),
    }
}

/// Returns a number with a comma between groups of three digits.
pub(super) fn grouped(number: &i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut text = String::from(if *number < 0 { "−" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Returns a duration in few digits: `0.4 ms`, `12 ms`, `3.1 s`, `4 min`.
pub(super) fn short(duration: &Duration) -> String {
    let milliseconds = duration.as_secs_f64() * 1000.0;
    match milliseconds {
        ..9.95 => format!("{milliseconds:.1} ms"),
        ..999.5 => format!("{milliseconds:.0} ms"),
        ..59_950.0 => format!("{:.1} s", milliseconds / 1000.0),
        _ => format!("{:.0} min", milliseconds / 60_000.0),
    }
}

/// Returns a time as a machine reads it.
pub(super) fn machine(time: &DateTime<Utc>) -> String {
    timestamp::format(*time)
}

/// Returns the time of day in UTC.
pub(super) fn clock(time: &DateTime<Utc>) -> String {
    time.format("%H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_durations_are_short() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1000, "1,000"),
            (-1_234_567, "−1,234,567"),
        ] {
            assert_eq!(grouped(&number), text);
        }
        for (us, text) in [
            (420, "0.4 ms"),
            (12_000, "12 ms"),
            (999_499, "999 ms"),
            (999_500, "1.0 s"),
            (59_949_000, "59.9 s"),
            (240_000_000, "4 min"),
        ] {
            assert_eq!(short(&Duration::from_micros(us)), text);
        }
        assert_eq!(
            (signed(&3), signed(&0), signed(&-1)),
            ("+3".into(), "0".into(), "−1".into())
        );
    }
}
