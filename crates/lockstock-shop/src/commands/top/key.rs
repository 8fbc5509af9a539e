//! The keys that have a meaning.

/// A key that the user has pressed, or a change of the terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Key {
    Character(char),
    Backspace,
    Enter,
    Escape,
    Quit,
    /// The terminal has another size.
    Resized,
}
