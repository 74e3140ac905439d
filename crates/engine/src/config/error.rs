//! What is wrong with a configuration: all of it at once, each fault with its place.

use std::fmt;

use super::origin::Origin;
use super::value::{clip, may_hold_secret};

/// Faults that are kept; more are counted only. A file of one megabyte can hold a hundred thousand.
pub const MAX_FAULTS: usize = 100;
/// Characters of a source line that an error shows.
const SNIPPET: usize = 100;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Fault {
    /// Where it is.
    pub origin: Origin,
    /// The key as it was given, such as `worker_pool.min_workers` or `classes[2].shares`; empty for a source as a whole.
    pub key: String,
    /// The same as a JSON pointer, `/classes/2/shares`.
    pub pointer: String,
    /// What is wrong.
    pub problem: Problem,
    /// The line of the file and the column in it.
    pub(super) snippet: Option<(String, usize)>,
}

/// What is wrong with a key or a source.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Problem {
    /// The source cannot be read at all: a folder, too large, not UTF-8, not YAML.
    Unusable {
        /// What it is, and what was expected.
        reason: String,
    },
    /// No such key, or no such environment variable.
    Unknown {
        /// The nearest that exists.
        nearest: Option<String>,
    },
    /// A key is given twice in one map.
    Duplicate {
        /// Where it was given first.
        first: Origin,
    },
    /// A value of another type or out of its range.
    Wrong {
        /// What was found.
        found: String,
        /// Why it is wrong, where that is more than its type.
        why: Option<String>,
        /// What is expected.
        expected: String,
        /// The nearest value that would be right.
        nearest: Option<String>,
    },
    /// A valid value that does not go with another one.
    Conflict {
        /// The other key and where it was set.
        other: String,
        /// Where the other was set.
        at: Origin,
        /// What does not go together.
        reason: String,
    },
    /// A change while running of what only a start can set.
    NeedsRestart {
        /// The value that holds.
        old: String,
        /// The value that was asked for.
        new: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hint = |f: &mut fmt::Formatter<'_>, nearest: &Option<String>| match nearest {
            Some(nearest) => write!(f, "; did you mean {nearest}?"),
            None => Ok(()),
        };
        match self {
            Self::Unusable { reason } => f.write_str(reason),
            Self::Unknown { nearest } => {
                f.write_str("unknown key")?;
                hint(f, nearest)
            }
            Self::Duplicate { first } => write!(f, "duplicate key, first given at {first}"),
            Self::Wrong {
                found,
                why,
                expected,
                nearest,
            } => {
                write!(f, "found {found}")?;
                if let Some(why) = why {
                    write!(f, " ({why})")?;
                }
                write!(f, ", expected {expected}")?;
                hint(f, nearest)
            }
            Self::Conflict { other, at, reason } => {
                write!(f, "{reason} ({other} is set by {at})")
            }
            Self::NeedsRestart { old, new } => write!(
                f,
                "changing {old} to {new} needs a restart; nothing was changed"
            ),
        }
    }
}

impl Fault {
    /// Says what is wrong without where: what an API puts beside the pointer.
    #[must_use]
    pub fn detail(&self) -> String {
        self.problem.to_string()
    }

    /// Puts the line of the file beside the fault.
    pub(super) fn show_source(&mut self, text: &str) {
        let Origin::File { line, column, .. } = self.origin else {
            return;
        };
        let Some(source) = line
            .checked_sub(1)
            .and_then(|before| text.lines().nth(before as usize))
        else {
            return;
        };
        // Only the part of a long line that holds the column; what stands around it may tell that a secret is shown.
        let column = column.saturating_sub(1) as usize;
        let around = column.saturating_sub(5 * SNIPPET);
        let window: String = source.chars().skip(around).take(10 * SNIPPET).collect();
        if may_hold_secret(&window) {
            return;
        }
        let skipped = column.saturating_sub(SNIPPET * 3 / 4);
        let indent = match skipped {
            0 => window.chars().take_while(|c| *c == ' ').count().min(column),
            _ => skipped,
        };
        let part: String = window
            .chars()
            .skip(indent - around)
            .take(SNIPPET + 1)
            .collect();
        let before: String = part.chars().take(column - indent).collect();
        let caret = clip(&before, SNIPPET).chars().count();
        self.snippet = Some((clip(part.trim_end(), SNIPPET), caret));
    }
}

/// Prints in one line: `flyball.yaml:12:3: worker_pool.min_worker: unknown key; did you mean min_workers?`
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.origin)?;
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        self.problem.fmt(f)
    }
}

/// Everything that is wrong with a configuration, in the order of the sources and of the lines in them; never empty.
///
/// Prints a line a fault, with the line of the file below it.
#[derive(Clone, Debug, PartialEq)]
pub struct Errors {
    faults: Vec<Fault>,
    more: usize,
}

impl Errors {
    /// Orders the faults; `None` if there are none.
    pub(super) fn of(faults: Faults) -> Option<Self> {
        let Faults { mut list, more } = faults;
        // Stable: what has no line stays in the order it was found in.
        list.sort_by_key(|fault| fault.origin.order());
        (!list.is_empty()).then_some(Errors { faults: list, more })
    }

    /// Returns the faults, at most [`MAX_FAULTS`].
    #[must_use]
    pub fn faults(&self) -> &[Fault] {
        &self.faults
    }

    /// Returns how many faults there are beyond those.
    #[must_use]
    pub fn more(&self) -> usize {
        self.more
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.faults.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            fault.fmt(f)?;
            if let Some((line, caret)) = &fault.snippet {
                write!(f, "\n  | {line}\n  | {:caret$}^", "")?;
            }
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

/// Collects faults up to the bound.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) list: Vec<Fault>,
    more: usize,
}

impl Faults {
    pub(super) fn add(&mut self, origin: Origin, path: &Path<'_>, problem: Problem) {
        if self.is_full() {
            self.more += 1;
            return;
        }
        self.push(Fault {
            origin,
            key: path.key(),
            pointer: path.pointer(),
            problem,
            snippet: None,
        });
    }

    pub(super) fn push(&mut self, fault: Fault) {
        if self.list.len() < MAX_FAULTS {
            self.list.push(fault);
        } else {
            self.more += 1;
        }
    }

    /// Whether more are counted only, so that nobody needs to look for what else to say of them.
    pub(super) fn is_full(&self) -> bool {
        self.list.len() >= MAX_FAULTS
    }

    /// How many there were, those beyond the bound included.
    pub(super) fn count(&self) -> usize {
        self.list.len() + self.more
    }

    pub(super) fn append(&mut self, other: Faults) {
        self.more += other.more;
        for fault in other.list {
            self.push(fault);
        }
    }
}

/// A way through nested maps and lists, as the walk goes it; printed only when something is wrong.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path<'a> {
    Root,
    /// A whole key, dots in it.
    Whole(&'a str),
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl Path<'_> {
    /// Prints `classes[2].shares`.
    pub(super) fn key(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Whole(key) => clip(key, 160),
            Self::Key(Self::Root, name) => clip(name, 80),
            Self::Key(parent, name) => format!("{}.{}", parent.key(), clip(name, 80)),
            Self::Item(parent, index) => format!("{}[{index}]", parent.key()),
        }
    }

    /// Prints `/classes/2/shares` (RFC 6901).
    pub(super) fn pointer(&self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Whole(key) => pointer_of(&clip(key, 160)),
            Self::Key(parent, name) => {
                let name = name.replace('~', "~0").replace('/', "~1");
                format!("{}/{}", parent.pointer(), clip(&name, 80))
            }
            Self::Item(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

/// The pointer of a key of the schema.
pub(super) fn pointer_of(key: &str) -> String {
    format!("/{}", key.replace('.', "/"))
}
