//! A round of the race as a chart: one row for each request, with a bar as long as its time.

use std::fmt::Write;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use reqwest::StatusCode;

use super::{RaceResult, milliseconds};

const WIDTH: usize = 40;

const TITLE: Style = Style::new().bold();
const WON: Style = AnsiColor::Green.on_default();
const REJECTED: Style = AnsiColor::Yellow.on_default();
const FAILED: Style = AnsiColor::Red.on_default();

/// Returns the chart with colours, which the output stream removes if it shows none. Names the
/// server of each request if there are several.
pub(super) fn draw(title: &str, results: &[RaceResult], servers: &[String]) -> String {
    let longest = results.iter().map(|result| result.took).max();
    let longest = longest.unwrap_or_default();
    let widest = servers.iter().map(String::len).max().unwrap_or_default();
    let mut chart = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(chart, "{TITLE}{title}{TITLE:#}");
    for (index, result) in results.iter().enumerate() {
        let (outcome, style) = match &result.status {
            Ok(status) if status.is_success() => (reason(*status), WON),
            Ok(status) => (reason(*status), REJECTED),
            Err(error) => (format!("no response: {error}"), FAILED),
        };
        let server = match servers {
            [_] => String::new(),
            _ => format!("{:widest$}  ", servers[result.server]),
        };
        let retry = result.retry_after.map_or(String::new(), |wait| {
            format!(", retry after {} s", wait.as_secs())
        });
        let _ = writeln!(
            chart,
            "  {:>3}  {server}{:>9.2} ms  {style}{}{style:#} {outcome}{retry}",
            index + 1,
            milliseconds(result.took),
            bar(result.took, longest),
        );
    }
    let _ = writeln!(chart, "       {}", summary(results));
    chart
}

fn summary(results: &[RaceResult]) -> String {
    let winners = results
        .iter()
        .enumerate()
        .filter(|(_, result)| result.won())
        .map(|(index, _)| index + 1)
        .collect::<Vec<_>>();
    match winners[..] {
        [winner] => {
            let losers = results.iter().filter(|result| !result.won());
            let slowest = losers.map(|loser| loser.took).max().unwrap_or_default();
            format!(
                "request {winner} won; {} lost, the slowest after {:.2} ms",
                results.len() - 1,
                milliseconds(slowest)
            )
        }
        [] => "no request won".to_owned(),
        _ => format!("{} requests won: {winners:?}", winners.len()),
    }
}

fn reason(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_u16())
}

fn bar(took: Duration, longest: Duration) -> String {
    let share = took.as_secs_f64() / longest.as_secs_f64().max(f64::MIN_POSITIVE);
    // Truncates to whole cells.
    let cells = ((share * WIDTH as f64) as usize).clamp(1, WIDTH);
    format!("{}{}", "█".repeat(cells), "·".repeat(WIDTH - cells))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(status: u16, milliseconds: u64) -> RaceResult {
        RaceResult {
            status: Ok(StatusCode::from_u16(status).unwrap()),
            detail: None,
            server: 0,
            took: Duration::from_millis(milliseconds),
            retry_after: (status == 429).then_some(Duration::from_secs(3)),
        }
    }

    #[test]
    fn the_chart_names_the_winner_and_the_slowest_loser() {
        let chart = draw(
            "round 1",
            &[result(429, 4), result(200, 3)],
            &["one:8000".to_owned()],
        );
        let plain = anstream::adapter::strip_str(&chart).to_string();
        assert!(plain.contains("200 OK"));
        assert!(plain.contains("429 Too Many Requests, retry after 3 s"));
        assert!(plain.contains("request 2 won; 1 lost, the slowest after 4.00 ms"));
        assert!(chart.contains("\x1b[32m█"), "{chart}");
        assert!(!plain.contains('\x1b'), "{plain}");
    }
}
