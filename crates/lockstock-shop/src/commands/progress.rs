//! Progress of a long command on standard error: a bar in a terminal, otherwise a line now and then.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

/// Pause between two lines.
const LINE_INTERVAL: Duration = Duration::from_secs(5);

const TICK: Duration = Duration::from_millis(100);

/// The progress of one phase.
pub(super) struct Progress {
    /// What the command does: "Reading".
    verb: &'static str,
    /// The size of the whole, if it is known.
    total: Option<u64>,
    display: Display,
}

enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Quiet,
}

impl Progress {
    pub(super) fn new(verb: &'static str, total: Option<u64>, quiet: bool) -> Self {
        let display = if quiet {
            Display::Quiet
        } else if stderr().is_terminal() {
            let bar = ProgressBar::new(total.unwrap_or_default());
            let template = match total {
                Some(_) => "{prefix} [{bar:40}] {percent:>3} %, {msg}",
                None => "{prefix} {spinner} {msg}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style.progress_chars("=> "));
            }
            bar.set_prefix(verb);
            bar.enable_steady_tick(TICK);
            Display::Bar(bar)
        } else {
            Display::Lines {
                last: Instant::now(),
            }
        };
        Self {
            verb,
            total,
            display,
        }
    }

    /// Shows that `rows` products are done, at `position` of the whole.
    pub(super) fn show(&mut self, position: u64, rows: u64) {
        let products = HumanCount(rows);
        match &mut self.display {
            Display::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(format!("{products} products"));
            }
            Display::Lines { last } if last.elapsed() >= LINE_INTERVAL => {
                *last = Instant::now();
                let share = self.total.filter(|total| *total > 0).map(|total| {
                    let percent = position.min(total) * 100 / total;
                    format!(" ({percent} %)")
                });
                let verb = self.verb;
                eprintln!("{verb}: {products} products{}", share.unwrap_or_default());
            }
            Display::Lines { .. } | Display::Quiet => {}
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Display::Bar(bar) = &self.display {
            bar.finish_and_clear();
        }
    }
}
