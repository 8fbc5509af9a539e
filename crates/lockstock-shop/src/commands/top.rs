//! `lockstock top`: who holds, keeps and waits for the locks, as the live events of a server report it.

mod key;
mod picture;
mod stream;
mod terminal;
mod view;

use std::io::{IsTerminal, Write, stdin, stdout};
use std::slice;
use std::time::Duration;

use clap::Args;
use lockstock::redact_url;
use reqwest::Url;
use terminal_size::{Width, terminal_size};
use tokio::time::{Instant, interval, sleep};

use self::key::Key;
use self::picture::Size;
use self::stream::{Events, Update};
use self::terminal::Terminal;
use self::view::View;
use super::api_client::{SecretArgs, base_url, client_builder};

/// Time between two pictures, and that each column of a lane stands for.
const COLUMN: Duration = Duration::from_millis(500);
/// Pause before another attempt to open the stream.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Width of a picture that is not for a terminal.
const DEFAULT_WIDTH: usize = 100;

pub(crate) const HELP: &str = "\
Each lane shows the last seconds of a lock, the newest at the right: # held, = kept, x a request was
refused. The columns after it are the requests that wait, and in the last second those that got the
lock and those that were refused.

Keys: s sorts by another column, / filters by name, w hides locks without waiters, p pauses, q quits.

Examples:
  lockstock top
  lockstock top --url https://shop.example.com --secret-file reader.key
  lockstock top --once | grep product-update-lock-42";

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// URL of the server. It also reports the locks of the others that share its Redis
    #[arg(
        long,
        env = "LOCKSTOCK_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8000"
    )]
    url: String,

    #[command(flatten)]
    secret: SecretArgs,

    /// Only locks whose names contain this text
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    filter: String,

    /// Print one picture and exit
    #[arg(long)]
    once: bool,
}

/// Draws the locks until the user quits, or once.
pub(crate) async fn run(args: TopArgs) -> anyhow::Result<()> {
    let base = base_url(&args.url)?;
    let client = client_builder(slice::from_ref(&base))
        .default_headers(args.secret.headers()?)
        .build()?;
    let mut view = View::new(redact_url(&args.url), args.filter);
    let mut events = Events::open(&client, &base, None).await?;
    if args.once || !stdout().is_terminal() || !stdin().is_terminal() {
        view.apply(events.next().await?);
        let columns = terminal_size().map(|(Width(columns), _)| usize::from(columns));
        let width = columns
            .filter(|_| stdout().is_terminal())
            .unwrap_or(DEFAULT_WIDTH);
        let picture = view.picture(Size {
            width,
            height: None,
        });
        let mut out = anstream::stdout();
        return Ok(out.write_all(picture.as_bytes())?);
    }
    watch(view, events, &client, &base).await
}

async fn watch(
    mut view: View,
    events: Events,
    client: &reqwest::Client,
    base: &Url,
) -> anyhow::Result<()> {
    let mut terminal = Terminal::open()?;
    let mut columns = interval(COLUMN);
    let mut events = Some(events);
    let mut retry_at = Instant::now();
    loop {
        let is_wanted = events.is_none() && !view.is_paused();
        tokio::select! {
            key = terminal.key() => match key {
                Some(Key::Quit) | None => return Ok(()),
                Some(key) => {
                    view.press(key);
                    if view.is_paused() {
                        events = None;
                        retry_at = Instant::now();
                    }
                }
            },
            update = next(&mut events) => match update {
                Ok(Update::Bye) => {
                    events = None;
                    view.disconnected("the server is shutting down");
                    retry_at = Instant::now() + RETRY_PAUSE;
                }
                Ok(update) => view.apply(update),
                Err(error) => {
                    events = None;
                    view.disconnected(&error.to_string());
                    retry_at = Instant::now() + RETRY_PAUSE;
                }
            },
            opened = reopen(client, base, view.last_event_id(), retry_at, is_wanted) => {
                match opened {
                    Ok(opened) => events = Some(opened),
                    Err(error) => {
                        view.disconnected(&error.to_string());
                        retry_at = Instant::now() + RETRY_PAUSE;
                    }
                }
            },
            _ = columns.tick() => view.advance(),
        }
        terminal.draw(&view)?;
    }
}

async fn next(events: &mut Option<Events>) -> anyhow::Result<Update> {
    match events {
        Some(events) => events.next().await,
        None => std::future::pending().await,
    }
}

/// Opens the stream again at `retry_at`, if that is wanted.
async fn reopen(
    client: &reqwest::Client,
    base: &Url,
    last_event_id: Option<String>,
    retry_at: Instant,
    is_wanted: bool,
) -> anyhow::Result<Events> {
    if !is_wanted {
        std::future::pending::<()>().await;
    }
    sleep(retry_at.saturating_duration_since(Instant::now())).await;
    Events::open(client, base, last_event_id.as_deref()).await
}
