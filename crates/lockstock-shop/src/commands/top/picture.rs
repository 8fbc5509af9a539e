//! The picture: a head, one line for each lock with its lane, a foot with the keys.

use std::fmt::Write;
use std::ops::RangeInclusive;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use unicode_width::UnicodeWidthStr;

use super::view::{Column, Condition, Lane, Order, View};
use crate::live::wire::LockState;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const HELD: Style = AnsiColor::Green.on_default();
const KEPT: Style = AnsiColor::Yellow.on_default();
const REFUSED: Style = AnsiColor::Red.on_default();

const NAME_WIDTH: RangeInclusive<usize> = 8..=32;
/// As wide as an IPv4 address.
const HOLDER_WIDTH: usize = 15;
/// State, rest of the lease, waiting, granted and refused, with the gaps.
const NUMBERS_WIDTH: usize = 5 + 7 + 5 + 8 + 8;
const MIN_LANE_WIDTH: usize = 8;

/// Where the picture has to fit in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Size {
    pub(super) width: usize,
    /// `None` for a picture of any height.
    pub(super) height: Option<usize>,
}

impl View {
    /// Returns the picture with colours, which the output stream removes if it shows none.
    pub(super) fn picture(&self, size: Size) -> String {
        let lanes = self.shown();
        let widest = lanes.iter().map(|lane| lane.status.name.width()).max();
        let room = size.width.saturating_sub(HOLDER_WIDTH + NUMBERS_WIDTH + 3);
        let max_name_width = room.saturating_sub(MIN_LANE_WIDTH).max(*NAME_WIDTH.start());
        let name_width = widest.unwrap_or(0);
        let name_width = name_width.clamp(*NAME_WIDTH.start(), *NAME_WIDTH.end());
        let name_width = name_width.min(max_name_width);
        let lane_width = room.saturating_sub(name_width).max(MIN_LANE_WIDTH);
        let mut picture = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(picture, "{}", self.head(lanes.len()));
        let _ = writeln!(
            picture,
            "{DIM}{:name_width$} {:HOLDER_WIDTH$} {:5}{:>7}{:>5}{:>8}{:>8}{DIM:#}",
            "LOCK", "HOLDER", "STATE", "LEFT", "WAIT", "GRANT/S", "REFUS/S"
        );
        let room = size
            .height
            .map_or(usize::MAX, |height| height.saturating_sub(4).max(1));
        for lane in lanes.iter().take(room) {
            picture.push_str(&line(lane, name_width, lane_width));
            picture.push('\n');
        }
        if lanes.is_empty() {
            picture.push_str(match self.filter.is_empty() {
                true => "No lock is held, kept or waited for.\n",
                false => "No such lock is held, kept or waited for.\n",
            });
        }
        if lanes.len() > room {
            let _ = writeln!(picture, "{DIM}… and {} more{DIM:#}", lanes.len() - room);
        }
        if size.height.is_some() {
            picture.push_str(&self.foot());
        }
        picture
    }

    fn head(&self, count: usize) -> String {
        let (state, style) = match &self.condition {
            Condition::Live => ("live".to_owned(), HELD),
            Condition::Connecting => ("connecting".to_owned(), KEPT),
            Condition::Paused => ("paused".to_owned(), KEPT),
            Condition::Disconnected(reason) => {
                (format!("reconnecting, frozen ({reason})"), REFUSED)
            }
        };
        let plural = |count: usize, noun: &str| match count {
            1 => format!("1 {noun}"),
            _ => format!("{count} {noun}s"),
        };
        let mut head = format!(
            "{BOLD}{}{BOLD:#}  {style}{state}{style:#}  {}, {}",
            self.url,
            plural(count, "lock"),
            plural(self.servers.len(), "server"),
        );
        if !self.is_complete {
            head.push_str(
                "  (only the locks of these servers: the store was not searched in full)",
            );
        }
        head
    }

    fn foot(&self) -> String {
        let order = match self.order {
            Order::Name => "name",
            Order::Waiting => "waiting",
            Order::Refused => "refused",
            Order::Granted => "granted",
        };
        if self.is_typing {
            return format!(
                "filter: {}_   Enter keeps it, Escape clears it",
                self.filter
            );
        }
        let filter = match &*self.filter {
            "" => String::new(),
            filter => format!(" [{filter}]"),
        };
        let waiting = if self.only_waiting { " [only]" } else { "" };
        format!(
            "{DIM}s sort [{order}]  / filter{filter}  w with waiters{waiting}  p pause  q quit{DIM:#}"
        )
    }
}

fn line(lane: &Lane, name_width: usize, lane_width: usize) -> String {
    let status = &lane.status;
    let (state, style) = match status.state {
        LockState::Held => ("held", HELD),
        LockState::Kept => ("kept", KEPT),
        LockState::Free => ("free", DIM),
    };
    let left = lane.remaining().map_or(String::new(), seconds);
    let count = |count: u32| match count {
        0 => String::new(),
        count => count.to_string(),
    };
    let mut line = format!(
        "{} {} {style}{state:5}{style:#}{left:>7}{:>5}{:>8}{:>8} ",
        fit(&printable(&status.name), name_width),
        fit(&printable(&holder(lane)), HOLDER_WIDTH),
        count(lane.waiting()),
        count(Lane::per_second(&lane.granted)),
        count(Lane::per_second(&lane.refused)),
    );
    let columns = lane.columns.len().min(lane_width);
    line.push_str(&" ".repeat(lane_width - columns));
    for column in lane.columns.iter().skip(lane.columns.len() - columns) {
        let (mark, style) = match column {
            Column::Free => ('.', DIM),
            Column::Held => ('#', HELD),
            Column::Kept => ('=', KEPT),
            Column::Refused => ('x', REFUSED),
        };
        let _ = write!(line, "{style}{mark}{style:#}");
    }
    line.trim_end().to_owned()
}

/// Returns the caller that holds a lock, or else its address or server.
fn holder(lane: &Lane) -> String {
    let Some(holder) = &lane.status.holder else {
        return String::new();
    };
    let requester = &holder.requester;
    let server = holder.server.clone();
    let known = requester.caller.clone().or(requester.address.clone());
    known
        .or(server)
        .unwrap_or_else(|| "another program".to_owned())
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

/// Replaces characters that a terminal would carry out.
fn printable(text: &str) -> String {
    text.chars()
        .map(|character| match character.is_control() {
            true => '?',
            false => character,
        })
        .collect()
}

/// Fills a text to a width, or cuts its beginning: names differ at the end.
fn fit(text: &str, width: usize) -> String {
    let mut cut = text;
    let is_cut = text.width() > width;
    while is_cut && cut.width() + 1 > width {
        let mut characters = cut.chars();
        characters.next();
        cut = characters.as_str();
    }
    let mark = if is_cut { "…" } else { "" };
    let fitted = format!("{mark}{cut}");
    let space = " ".repeat(width.saturating_sub(fitted.width()));
    fitted + &space
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_too_long_keeps_its_end() {
        assert_eq!(fit("lock-7", 8), "lock-7  ");
        assert_eq!(fit("product-update-lock-42", 8), "…lock-42");
        // A character of two columns.
        assert_eq!(fit("재고7", 4), "…고7");
        assert_eq!(fit("재고재고", 4), "…고 ");
    }

    #[test]
    fn control_characters_are_not_printed() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a?[2Jb");
    }
}
