//! Looking again and again: on a terminal in one place, otherwise one below the other. A
//! store that is down for a while is said to be, and asked again.

use std::io::{IsTerminal, Write, stdout};
use std::pin::pin;
use std::time::Duration;

use terminal_size::{Height, Width, terminal_size};
use tokio::signal::ctrl_c;
use tokio::time::sleep;

use super::Shown;
use super::table::{Look, cut, time};

const HIDE_CURSOR: &str = "\x1b[?25l";
const SHOW_CURSOR: &str = "\x1b[?25h";
const CLEAR: &str = "\x1b[2J";
const TOP: &str = "\x1b[H";
const CLEAR_REST_OF_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Looks every so often until Ctrl-C.
pub(super) async fn watch(shown: &Shown, every: Duration) -> anyhow::Result<()> {
    let screen = stdout().is_terminal() && !shown.json;
    let _screen = screen.then(Screen::open).transpose()?;
    let mut ended = pin!(ctrl_c());
    loop {
        let text = tokio::select! {
            biased;
            end = &mut ended => return Ok(end?),
            text = shown.text(Look::of(screen)) => text,
        };
        match text {
            Ok(text) if screen => draw(shown, every, &text)?,
            Ok(text) => print(&text)?,
            Err(why) if screen => draw(shown, every, &format!("{why}\n"))?,
            Err(why) => eprintln!("lockstock: {why}"),
        }
        tokio::select! {
            end = &mut ended => return Ok(end?),
            () = sleep(every) => {}
        }
    }
}

fn print(text: &str) -> std::io::Result<()> {
    let mut out = stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

fn draw(shown: &Shown, every: Duration, text: &str) -> std::io::Result<()> {
    let (Width(columns), Height(lines)) = terminal_size().unwrap_or((Width(80), Height(24)));
    let title = format!("{}, every {}. Ctrl-C ends it.", shown.place, time(every));
    let text = format!("{title}\n\n{text}");
    print(&frame(&text, usize::from(columns), usize::from(lines)))
}

/// The text over what stood there before, cut to the size of the screen: a line that wraps or
/// scrolls would spoil the place of all others.
fn frame(text: &str, columns: usize, lines: usize) -> String {
    let all = text.lines().count();
    let most = lines.saturating_sub(1).max(1);
    let mut frame = TOP.to_owned();
    let shown = if all > most { most - 1 } else { all };
    for line in text.lines().take(shown) {
        frame.push_str(&fitted(line, columns));
        frame.push_str(CLEAR_REST_OF_LINE);
        frame.push('\n');
    }
    if shown < all {
        let more = format!("… and {} more lines", all - shown);
        frame.push_str(&cut(&more, columns));
    }
    frame.push_str(CLEAR_BELOW);
    frame
}

/// A line with colours is as wide as without.
fn fitted(line: &str, columns: usize) -> String {
    let mut plain = String::new();
    for (n, part) in line.split('\x1b').enumerate() {
        let part = match n {
            0 => part,
            _ => part.split_once('m').map_or("", |(_, text)| text),
        };
        plain.push_str(part);
    }
    let fitted = cut(&plain, columns);
    if fitted == plain {
        line.to_owned()
    } else {
        fitted
    }
}

/// A screen to draw on; dropped, the terminal is as before.
struct Screen;

impl Screen {
    fn open() -> std::io::Result<Self> {
        print(&format!("{HIDE_CURSOR}{CLEAR}{TOP}"))?;
        Ok(Self)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = print(&format!("\n{SHOW_CURSOR}"));
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
