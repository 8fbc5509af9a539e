//! The terminal: keys, and a screen of its own while the command runs.

use std::io::{Write, stdout};
use std::thread;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use crossterm::terminal::{
    BeginSynchronizedUpdate, Clear, ClearType, EndSynchronizedUpdate, EnterAlternateScreen,
    LeaveAlternateScreen, disable_raw_mode, enable_raw_mode, size,
};
use crossterm::{cursor, execute, queue, style};
use tokio::sync::mpsc;

use super::key::Key;
use super::picture::Size;
use super::view::View;

/// How often the thread that reads keys looks whether the command has ended.
const POLL: Duration = Duration::from_millis(200);

/// The screen. The one before is back when it is dropped.
pub(super) struct Terminal {
    keys: mpsc::Receiver<Key>,
    is_typing: bool,
}

impl Terminal {
    pub(super) fn open() -> anyhow::Result<Self> {
        enable_raw_mode()?;
        let (sender, keys) = mpsc::channel(16);
        // First, so that a failure leaves the raw mode.
        let terminal = Self {
            keys,
            is_typing: false,
        };
        execute!(stdout(), EnterAlternateScreen, cursor::Hide)?;
        thread::spawn(move || read_keys(&sender));
        Ok(terminal)
    }

    /// Waits for a key. `None`: the terminal is gone.
    pub(super) async fn key(&mut self) -> Option<Key> {
        let key = self.keys.recv().await?;
        Some(match key {
            Key::Character('q') if !self.is_typing => Key::Quit,
            key => key,
        })
    }

    pub(super) fn draw(&mut self, view: &View) -> anyhow::Result<()> {
        self.is_typing = view.is_typing;
        let (width, height) = match size()? {
            (0, _) | (_, 0) => (80, 24),
            known => known,
        };
        let mut picture = view.picture(Size {
            width: width.into(),
            height: Some(height.into()),
        });
        if AutoStream::choice(&stdout()) == ColorChoice::Never {
            picture = strip_str(&picture).to_string();
        }
        let mut out = stdout().lock();
        queue!(out, BeginSynchronizedUpdate, cursor::MoveTo(0, 0))?;
        for line in picture.lines() {
            queue!(
                out,
                style::Print(line),
                Clear(ClearType::UntilNewLine),
                cursor::MoveToNextLine(1)
            )?;
        }
        queue!(out, Clear(ClearType::FromCursorDown), EndSynchronizedUpdate)?;
        Ok(out.flush()?)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Nothing more can be done for a terminal that is gone.
        let _ = execute!(stdout(), cursor::Show, LeaveAlternateScreen);
        let _ = disable_raw_mode();
    }
}

/// Reads keys until the command or the terminal ends.
fn read_keys(keys: &mpsc::Sender<Key>) {
    while !keys.is_closed() {
        let key = match event::poll(POLL) {
            Ok(false) => continue,
            Ok(true) => match event::read() {
                Ok(event) => key_of(&event),
                Err(_) => return,
            },
            Err(_) => return,
        };
        if let Some(key) = key
            && keys.blocking_send(key).is_err()
        {
            return;
        }
    }
}

fn key_of(event: &Event) -> Option<Key> {
    let key = match event {
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        Event::Resize(..) => return Some(Key::Resized),
        _ => return None,
    };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if is_control => Key::Quit,
        KeyCode::Char(character) => Key::Character(character),
        KeyCode::Backspace => Key::Backspace,
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        _ => return None,
    })
}
