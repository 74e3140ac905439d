//! The names of the algorithms.

use core::fmt;
use core::str::FromStr;

use crate::Error;

/// How the scheduler chooses among classes. Can be changed at any time.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Algorithm {
    /// Classes in turn, equal slices.
    RoundRobin,
    /// Strict levels with ageing.
    Priority,
    /// Weighted virtual time with eligibility and virtual deadlines.
    #[default]
    Cfs,
    /// Shares, guarantees and ceilings; the earliest deadline first among the eligible.
    ProportionalShare,
}

impl Algorithm {
    /// All algorithms.
    pub const ALL: [Self; 4] = [
        Self::RoundRobin,
        Self::Priority,
        Self::Cfs,
        Self::ProportionalShare,
    ];

    /// Returns the name that configuration uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::Priority => "priority",
            Self::Cfs => "cfs",
            Self::ProportionalShare => "proportional_share",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Algorithm {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.name() == text)
            .ok_or_else(|| Error::UnknownAlgorithm {
                given: text.into(),
                known: "round_robin, priority, cfs, proportional_share",
            })
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;

    #[test]
    fn names_read_as_they_print() {
        for algorithm in Algorithm::ALL {
            assert_eq!(algorithm.to_string().parse(), Ok(algorithm));
        }
        let error = "fifo".parse::<Algorithm>().unwrap_err().to_string();
        assert!(
            Algorithm::ALL
                .iter()
                .all(|known| error.contains(known.name())),
            "{error}"
        );
    }
}
