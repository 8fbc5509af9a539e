//! `lockstock locks --watch`: the listing again and again. On a terminal each listing replaces
//! the one before; otherwise it follows below. While the store is down, the error takes the
//! place of the listing.

use std::io::{IsTerminal, Write, stdout};
use std::pin::pin;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use terminal_size::{Height, Width, terminal_size};
use tokio::signal::ctrl_c;
use tokio::time::sleep;

use super::Listing;
use super::table::{cut, terminal_width};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR_SCREEN: &str = "\x1b[2J";
const CURSOR_HOME: &str = "\x1b[H";
const CLEAR_TO_END_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Lists the locks every `interval` until Ctrl-C.
pub(super) async fn run(listing: &Listing, interval: Duration) -> anyhow::Result<()> {
    let is_screen = stdout().is_terminal() && !listing.json;
    let _screen = is_screen.then(Screen::open).transpose()?;
    let mut interrupted = pin!(ctrl_c());
    loop {
        let text = tokio::select! {
            biased;
            result = &mut interrupted => return Ok(result?),
            text = listing.text(terminal_width()) => text,
        };
        match text {
            Ok(text) if is_screen => draw(listing, interval, &text)?,
            Ok(text) => print(&text)?,
            Err(error) if is_screen => draw(listing, interval, &format!("{error}\n"))?,
            Err(error) => eprintln!("lockstock: {error}"),
        }
        tokio::select! {
            result = &mut interrupted => return Ok(result?),
            () = sleep(interval) => {}
        }
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn draw(listing: &Listing, interval: Duration, text: &str) -> std::io::Result<()> {
    let (Width(columns), Height(lines)) = terminal_size().unwrap_or((Width(80), Height(24)));
    let interval = humantime::format_duration(interval);
    let title = format!("{}, every {interval}. Press Ctrl-C to stop.", listing.url);
    let mut text = format!("{title}\n\n{text}");
    if AutoStream::choice(&stdout()) == ColorChoice::Never {
        text = strip_str(&text).to_string();
    }
    print_control(&frame(&text, usize::from(columns), usize::from(lines)))
}

/// Prints control sequences, which are needed also on a terminal without colours.
fn print_control(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// Returns the text that replaces the frame before. Lines are cut to the screen: a line that
/// wraps or scrolls would move all others.
fn frame(text: &str, columns: usize, lines: usize) -> String {
    let total = text.lines().count();
    let max_lines = lines.saturating_sub(1).max(1);
    let mut frame = CURSOR_HOME.to_owned();
    let shown = if total > max_lines {
        max_lines - 1
    } else {
        total
    };
    for line in text.lines().take(shown) {
        frame.push_str(&fit(line, columns));
        frame.push_str(CLEAR_TO_END_OF_LINE);
        frame.push('\n');
    }
    if shown < total {
        let more = format!("… and {} more lines", total - shown);
        frame.push_str(&cut(&more, columns));
    }
    frame.push_str(CLEAR_BELOW);
    frame
}

/// Cuts a line that is wider than the screen. A line that is cut loses its colours.
fn fit(line: &str, columns: usize) -> String {
    let plain = strip_str(line).to_string();
    let fitted = cut(&plain, columns);
    if fitted == plain {
        line.to_owned()
    } else {
        fitted
    }
}

/// A cleared screen without a cursor. Dropping it shows the cursor again.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Self> {
        print_control(&format!("{HIDE_CURSOR}{CLEAR_SCREEN}{CURSOR_HOME}"))?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print_control(&format!("\n{SHOW_CURSOR}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_fits_the_screen() {
        let text = "title\n\nNAME\n\x1b[32mheld\x1b[0m\nlong long long\nlast\n";
        let all = frame(text, 40, 24);
        assert!(all.starts_with("\x1b[Htitle\x1b[K\n\x1b[K\n"), "{all:?}");
        assert!(all.contains("\x1b[32mheld\x1b[0m\x1b[K\n"), "{all:?}");
        assert!(all.ends_with("last\x1b[K\n\x1b[J"), "{all:?}");
        let narrow = frame(text, 5, 24);
        assert!(narrow.contains("\nlong…\x1b[K"), "{narrow:?}");
        assert!(narrow.contains("\x1b[32mheld\x1b[0m"), "{narrow:?}");
        let low = frame(text, 40, 5);
        assert_eq!(low.matches('\n').count(), 3);
        assert!(low.ends_with("… and 3 more lines\x1b[J"), "{low:?}");
    }
}
