//! The picture: a head, one line for each lock with its lane, a foot with the keys.

use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use super::view::{Column, Condition, Lane, Order, View};
use crate::live::wire::LockState;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const HELD: Style = AnsiColor::Green.on_default();
const KEPT: Style = AnsiColor::Yellow.on_default();
const REFUSED: Style = AnsiColor::Red.on_default();

const MAX_NAME_WIDTH: usize = 32;
const HOLDER_WIDTH: usize = 18;
/// State, rest of the lease, waiting, granted and refused, with the gaps.
const NUMBERS_WIDTH: usize = 5 + 8 + 6 + 8 + 8;
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
        let name_width = widest.unwrap_or(0).clamp(4, MAX_NAME_WIDTH);
        let others = name_width + HOLDER_WIDTH + NUMBERS_WIDTH + 3;
        let lane_width = size.width.saturating_sub(others).max(MIN_LANE_WIDTH);
        let mut picture = String::new();
        // Writing to a String cannot fail.
        let _ = writeln!(picture, "{}", self.head(lanes.len()));
        let _ = writeln!(
            picture,
            "{DIM}{:name_width$} {:HOLDER_WIDTH$} {:5}{:>8}{:>6}{:>8}{:>8}{DIM:#}",
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
        "{} {} {style}{state:5}{style:#}{left:>8}{:>6}{:>8}{:>8} ",
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

/// Cuts or fills a text to a width.
fn fit(text: &str, width: usize) -> String {
    if text.width() <= width {
        return format!("{text}{}", " ".repeat(width - text.width()));
    }
    let mut cut = String::new();
    let mut used = 0;
    for character in text.chars() {
        let next = character.width().unwrap_or(0);
        if used + next + 1 > width {
            break;
        }
        used += next;
        cut.push(character);
    }
    cut.push('…');
    cut + &" ".repeat(width.saturating_sub(used + 1))
}
