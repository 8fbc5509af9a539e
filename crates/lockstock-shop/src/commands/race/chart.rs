//! A round of the race as a small timeline: one lane a request, a bar as long as its wait.

use std::fmt::Write;
use std::time::Duration;

use reqwest::StatusCode;

use super::{Finish, milliseconds};

const WIDTH: usize = 40;

const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

pub(super) fn draw(title: &str, finishes: &[Finish], colour: bool) -> String {
    let paint = |colour_code: &'static str| if colour { colour_code } else { "" };
    let plain = paint(PLAIN);
    let longest = finishes.iter().map(|finish| finish.took).max();
    let longest = longest.unwrap_or_default();
    let mut picture = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(picture, "{}{title}{plain}", paint(BOLD));
    for (lane, finish) in finishes.iter().enumerate() {
        let (result, tint) = match &finish.status {
            Ok(status) if status.is_success() => (described(*status), GREEN),
            Ok(status) => (described(*status), YELLOW),
            Err(why) => (format!("no answer: {why}"), RED),
        };
        let retry = finish.retry_after.map_or(String::new(), |wait| {
            format!(", again in {} s", wait.as_secs())
        });
        let _ = writeln!(
            picture,
            "  {:>3}  {:>9.2} ms  {}{}{plain} {result}{retry}",
            lane + 1,
            milliseconds(finish.took),
            paint(tint),
            bar(finish.took, longest),
        );
    }
    let _ = writeln!(picture, "       {}", verdict(finishes));
    picture
}

fn verdict(finishes: &[Finish]) -> String {
    let winners = finishes
        .iter()
        .enumerate()
        .filter(|(_, finish)| finish.won())
        .map(|(lane, _)| lane + 1)
        .collect::<Vec<_>>();
    let losers = finishes.len() - winners.len();
    match winners[..] {
        [winner] => {
            let slowest = finishes
                .iter()
                .filter(|finish| !finish.won())
                .map(|finish| finish.took)
                .max()
                .unwrap_or_default();
            format!(
                "request {winner} won; {losers} lost, the last of them told after {:.2} ms",
                milliseconds(slowest)
            )
        }
        [] => "nobody won".to_owned(),
        _ => format!("{} won: {winners:?}", winners.len()),
    }
}

fn described(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_u16())
}

fn bar(took: Duration, longest: Duration) -> String {
    let share = took.as_secs_f64() / longest.as_secs_f64().max(f64::MIN_POSITIVE);
    // Truncation is what a bar of whole cells is.
    let cells = ((share * WIDTH as f64) as usize).clamp(1, WIDTH);
    format!("{}{}", "█".repeat(cells), "·".repeat(WIDTH - cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finish(status: u16, milliseconds: u64) -> Finish {
        Finish {
            status: Ok(StatusCode::from_u16(status).unwrap()),
            took: Duration::from_millis(milliseconds),
            retry_after: (status == 429).then_some(Duration::from_secs(3)),
        }
    }

    #[test]
    fn the_picture_names_the_winner_and_the_last_loser() {
        let picture = draw("round 1", &[finish(429, 4), finish(200, 3)], false);
        assert!(picture.contains("200 OK"));
        assert!(picture.contains("429 Too Many Requests, again in 3 s"));
        assert!(picture.contains("request 2 won; 1 lost, the last of them told after 4.00 ms"));
        assert!(
            !picture.contains('\x1b'),
            "no colours where nobody asked for them"
        );
    }
}
