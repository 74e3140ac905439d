//! What people see: tables that fit the terminal, figures with units, words that cannot play with it.

mod figures;
mod table;

pub(crate) use figures::*;
pub(crate) use table::{Column, Table};

use std::fmt::Write as _;
use std::io::IsTerminal;

use crate::signals;

/// Whether and how wide to print on standard output.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screen {
    pub(crate) color: bool,
    /// Columns; `None` for no bound, as in a pipe.
    pub(crate) width: Option<usize>,
}

impl Screen {
    /// Standard output as it is: colour on a terminal only, unless `NO_COLOR` is set or the terminal knows none.
    pub(crate) fn of_stdout() -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = std::env::var_os("TERM").is_some_and(|kind| kind == "dumb");
        Screen {
            color: terminal && !dumb && !set("NO_COLOR"),
            width: terminal.then(signals::stdout_width).flatten(),
        }
    }

    /// Gives a text a colour, if there are colours.
    pub(crate) fn paint(self, ink: Ink, text: &str) -> String {
        match (self.color, ink) {
            (false, _) | (_, Ink::Plain) => text.to_owned(),
            (true, Ink::Strong) => format!("\x1b[1m{text}\x1b[0m"),
            (true, Ink::Good) => format!("\x1b[32m{text}\x1b[0m"),
            (true, Ink::Doubtful) => format!("\x1b[33m{text}\x1b[0m"),
            (true, Ink::Bad) => format!("\x1b[31m{text}\x1b[0m"),
        }
    }
}

/// What a text says by its colour, beside its words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ink {
    Plain,
    Strong,
    Good,
    Doubtful,
    Bad,
}

/// Makes a text from outside inert: control characters, and those that turn or hide what stands beside them, become escapes.
pub(crate) fn inert(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            _ if c.is_control() || is_invisible(c) => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            _ => out.push(c),
        }
    }
    out
}

/// As [`inert`], for texts of several lines.
pub(crate) fn inert_lines(text: &str) -> String {
    text.split('\n').map(inert).collect::<Vec<_>>().join("\n")
}

/// Marks of writing direction, zero-width characters, line separators.
fn is_invisible(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// API-6: whatever something is called, it is inert text in the terminal.
    #[test]
    fn control_characters_become_escapes() {
        assert_eq!(inert("plain – ünï 漢"), "plain – ünï 漢");
        assert_eq!(
            inert("a\x1b[2Jb\x07\u{9b}31m\n\t\r\u{202e}x\u{200b}"),
            "a\\u{1b}[2Jb\\u{7}\\u{9b}31m\\n\\t\\r\\u{202e}x\\u{200b}"
        );
        assert_eq!(inert_lines("a\x1b\nb"), "a\\u{1b}\nb");
    }
}
