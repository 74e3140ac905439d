//! What came of a proposal.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use flyball_core::time::Timestamp;

use super::{Evidence, Figure, Rank, Span};

/// Whether a proposal was applied.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// The knob has the value now.
    Applied,
    /// It has not, and why.
    Refused(Refusal),
}

/// Why a proposal was not applied. The knob is as it was.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The value is no number, or infinite.
    NotFinite,
    /// The value is outside the bounds of the knob.
    OutOfBounds {
        /// The least value of the knob.
        min: f64,
        /// The greatest.
        max: f64,
    },
    /// New bounds that are not finite, or the least above the greatest.
    BadBounds {
        /// What was asked for as the least.
        min: f64,
        /// What was asked for as the greatest.
        max: f64,
    },
    /// Somebody whose word counts more, or who came first, set the knob.
    Outranked {
        /// The rank of the one who prevailed.
        by: Rank,
        /// Its name.
        part: &'static str,
        /// When it is worth trying again: the end of the hold, or the present for the next round.
        until: Timestamp,
    },
    /// A person pinned the knob.
    Pinned {
        /// Who.
        who: String,
    },
    /// The knob has this value already.
    NoChange,
    /// It was decided, but acting on it failed, and the knob went back.
    ActFailed {
        /// What went wrong.
        why: String,
    },
}

impl Refusal {
    /// Returns a name for machines: `not_finite`, `out_of_bounds`, `bad_bounds`, `outranked`, `pinned`, `no_change`,
    /// `act_failed`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotFinite => "not_finite",
            Self::OutOfBounds { .. } => "out_of_bounds",
            Self::BadBounds { .. } => "bad_bounds",
            Self::Outranked { .. } => "outranked",
            Self::Pinned { .. } => "pinned",
            Self::NoChange => "no_change",
            Self::ActFailed { .. } => "act_failed",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFinite => f.write_str("the value is not a finite number"),
            Self::OutOfBounds { min, max } => {
                write!(f, "outside the bounds {} to {}", Figure(*min), Figure(*max))
            }
            Self::BadBounds { min, max } => {
                write!(f, "{} to {} are no bounds", Figure(*min), Figure(*max))
            }
            Self::Outranked { by, part, .. } => write!(f, "{part} prevails with rank {by}"),
            Self::Pinned { who } => write!(f, "pinned by {who}"),
            Self::NoChange => f.write_str("the knob has this value already"),
            Self::ActFailed { why } => write!(f, "acting on it failed: {why}"),
        }
    }
}

/// What was decided about a knob, when, for whom and why. Its `Display` is one line for the log.
#[derive(Clone, PartialEq, Debug)]
#[non_exhaustive]
pub struct Decision {
    /// The number of the decision: each has one, in the order in which they were made, and none is used twice.
    pub number: u64,
    /// When.
    pub at: Timestamp,
    /// Who proposed it; `pin` and `unpin` for people, `bounds` for a change of bounds.
    pub part: &'static str,
    /// The name of the knob.
    pub knob: String,
    /// The unit of its values.
    pub unit: &'static str,
    /// The value that the knob had.
    pub from: f64,
    /// The value that was asked for; the value of the knob now if the verdict is [`Verdict::Applied`].
    pub to: f64,
    /// The rank of the one who proposed it.
    pub rank: Rank,
    /// Whether it was applied, and if not, why not.
    pub verdict: Verdict,
    /// Why it was proposed, in a sentence with figures.
    pub reason: String,
    /// Those figures as data.
    pub evidence: Vec<Evidence>,
    /// Nothing that a person has to read: a refusal because nothing would change, or the same refusal of the same value
    /// by the same part as last time while the knob did not change. May be left out of logs and histories; numbers have
    /// gaps there then.
    pub quiet: bool,
}

impl Decision {
    /// Says whether it was applied.
    pub fn applied(&self) -> bool {
        self.verdict == Verdict::Applied
    }

    /// Returns why it was refused; `None` if it was applied.
    pub fn refusal(&self) -> Option<&Refusal> {
        match &self.verdict {
            Verdict::Applied => None,
            Verdict::Refused(refusal) => Some(refusal),
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "#{} {}: {} from {} to {}",
            self.number,
            self.part,
            self.knob,
            Figure(self.from),
            Figure(self.to)
        )?;
        if !self.unit.is_empty() && self.unit != self.knob {
            write!(f, " {}", self.unit)?;
        }
        if let Some(refusal) = self.refusal() {
            write!(f, " refused ({refusal}")?;
            match refusal {
                Refusal::Outranked { until, .. } if *until > self.at => {
                    write!(f, " for {} more)", Span(until.duration_since(self.at)))?;
                }
                _ => f.write_str(")")?,
            }
        }
        write!(f, ": {}", self.reason)
    }
}
