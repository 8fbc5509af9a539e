//! Locks as a table: one row a holder, the names in order.

use std::fmt::Write;
use std::time::Duration;

use lockstock::{Access, HolderInfo, LockInfo, LockKind};
use terminal_size::{Width, terminal_size};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::cli::lock_name as name;

const HEADINGS: [&str; 8] = [
    "NAME", "KIND", "HOLDER", "SINCE", "LEFT", "STATE", "FENCE", "WAITERS",
];
/// The columns of numbers.
const RIGHT: [bool; 8] = [false, false, false, true, true, false, true, false];
const GAP: &str = "  ";
/// What there is nothing to say of.
const NONE: &str = "–";
/// A name is cut no shorter than this: rather the rows wrap.
const SHORTEST_NAME: usize = 16;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// How it is drawn.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Look {
    pub(super) colour: bool,
    /// Names are cut to fit into so many columns.
    pub(super) width: Option<usize>,
}

impl Look {
    /// As a terminal can show it, or as a file should have it.
    pub(super) fn of(terminal: bool) -> Self {
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self {
            colour: terminal && !no_colour,
            width: terminal_size()
                .filter(|_| terminal)
                .map(|(Width(columns), _)| usize::from(columns)),
        }
    }
}

type Row = [String; 8];

pub(super) fn draw(locks: &[LockInfo], look: Look) -> String {
    let mut rows = vec![HEADINGS.map(str::to_owned)];
    rows.extend(locks.iter().flat_map(rows_of));
    let mut widths = [0; 8];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.width().max(*width);
        }
    }
    if let Some(columns) = look.width {
        let others = widths[1..].iter().map(|width| GAP.len() + width);
        let room = columns.saturating_sub(others.sum());
        widths[0] = widths[0].min(room.max(SHORTEST_NAME));
    }
    let mut table = String::new();
    for (n, row) in rows.iter().enumerate() {
        let line = line(row, &widths, n == 0, look.colour);
        table.push_str(line.trim_end());
        table.push('\n');
    }
    table
}

fn line(row: &Row, widths: &[usize; 8], heading: bool, colour: bool) -> String {
    let mut line = String::new();
    for (column, cell) in row.iter().enumerate() {
        let cell = cut(cell, widths[column]);
        let padding = " ".repeat(widths[column] - cell.width());
        let tint = match (heading, &*cell) {
            _ if !colour => "",
            (true, _) => BOLD,
            (_, "held") => GREEN,
            (_, "kept") => YELLOW,
            (_, "foreign") if column == 2 => RED,
            _ => "",
        };
        let plain = if tint.is_empty() { "" } else { PLAIN };
        // Writing to a String cannot fail.
        let _ = match RIGHT[column] {
            true => write!(line, "{padding}{tint}{cell}{plain}{GAP}"),
            false => write!(line, "{tint}{cell}{plain}{padding}{GAP}"),
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
            who(lock.kind, holder),
            since.unwrap_or_else(none),
            holder.remaining.map_or_else(|| "no end".to_owned(), time),
            state(holder).to_owned(),
            holder.fence.map_or_else(none, |fence| fence.to_string()),
            String::new(),
        ]);
    }
    if rows.is_empty() {
        let mut row = [(); 8].map(|()| none());
        row[2] = "nobody yet".to_owned();
        rows.push(row);
    }
    // Once for all of its holders.
    rows[0][0] = name::shown(&lock.name);
    rows[0][1] = lock.kind.to_string();
    rows[0][7] = match lock.waiters.first() {
        Some(first) => format!("{}, first for {}", lock.waiters.len(), time(first.waited)),
        None => none(),
    };
    rows
}

fn who(kind: LockKind, holder: &HolderInfo) -> String {
    let who = match holder.id.client_id() {
        Some(process) => process.to_string(),
        None => "foreign".to_owned(),
    };
    match (kind, holder.access) {
        (LockKind::ReadWrite, Access::Read) => format!("{who} reads"),
        (LockKind::ReadWrite, _) => format!("{who} writes"),
        _ => who,
    }
}

pub(super) fn state(holder: &HolderInfo) -> &'static str {
    if holder.kept { "kept" } else { "held" }
}

/// A length of time in the two units that matter.
pub(super) fn time(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, name: &str, small: u64, other: &str| match small {
        0 => format!("{large} {name}"),
        _ => format!("{large} {name} {small} {other}"),
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

/// Cuts what is too wide, and shows that it did.
pub(super) fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut room = width.saturating_sub(1);
    let fits = |character: &char| {
        let wide = character.width().unwrap_or(0);
        let fits = wide <= room;
        room = room.saturating_sub(wide);
        fits
    };
    let mut cut = text.chars().take_while(fits).collect::<String>();
    cut.push('…');
    cut
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstock::Store;

    const LEASE: Duration = Duration::from_secs(100);

    async fn locks(store: &Store) -> Vec<LockInfo> {
        store.locks().await.unwrap()
    }

    #[tokio::test]
    async fn each_holder_has_a_row_and_each_name_stands_once() {
        let store = Store::memory();
        let plain = store.lock("재고").lease(LEASE).unwrap();
        let guard = plain.acquire().await.unwrap();
        let fence = guard.fence().to_string();
        guard.keep().await.unwrap();
        let read = store.read_lock("catalog").lease(LEASE).unwrap();
        let _readers = [read.acquire().await.unwrap(), read.acquire().await.unwrap()];
        let table = draw(&locks(&store).await, Look::default());
        let lines = table.lines().collect::<Vec<_>>();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(
            lines[0].starts_with("NAME     KIND        HOLDER"),
            "{table}"
        );
        assert!(lines[1].starts_with("catalog  read-write  "), "{table}");
        assert!(lines[1].contains(&format!("{} reads", store.client_id())));
        assert!(lines[2].starts_with("                     "), "{table}");
        // Two columns a syllable.
        assert!(lines[3].starts_with("재고     lock        "), "{table}");
        for word in ["kept", &fence, "1 min 39 s", "ms ago", NONE] {
            assert!(lines[3].contains(word), "{word}: {table}");
        }
        assert!(!table.contains('\x1b'));
    }

    #[tokio::test]
    async fn long_names_are_cut_on_a_terminal_only() {
        let store = Store::memory();
        let name = "재고-".repeat(60);
        let _guard = store.lock(&name).lease(LEASE).unwrap().acquire().await;
        let locks = locks(&store).await;
        assert!(draw(&locks, Look::default()).contains(&name));
        for columns in [120, 121, 122, 123] {
            let look = Look {
                colour: false,
                width: Some(columns),
            };
            let table = draw(&locks, look);
            assert!(table.contains('…'));
            assert!(table.lines().all(|line| line.width() <= columns), "{table}");
        }
        let look = Look {
            colour: true,
            width: None,
        };
        let table = draw(&locks, look);
        assert!(table.contains("\x1b[32mheld\x1b[0m"), "{table}");
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
