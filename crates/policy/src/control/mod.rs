//! Knobs, proposals, the arbiter, decisions: what stands between the controllers and what they regulate.
//!
//! A *knob* is a named, bounded number with one writer, the [`Arbiter`]. A [`Controller`] looks at a view of the world
//! on a period of its own and may propose a value for a knob. In a *round* the arbiter judges all proposals by
//! [`Rank`]: safety, then pins by people, throttle, pool, optimizer. Each proposal yields exactly one [`Decision`],
//! applied or refused, which carries its evidence; those reasons are what log, API and dashboard show.
//!
//! Why an arbiter: two controllers that write the same number fight, and afterwards nobody can say who was right. Here
//! the order is fixed, the loser is told, and a part that needs a value to last (a throttle that waits for its effect)
//! *holds* it for a while.
//!
//! # Rules
//!
//! 1. A value that is not finite or outside the knob's bounds is refused, never clamped: a controller that asks for it
//!    is wrong.
//! 2. At most one proposal is applied to a knob in a round, that of the highest rank; among equals the first.
//! 3. An applied value is held against lower ranks for [`Proposal::hold`]. Equal and higher ranks may change it, and so
//!    may the part that set it, whatever its rank. A new value replaces the old hold.
//! 4. A proposal of the value that the knob has changes nothing, and is refused as such; yet it counts: it claims the round and
//!    renews the hold as if it had been applied, for its part wants the value to stay.
//! 5. A pin by a person stands until it is taken away. Only safety may override it, and when the hold of safety ends,
//!    the pinned value comes back once, with a decision of its own.
//! 6. When acting on a decision fails, [`Arbiter::failed`] puts the knob back as it was.
//!
//! # Bounds
//!
//! [`MAX_KNOBS`] knobs, [`MAX_NAME`] bytes a knob's name, [`MAX_TEXT`] bytes a reason or a person's name,
//! [`MAX_EVIDENCE`] figures a decision, a hold of [`MAX_HOLD`]. Names beyond are refused when the knob is added; texts
//! are cut, figures beyond dropped, and holds shortened. Of what was decided the arbiter keeps the last change of each
//! knob only: whoever wants a history keeps the decisions.
//!
//! Absent on purpose: acting (the caller's), a history, the removal of knobs (parts that regulate live as long as their
//! arbiter).

mod arbiter;
mod decision;
pub mod duty;
pub mod quota;
pub mod split;
pub mod throttle;

#[cfg(test)]
mod tests;

use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::time::Duration;

use flyball_core::time::Timestamp;

pub use arbiter::{Arbiter, Hold, Knob, Pin};
pub use decision::{Decision, Refusal, Verdict};

/// How many knobs an arbiter has at most: far more than the parts of flyball need (a few for a class, of which there
/// are at most 64).
pub const MAX_KNOBS: usize = 1_024;
/// How long the name of a knob may be, in bytes.
pub const MAX_NAME: usize = 128;
/// How long a reason or the name of a person may be, in bytes; what is longer is cut.
pub const MAX_TEXT: usize = 1_024;
/// How many figures a decision carries as evidence; further ones are dropped.
pub const MAX_EVIDENCE: usize = 32;
/// The longest hold. A part that needs more renews it, so that one that died holds nothing for ever.
pub const MAX_HOLD: Duration = Duration::from_secs(3_600);

/// Says which knob; made by [`Arbiter::add_knob`], meaningful for that arbiter only.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KnobId(u16);

impl KnobId {
    /// Returns the position of the knob in [`Arbiter::knobs`].
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// What a knob is: its name, unit, bounds and meaning.
#[derive(Clone, PartialEq, Debug)]
pub struct KnobSpec {
    /// The name, unique in its arbiter: `workers`, `batch.ceiling`.
    pub name: String,
    /// The unit of its value: `workers`, `bytes/s`; empty for a bare number.
    pub unit: &'static str,
    /// The least value, finite.
    pub min: f64,
    /// The greatest value, finite, not below `min`.
    pub max: f64,
    /// One line that says what the knob does.
    pub about: &'static str,
}

/// Whose word counts more. The earlier prevails.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Rank {
    /// Keeps the program alive: out of memory, a bound that was lowered.
    Safety,
    /// A person said so.
    Pin,
    /// Keeps a measured use at its threshold.
    Throttle,
    /// Sizes a pool.
    Pool,
    /// Tries for better.
    Optimizer,
}

impl Rank {
    /// All ranks, the highest first.
    pub const ALL: [Self; 5] = [
        Self::Safety,
        Self::Pin,
        Self::Throttle,
        Self::Pool,
        Self::Optimizer,
    ];

    /// Says whether this rank prevails over `other`.
    pub fn outranks(self, other: Self) -> bool {
        self < other
    }

    /// Returns the name: `safety`, `pin`, `throttle`, `pool`, `optimizer`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Safety => "safety",
            Self::Pin => "pin",
            Self::Throttle => "throttle",
            Self::Pool => "pool",
            Self::Optimizer => "optimizer",
        }
    }
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A figure that a decision rests on.
#[derive(Clone, PartialEq, Debug)]
pub struct Evidence {
    /// What was measured: `load`, `target`.
    pub name: Cow<'static, str>,
    /// The figure.
    pub value: f64,
    /// Its unit; empty for a bare number.
    pub unit: &'static str,
}

impl Evidence {
    /// Makes a figure.
    pub fn new(name: impl Into<Cow<'static, str>>, value: f64, unit: &'static str) -> Self {
        Self {
            name: name.into(),
            value,
            unit,
        }
    }
}

/// A value that a controller wants a knob to have, and why.
#[derive(Clone, PartialEq, Debug)]
pub struct Proposal {
    /// The knob.
    pub knob: KnobId,
    /// The value, in the knob's unit.
    pub value: f64,
    /// The rank of the one who proposes.
    pub rank: Rank,
    /// The name of the one who proposes.
    pub part: &'static str,
    /// How long lower ranks may not change the value; [`MAX_HOLD`] at most.
    pub hold: Duration,
    /// A sentence that a person on call understands, with figures.
    pub reason: String,
    /// The figures of the reason as data.
    pub evidence: Vec<Evidence>,
}

/// A part that regulates something: told the time and what the world looks like, it may propose one value.
///
/// A controller MUST depend on nothing but its own state and the arguments, MUST propose only values inside the bounds
/// of its knob, and MUST NOT take a proposal for applied: whether it was shows in the next view.
pub trait Controller {
    /// What the controller looks at.
    type View;

    /// Returns its name, as decisions show it.
    fn part(&self) -> &'static str;

    /// Returns how often it wants to be asked.
    fn period(&self) -> Duration;

    /// Takes in the view at `now` and answers with what should change, if anything.
    fn step(&mut self, now: Timestamp, view: &Self::View) -> Option<Proposal>;
}

/// Writes a figure as people do: whole numbers without a point, others with two places, small ones with three figures.
pub(crate) struct Figure(pub(crate) f64);

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.0;
        let size = value.abs();
        if !value.is_finite() {
            write!(f, "{value}")
        } else if size < 1e15 && value == (value as i64) as f64 {
            write!(f, "{}", value as i64)
        } else if size < 0.01 {
            write!(f, "{value:.2e}")
        } else if size < 1e15 {
            write!(f, "{value:.2}")
        } else {
            write!(f, "{value:.3e}")
        }
    }
}

/// Writes a time span as people do: `5 s`, `1.5 s`, `250 ms`.
pub(crate) struct Span(pub(crate) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        match millis {
            0 => write!(f, "{} µs", self.0.as_micros()),
            1..1_000 => write!(f, "{millis} ms"),
            _ if millis % 1_000 < 50 || millis >= 60_000 => write!(f, "{} s", millis / 1_000),
            _ => write!(f, "{}.{} s", millis / 1_000, millis % 1_000 / 100),
        }
    }
}

/// Cuts a text to `max` bytes at a character's end, with an ellipsis to say so.
fn clip(text: &mut String, max: usize) {
    if text.len() > max {
        let mut end = max.saturating_sub('…'.len_utf8());
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
}
