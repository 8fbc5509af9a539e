//! Locks as a table: one row for each holder, sorted by name.

use std::fmt::Write;
use std::io::{IsTerminal, stdout};
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use lockstock::{Access, HolderInfo, LockInfo, LockKind};
use terminal_size::{Width, terminal_size};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::lock_name;

const HEADINGS: [&str; 8] = [
    "NAME", "KIND", "HOLDER", "SINCE", "LEFT", "STATE", "FENCE", "WAITERS",
];
const RIGHT_ALIGNED: [bool; 8] = [false, false, false, true, true, false, true, false];
const GAP: &str = "  ";
/// Shown in a cell without a value.
const NONE: &str = "–";
/// Names are not cut below this width; on a narrower terminal the rows wrap.
const MIN_NAME_WIDTH: usize = 16;

const HEADING: Style = Style::new().bold();
const HELD: Style = AnsiColor::Green.on_default();
const KEPT: Style = AnsiColor::Yellow.on_default();
const FOREIGN: Style = AnsiColor::Red.on_default();

/// Returns the width of the terminal, or `None` if standard output is not a terminal.
pub(super) fn terminal_width() -> Option<usize> {
    let size = terminal_size().filter(|_| stdout().is_terminal());
    size.map(|(Width(columns), _)| usize::from(columns))
}

type Row = [String; 8];

/// Returns the table with colours, which the output stream removes if it shows none. Names are
/// cut so that the rows fit into `max_width` columns.
pub(super) fn draw(locks: &[LockInfo], max_width: Option<usize>) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(locks.iter().flat_map(rows_of));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    if let Some(max_width) = max_width {
        let others = widths[1..].iter().map(|width| GAP.len() + width);
        let name_width = max_width.saturating_sub(others.sum());
        widths[0] = widths[0].min(name_width.max(MIN_NAME_WIDTH));
    }
    let mut table = String::new();
    for (index, row) in rows.iter().enumerate() {
        let line = line(row, &widths, index == 0);
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

fn line(row: &Row, widths: &[usize; 8], is_heading: bool) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let cell = cut(cell, widths[column]);
        let padding = " ".repeat(widths[column] - cell.width());
        let style = match (is_heading, &*cell) {
            (true, _) => HEADING,
            (_, "held") => HELD,
            (_, "kept") => KEPT,
            (_, "foreign") if column == 2 => FOREIGN,
            _ => Style::new(),
        };
        // Writing to a String cannot fail.
        let _ = match RIGHT_ALIGNED[column] {
            true => write!(line, "{padding}{style}{cell}{style:#}{GAP}"),
            false => write!(line, "{style}{cell}{style:#}{padding}{GAP}"),
        };
    }
    line
}

fn rows_of(lock: &LockInfo) -> Vec<Row> {
    let none = || NONE.to_owned();
    let mut rows = Vec::new();
    for holder in &lock.holders {
        let since = holder.acquired_at.and_then(|since| {
            let since = lock.observed_at.duration_since(since).ok()?;
            Some(format!("{} ago", time(since)))
        });
        rows.push([
            String::new(),
            String::new(),
            holder_cell(lock.kind, holder),
            since.unwrap_or_else(none),
            holder
                .remaining
                .map_or_else(|| "no expiry".to_owned(), time),
            state(holder).to_owned(),
            holder.fence.map_or_else(none, |fence| fence.to_string()),
            String::new(),
        ]);
    }
    if rows.is_empty() {
        let mut row = [(); 8].map(|()| none());
        row[2] = "none yet".to_owned();
        rows.push(row);
    }
    // Only in the first row of the lock.
    rows[0][0] = lock_name::escape(&lock.name);
    rows[0][1] = lock.kind.to_string();
    rows[0][7] = match lock.waiters.first() {
        Some(first) => format!("{}, first for {}", lock.waiters.len(), time(first.waited)),
        None => none(),
    };
    rows
}

fn holder_cell(kind: LockKind, holder: &HolderInfo) -> String {
    let id = match holder.id.client_id() {
        Some(process) => process.to_string(),
        None => "foreign".to_owned(),
    };
    match (kind, holder.access) {
        (LockKind::ReadWrite, Access::Read) => format!("{id} reads"),
        (LockKind::ReadWrite, _) => format!("{id} writes"),
        _ if holder.permits > 1 => format!("{id} {} permits", holder.permits),
        _ => id,
    }
}

pub(super) fn state(holder: &HolderInfo) -> &'static str {
    if holder.kept { "kept" } else { "held" }
}

/// Formats a duration in its two largest units.
fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, unit: &str, small: u64, small_unit: &str| match small {
        0 => format!("{large} {unit}"),
        _ => format!("{large} {unit} {small} {small_unit}"),
    };
    match seconds {
        0 => format!("{} ms", time.as_millis()),
        1..10 => format!("{seconds}.{} s", time.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86400 => two(seconds / 3600, "h", seconds / 60 % 60, "min"),
        _ => two(seconds / 86400, "d", seconds / 3600 % 24, "h"),
    }
}

/// Cuts text that is wider than `width` columns, and marks the cut with an ellipsis.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut remaining = width.saturating_sub(1);
    let fits = |character: &char| {
        let columns = character.width().unwrap_or(0);
        let fits = columns <= remaining;
        remaining = remaining.saturating_sub(columns);
        fits
    };
    let mut cut = text.chars().take_while(fits).collect::<String>();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use anstream::adapter::strip_str;
    use lockstock::Store;

    const LEASE: Duration = Duration::from_secs(100);

    async fn locks(store: &Store) -> Vec<LockInfo> {
        store.locks().await.unwrap()
    }

    #[tokio::test]
    async fn each_holder_has_a_row_and_each_name_appears_once() {
        let store = Store::memory();
        let plain = store.lock("재고").lease(LEASE).unwrap();
        let guard = plain.acquire().await.unwrap();
        let fence = guard.fence().to_string();
        guard.keep().await.unwrap();
        let read = store.read_lock("catalog").lease(LEASE).unwrap();
        let _readers = [read.acquire().await.unwrap(), read.acquire().await.unwrap()];
        let table = strip_str(&draw(&locks(&store).await, None)).to_string();
        let lines = table.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(
            lines[0].starts_with("NAME     KIND        HOLDER"),
            "{table}"
        );
        assert!(lines[1].starts_with("catalog  read-write  "), "{table}");
        assert!(lines[1].contains(&format!("{} reads", store.client_id())));
        assert!(lines[2].starts_with("                     "), "{table}");
        // Hangul syllables are two columns wide.
        assert!(lines[3].starts_with("재고     lock        "), "{table}");
        for word in ["kept", &fence, "1 min 39 s", "ms ago", NONE] {
            assert!(lines[3].contains(word), "{word}: {table}");
        }
    }

    #[tokio::test]
    async fn long_names_are_cut_on_a_terminal_only() {
        let store = Store::memory();
        let name = "재고-".repeat(60);
        let _guard = store.lock(&name).lease(LEASE).unwrap().acquire().await;
        let locks = locks(&store).await;
        let table = draw(&locks, None);
        assert!(table.contains(&name), "{table}");
        assert!(table.contains("\x1b[32mheld\x1b[0m"), "{table}");
        for columns in [120, 121, 122, 123] {
            let table = strip_str(&draw(&locks, Some(columns))).to_string();
            assert!(table.contains('…'));
            assert!(table.lines().all(|line| line.width() <= columns), "{table}");
        }
    }

    #[test]
    fn times_are_short() {
        let times = [
            (0, "0 ms"),
            (999, "999 ms"),
            (1_250, "1.2 s"),
            (59_900, "59 s"),
            (60_000, "1 min"),
            (3_599_000, "59 min 59 s"),
            (7_260_000, "2 h 1 min"),
            (90_000_000, "1 d 1 h"),
        ];
        for (milliseconds, text) in times {
            assert_eq!(time(Duration::from_millis(milliseconds)), text);
        }
    }
}
